"""Checkpoint folders: the marker, damage, and fingerprints of base weights."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from blsp.checkpoint import (
    DELTA,
    MARKER,
    check_complete,
    fingerprint_folder,
    is_complete,
    mark_complete,
    read_delta,
    write_delta,
)
from blsp.errors import InputError

WEIGHTS = {"a": torch.randn(40, 300), "b": torch.randn(7), "c": torch.tensor(2.0)}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    write_delta(tmp_path, WEIGHTS)
    mark_complete(tmp_path)
    return tmp_path


def test_what_was_written_is_read(checkpoint: Path) -> None:
    read = read_delta(checkpoint)
    assert read.keys() == WEIGHTS.keys()
    assert all(torch.equal(read[name], WEIGHTS[name]) for name in WEIGHTS)


def test_writing_again_takes_the_marker_away_first(checkpoint: Path) -> None:
    assert is_complete(checkpoint)
    write_delta(checkpoint, WEIGHTS)
    assert not is_complete(checkpoint)


def test_a_folder_cut_short_is_refused(checkpoint: Path) -> None:
    (checkpoint / MARKER).unlink()
    with pytest.raises(
        InputError, match="expected a finished checkpoint, found no file 'complete'"
    ):
        read_delta(checkpoint)


def test_a_newer_format_is_refused(checkpoint: Path) -> None:
    content = json.loads((checkpoint / MARKER).read_text()) | {"format_version": 2}
    (checkpoint / MARKER).write_text(json.dumps(content))
    with pytest.raises(InputError, match="format 1 or older, found 2; update blsp"):
        check_complete(checkpoint)


def test_half_copied_weights_are_refused(checkpoint: Path) -> None:
    whole = (checkpoint / DELTA).read_bytes()
    (checkpoint / DELTA).write_bytes(whole[:-100])
    with pytest.raises(InputError, match=f"expected {len(whole)} bytes, found {len(whole) - 100}"):
        read_delta(checkpoint)


def test_another_text_as_marker_is_refused(checkpoint: Path) -> None:
    (checkpoint / MARKER).write_text("yes")
    with pytest.raises(InputError, match="expected the marker of a checkpoint"):
        check_complete(checkpoint)


# --- fingerprints ---------------------------------------------------------------------------------


def store(folder: Path, weights: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")
    return folder


def test_a_fingerprint_does_not_depend_on_files_or_wider_floats(tmp_path: Path) -> None:
    half = {name: tensor.half() for name, tensor in WEIGHTS.items()}
    one = store(tmp_path / "one", half)
    wide = store(tmp_path / "wide", {name: tensor.float() for name, tensor in half.items()})
    split, pickled = tmp_path / "split", tmp_path / "pickled"
    split.mkdir()
    save_file({"b": half["b"]}, split / "1.safetensors")
    save_file({"a": half["a"], "c": half["c"]}, split / "2.safetensors")
    index = {"weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}}
    (split / "model.safetensors.index.json").write_text(json.dumps(index))
    pickled.mkdir()
    torch.save(half, pickled / "pytorch_model.bin")
    prints = {fingerprint_folder(folder) for folder in (one, wide, split, pickled)}
    assert len(prints) == 1
    assert prints.pop().startswith("sha256:")


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_other_values_have_another_fingerprint(name: str, tmp_path: Path) -> None:
    other = WEIGHTS | {name: WEIGHTS[name] + 0.01}
    one, two = store(tmp_path / "one", WEIGHTS), store(tmp_path / "two", other)
    assert fingerprint_folder(one) != fingerprint_folder(two)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected model.safetensors or pytorch_model.bin"):
        fingerprint_folder(tmp_path)
