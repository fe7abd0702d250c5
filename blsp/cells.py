"""One recording as a row of a data set holds it, in any of the shapes there are, becomes a file.

The library of the hub has written rows as bytes and path, as samples and rate, and as decoders;
others as a plain path or plain bytes. Bytes are written as they are, under an ending that says what
they are; samples as floats, since this is no place to lose anything. A cell enters; the path of a
file leaves, or why there is none.
"""

import io
from pathlib import Path
from typing import Any, NamedTuple

from blsp.files import atomic_path

_MAGIC = {b"RIFF": ".wav", b"RIFX": ".wav", b"RF64": ".wav", b"fLaC": ".flac", b"ID3": ".mp3"}


class Missing(NamedTuple):
    """Why a cell gives no file."""

    reason: str
    which: str
    """What follows the place of the row."""


def store_cell(cell: Any, stem: Path, here: Path | None) -> Path | Missing:
    """Write the audio of a cell unless it is there; a file of its size is the one.

    Args:
        cell: bytes, a path, a struct of both, samples and rate, or a decoder of torchcodec.
        stem: the file without its ending.
        here: folder that paths in cells are relative to; None where they are those of a hub.
    """
    path = cell.get("path") if isinstance(cell, dict) else cell
    path = path if isinstance(path, str) else ""
    data = find_bytes(cell)
    if data is None and path:
        data = _read_path(path, here)
        if data is None:
            return Missing("no audio file", f": {path}")
    if not data:
        return Missing("no audio", "")
    target = stem.with_name(stem.name + find_suffix(data, path))
    if not target.exists() or target.stat().st_size != len(data):
        with atomic_path(target) as temporary:
            temporary.write_bytes(data)
    return target


def find_bytes(cell: Any) -> bytes | None:
    """Return the bytes of a file: those in a cell, or samples in it as a WAV file."""
    if isinstance(cell, bytes):
        return cell
    if isinstance(cell, dict):
        if cell.get("array") is not None:
            return _encode(cell["array"], cell["sampling_rate"])
        return cell.get("bytes")
    if type(cell).__name__ == "AudioDecoder":  # torchcodec's, which need not be installed
        samples = cell.get_all_samples()
        return _encode(samples.data.T, samples.sample_rate)  # (channels, n) -> (n, channels)
    return None


def find_suffix(data: bytes, path: str) -> str:
    """Return the ending for bytes by what they are; that of the path where they are unknown."""
    if data[:4] == b"OggS":
        return ".opus" if b"OpusHead" in data[:64] else ".ogg"
    for magic, suffix in _MAGIC.items():
        if data.startswith(magic):
            return suffix
    if data[0] == 0xFF and data[1:2] and data[1] & 0xE6 == 0xE2:  # MPEG, layer III
        return ".mp3"
    return Path(path).suffix or ".audio"


def _encode(samples: Any, sampling_rate: int) -> bytes:
    import numpy as np
    import soundfile

    file = io.BytesIO()
    array = np.asarray(samples, dtype=np.float32)
    soundfile.write(file, array, int(sampling_rate), format="WAV", subtype="FLOAT")
    return file.getvalue()


def _read_path(path: str, here: Path | None) -> bytes | None:
    """Return the bytes of a file that a cell names; None where there is none.

    What is on this machine names files on it, and what is elsewhere names files elsewhere.
    """
    if "://" not in path:
        file = Path(here, path) if here else None
        return file.read_bytes() if file and file.is_file() else None
    if here:
        return None
    import fsspec

    with fsspec.open(path, "rb") as remote:
        return remote.read()  # type: ignore[union-attr]
