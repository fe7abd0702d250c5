"""A source opens to the same bytes wherever it lies, and never outside its root."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from blsp.archive import Source, open_source
from blsp.errors import InputError

CLIPS = {"inner/a.wav": b"first clip", "inner/b.wav": b"second " * 1000, "x::y.wav": b"odd name"}


def read(source: Source, *, root: Path | None = None) -> bytes:
    with open_source(source, root=root) as file:
        return file.read()


def write_zip(path: Path, *, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in CLIPS.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, *, mode: str = "w:") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in CLIPS.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("name", CLIPS)
def test_stored_zip_deflated_zip_and_tar_give_the_same_bytes(tmp_path: Path, name: str) -> None:
    write_zip(tmp_path / "stored.zip")
    write_zip(tmp_path / "deflated.ZIP", method=zipfile.ZIP_DEFLATED)
    write_tar(tmp_path / "plain.tar")
    for archive in ("stored.zip", "deflated.ZIP", "plain.tar"):
        assert read(f"{archive}::{name}", root=tmp_path) == CLIPS[name]
        assert read(tmp_path / f"{archive}::{name}") == CLIPS[name]


def test_a_member_seeks_within_its_own_bytes(tmp_path: Path) -> None:
    with open_source(f"{write_tar(tmp_path / 'a.tar')}::inner/a.wav") as file:
        assert file.seek(-4, io.SEEK_END) == 6
        assert file.read() == b"clip"
        assert file.seek(2) == 2
        assert (file.read(3), file.tell()) == (b"rst", 5)
        assert file.read(100) == b" clip"


def test_a_plain_file_may_have_the_separator_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "a::b.wav").write_bytes(b"plain")
    assert read("a::b.wav", root=tmp_path) == b"plain"


def test_bytes_are_their_own_file() -> None:
    assert read(b"abc") == b"abc"


def test_a_rewritten_archive_is_read_anew(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip")
    assert read(f"{path}::inner/a.wav") == b"first clip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inner/a.wav", b"another")
    assert read(f"{path}::inner/a.wav") == b"another"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_readers_do_not_disturb_each_other(tmp_path: Path) -> None:
    source = f"{write_tar(tmp_path / 'a.tar')}::inner/b.wav"
    read(source)  # the index is cached before the fork
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            wrong = sum(read(source) != CLIPS["inner/b.wav"] for _ in range(200))
            os._exit(min(wrong, 1))
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0, 0]


def test_a_missing_member_is_answered_with_the_nearest_name(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip")
    with pytest.raises(InputError, match=r"a\.zip: .*'inner/a.flac'.*did you mean 'inner/a.wav'"):
        read(f"{path}::inner/a.flac")
    with pytest.raises(InputError, match="it has 3 members"):
        read(f"{path}::zzzzzzzz")


@pytest.mark.parametrize(("suffix", "word"), [("gz", "gzip"), ("bz2", "bzip2"), ("xz", "xz")])
def test_a_compressed_tar_is_refused_with_the_reason(
    tmp_path: Path, suffix: str, word: str
) -> None:
    path = write_tar(tmp_path / f"a.tar.{suffix}", mode=f"w:{suffix}")
    with pytest.raises(InputError, match=f"found {word}.*uncompress it first"):
        read(f"{path}::inner/a.wav")


def test_an_unusual_zip_compression_is_refused_by_number(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", method=zipfile.ZIP_LZMA)
    with pytest.raises(InputError, match=r"a.zip::inner/a.wav: .*found method 14; zip it again"):
        read(f"{path}::inner/a.wav")


def test_a_damaged_deflated_member_fails_its_checksum(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", method=zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    data[30 + len("inner/a.wav") + 3] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(InputError, match="wrong checksum"):
        read(f"{path}::inner/a.wav")


@pytest.mark.parametrize("archive", ["a.zip", "a.tar"])
def test_a_cut_or_foreign_archive_is_one_line(tmp_path: Path, archive: str) -> None:
    path = tmp_path / archive
    whole = (write_zip if archive == "a.zip" else write_tar)(path).read_bytes()
    for broken in (whole[:3000], b"this is text", b""):
        path.write_bytes(broken)
        with pytest.raises(InputError) as error:
            read(f"{path}::inner/b.wav")
        assert "\n" not in str(error.value)


def test_a_path_may_not_leave_its_root(tmp_path: Path) -> None:
    root = tmp_path / "corpus"
    (root / "sub").mkdir(parents=True)
    (root / "in.wav").write_bytes(b"in")
    (tmp_path / "out.wav").write_bytes(b"out")
    write_zip(tmp_path / "out.zip")
    (root / "link.wav").symlink_to(tmp_path / "out.wav")
    (root / "near.wav").symlink_to(root / "in.wav")
    assert read("sub/../in.wav", root=root) == b"in"
    assert read("near.wav", root=root) == b"in"
    for bad in (
        "../out.wav",
        "sub/../../out.wav",
        str(root / "in.wav"),  # absolute, though inside
        "link.wav",
        "../out.zip::inner/a.wav",
    ):
        with pytest.raises(InputError, match="inside the root"):
            read(bad, root=root)


def test_a_root_may_be_a_link_itself(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.wav").write_bytes(b"a")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert read("a.wav", root=tmp_path / "link") == b"a"


def test_missing_file_folder_and_device_are_one_line(tmp_path: Path) -> None:
    for path, found in ((tmp_path / "no.wav", "nothing"), (tmp_path, "a folder")):
        with pytest.raises(InputError, match=f"expected a file, found {found}"):
            read(path)
    with pytest.raises(InputError, match="expected a file, found nothing"):
        read(tmp_path / "no.zip::a.wav")
