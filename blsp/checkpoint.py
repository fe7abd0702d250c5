"""What a checkpoint folder holds and when it may be trusted: files only, no model.

A checkpoint is a *delta*: the trained tensors, beside the processor and a configuration that says
which base weights they belong to. Its marker file `complete` is written last; a folder without it
was cut short and is refused. Base weights are known by a fingerprint, a hash over names, shapes and
a sample of every tensor: seconds for any size, the same for any file layout or wider float type,
and different for any other training of the same architecture. It is no proof against forgery.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blsp.errors import InputError
from blsp.files import atomic_path

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 1
DELTA = "delta.safetensors"
MARKER = "complete"

_SAMPLED_ROWS = 8
_SAMPLED_COLUMNS = 256


def is_delta(folder: Path) -> bool:
    """Whether the folder is, or was to become, one of our checkpoints."""
    return (folder / DELTA).is_file() or (folder / MARKER).is_file()


def write_delta(folder: Path, tensors: dict[str, "Tensor"]) -> None:
    """Write the trained tensors; any earlier marker is removed first."""
    from safetensors.torch import save_file

    (folder / MARKER).unlink(missing_ok=True)
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(folder / DELTA) as temporary:
        save_file(stored, temporary, metadata={"format": "pt"})


def mark_complete(folder: Path) -> None:
    """Declare the folder whole; call it after everything else has been written."""
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    content = {"format_version": FORMAT_VERSION, "files": sizes}
    with atomic_path(folder / MARKER) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def is_complete(folder: Path) -> bool:
    """Whether the marker is there; says nothing about what it marks."""
    return (folder / MARKER).is_file()


def check_complete(folder: Path) -> None:
    """Refuse a folder that is cut short, was damaged by copying, or is of a newer format.

    Raises:
        InputError: one line with the folder and what to do.
    """
    marker = folder / MARKER
    if not marker.is_file():
        raise InputError(
            f"{folder}: expected a finished checkpoint, found no file {MARKER!r}: writing or "
            "copying it was cut short; use an earlier one"
        )
    content = _read_marker(marker)
    if content["format_version"] > FORMAT_VERSION:
        raise InputError(
            f"{folder}: expected checkpoint format {FORMAT_VERSION} or older, found "
            f"{content['format_version']}; update blsp"
        )
    for name, size in content["files"].items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else None
        if name in (DELTA, "config.json") and found != size:
            raise InputError(
                f"{folder / name}: expected {size} bytes, found {found or 'no file'}; copy it again"
            )


def _read_marker(marker: Path) -> dict[str, Any]:
    try:
        content = json.loads(marker.read_text(encoding="utf-8"))
        return {"format_version": int(content["format_version"]), "files": dict(content["files"])}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{marker}: expected the marker of a checkpoint, found other text; copy it again"
        ) from error


def read_delta(folder: Path) -> dict[str, "Tensor"]:
    """The trained tensors of a complete checkpoint."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_complete(folder)
    try:
        return load_file(folder / DELTA)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{folder / DELTA}: expected trained weights, found an unreadable file ({error}); "
            "copy it again"
        ) from error


# --- fingerprints ---------------------------------------------------------------------------------


def fingerprint_tensors(tensors: Iterable[tuple[str, Any]]) -> str:
    """Hash names, shapes and a sample of the values.

    Args:
        tensors: (name, tensor or safetensors slice), sorted by name.
    """
    digest = hashlib.sha256()
    for name, tensor in tensors:
        shape = list(tensor.get_shape() if hasattr(tensor, "get_shape") else tensor.shape)
        digest.update(f"{name}{shape}".encode())
        digest.update(_sample(tensor, shape))
    return f"sha256:{digest.hexdigest()}"


def _sample(tensor: Any, shape: list[int]) -> bytes:
    """Bytes of evenly spaced rows, as 32-bit floats so that the stored type does not matter."""
    import torch

    if not shape:
        parts = [tensor[...].reshape(1)]
    elif len(shape) == 1:
        parts = [tensor[: _SAMPLED_ROWS * _SAMPLED_COLUMNS]]
    else:
        count = min(_SAMPLED_ROWS, shape[0])
        starts = [shape[0] * index // count for index in range(count)]
        parts = [tensor[start : start + 1].reshape(-1)[:_SAMPLED_COLUMNS] for start in starts]
    values = torch.cat([part.detach().cpu() for part in parts])
    values = values.float() if values.is_floating_point() else values.long()
    return values.numpy().tobytes()


def fingerprint_folder(folder: Path) -> str:
    """Fingerprint the weight files of a model folder.

    Raises:
        InputError: there are none.
    """
    return fingerprint_tensors(stored_tensors(folder))


def stored_tensors(folder: Path) -> Iterator[tuple[str, Any]]:
    """Name and content of every tensor in a model folder's weight files, sorted by name.

    The content is a tensor or a safetensors slice; ``content[...]`` is the tensor of either.
    """
    homes = {name: path for path in _weight_files(folder) for name in _names(path)}
    opened: dict[Path, Any] = {}
    for name in sorted(homes):
        path = homes[name]
        if path not in opened:
            opened[path] = _open(path)
        stored = opened[path]
        yield name, stored[name] if isinstance(stored, dict) else stored.get_slice(name)


def _weight_files(folder: Path) -> list[Path]:
    for index, single in (
        ("model.safetensors.index.json", "model.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model.bin"),
    ):
        if (folder / index).is_file():
            table = json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"]
            return [folder / name for name in sorted(set(table.values()))]
        if (folder / single).is_file():
            return [folder / single]
    raise InputError(
        f"{folder}: expected model.safetensors or pytorch_model.bin, found neither; check the path"
    )


def _open(path: Path) -> Any:
    import torch
    from safetensors import safe_open

    if path.suffix == ".safetensors":
        return safe_open(path, framework="pt")
    return torch.load(path, map_location="cpu", mmap=True, weights_only=True)


def _names(path: Path) -> list[str]:
    stored = _open(path)
    return list(stored.keys())
