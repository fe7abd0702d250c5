"""A file written through `atomic_path` is whole or absent, whatever stops the writer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from blsp.errors import InputError
from blsp.files import atomic_path


def test_the_file_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "rows.jsonl"
    with atomic_path(target) as temporary:
        temporary.write_text("{}\n")
        assert not target.exists()
    assert target.read_text() == "{}\n"
    assert [path.name for path in target.parent.iterdir()] == ["rows.jsonl"]


def test_the_temporary_file_is_beside_the_target_and_no_search_finds_it(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.wav") as temporary:
        temporary.write_bytes(b"half")
        assert temporary.parent == tmp_path
        assert list(tmp_path.glob("*.wav")) == []


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_an_error_in_the_block_keeps_the_old_file_and_passes_through(
    tmp_path: Path, error: BaseException
) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(type(error)), atomic_path(target) as temporary:
        temporary.write_text("half of the n")
        raise error
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_foreign_os_error_in_the_block_is_not_blamed_on_the_target(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="input"), atomic_path(tmp_path / "out.txt"):
        (tmp_path / "input.txt").read_text()


def test_a_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "out.txt"
    with pytest.raises(InputError, match="expected a place to write"), atomic_path(target) as path:
        path.write_text("never reached")


def test_a_target_that_is_a_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    target = tmp_path / "out"
    with pytest.raises(InputError, match="expected a place to write"), atomic_path(target) as path:
        path.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


LIMITED_WRITER = """
import resource, signal, sys
from pathlib import Path
from blsp.errors import InputError
from blsp.files import atomic_path

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with atomic_path(sys.argv[1]) as temporary:
        temporary.write_bytes(bytes(5000))
except InputError as error:
    print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX")
def test_a_full_disk_keeps_the_old_file_and_is_one_line(tmp_path: Path) -> None:
    target = tmp_path / "weights.bin"
    target.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED_WRITER, str(target)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.stdout == (
        f"disk full while writing {target}: expected room for the file, found 'File too large'; "
        "free space or write elsewhere\n"
    )
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["weights.bin"]


def test_a_full_disk_reported_by_safetensors_is_the_same_line(tmp_path: Path) -> None:
    report = "Error while serializing: I/O error: No space left on device (os error 28)"
    target = tmp_path / "model.safetensors"
    with pytest.raises(InputError, match="disk full while writing"), atomic_path(target) as path:
        path.write_bytes(b"half")
        raise RuntimeError(report)
    assert list(tmp_path.iterdir()) == []
