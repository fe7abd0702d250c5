"""A source opens to the same bytes wherever it lies, and never outside its root."""

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
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


def write_parquet(
    path: Path,
    cells: list[Any],
    *,
    rows_a_group: int = 2,
    others: dict[str, list[Any]] | None = None,
) -> Path:
    """A column as the hub has it, structs of bytes and path, and others."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"audio": pa.array(cells, kind), **(others or {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=rows_a_group)
    return path


def number_rows(count: int) -> list[dict[str, Any]]:
    return [{"bytes": b"row %d" % row, "path": None} for row in range(count)]


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


# --- rows of parquet files ------------------------------------------------------------------------


def test_a_row_of_a_parquet_file_is_its_bytes_in_whatever_column(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "data" / "train.parquet",
        number_rows(5),
        others={"with/slash": [b"%d" % row for row in range(5)]},  # bytes without a struct
    )
    assert [read(f"{path}::audio/{row}") for row in (4, 0, 2, 1, 3)] == [
        b"row 4",
        b"row 0",
        b"row 2",
        b"row 1",
        b"row 3",
    ]
    assert read("data/train.parquet::with/slash/3", root=tmp_path) == b"3"


def test_a_row_costs_its_own_group_of_rows_and_neighbours_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_parquet(tmp_path / "a.parquet", number_rows(9), others={"text": ["x"] * 9})
    calls: list[Any] = []
    read_group = pq.ParquetFile.read_row_group

    def watch(self: Any, group: int, **options: Any) -> Any:
        calls.append((group, options["columns"]))
        return read_group(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", watch)
    for row in (6, 7, 6, 1, 0, 7, 8, 1):
        assert read(f"{path}::audio/{row}") == b"row %d" % row
    assert calls == [(3, ["audio"]), (0, ["audio"]), (4, ["audio"]), (0, ["audio"])]


def test_a_path_in_a_parquet_file_is_relative_to_its_folder(tmp_path: Path) -> None:
    rows = [{"bytes": None, "path": "clips/a.wav"}, {"bytes": b"", "path": None}]
    write_parquet(tmp_path / "data" / "a.parquet", rows, others={"file": ["clips/a.wav", None]})
    (tmp_path / "data" / "clips").mkdir()
    (tmp_path / "data" / "clips" / "a.wav").write_bytes(b"beside")
    for source in ("data/a.parquet::audio/0", "data/a.parquet::file/0"):
        assert read(source, root=tmp_path) == b"beside"
        assert read(tmp_path / source) == b"beside"


def test_a_path_in_a_parquet_file_may_not_leave_the_root(tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    out.write_bytes(b"out")
    rows = [{"bytes": None, "path": path} for path in ("../../out.wav", str(out), "../in.wav")]
    path = write_parquet(tmp_path / "corpus" / "data" / "a.parquet", rows)
    (tmp_path / "corpus" / "in.wav").write_bytes(b"in")
    assert read("data/a.parquet::audio/2", root=tmp_path / "corpus") == b"in"
    for row in (0, 1):
        with pytest.raises(InputError, match="inside the root"):
            read(f"data/a.parquet::audio/{row}", root=tmp_path / "corpus")
    for row in (0, 1, 2):  # without a root, its folder is one
        with pytest.raises(InputError, match="inside the root"):
            read(f"{path}::audio/{row}")


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("adio/0", "expected a column 'adio', found none of that name; did you mean 'audio'"),
        ("audio/4", r"a\.parquet::audio/4: expected a row below 4, found 4"),
        ("audio/-1", "expected a column and a row, such as 'audio/17', found 'audio/-1'"),
        ("17", "expected a column and a row, such as 'audio/17', found '17'"),
        ("audio/1", r"a\.parquet::audio/1: expected audio bytes or a path, found nothing; drop"),
        ("audio/2", "found nothing; drop"),
        ("audio/3", "expected a file, found nothing there"),
        ("text/0", "expected audio bytes or a path, found a int"),
    ],
)
def test_a_wrong_cell_of_a_parquet_file_is_one_line(
    tmp_path: Path, member: str, message: str
) -> None:
    none = {"bytes": None, "path": None}
    rows = [{"bytes": b"x", "path": None}, none, None, {"bytes": None, "path": "no.wav"}]
    path = write_parquet(tmp_path / "a.parquet", rows, others={"text": [1, 2, 3, 4]})
    with pytest.raises(InputError, match=message) as error:
        read(f"{path}::{member}")
    assert "\n" not in str(error.value)


def test_a_cut_or_foreign_parquet_file_is_one_line(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", number_rows(4))
    whole = path.read_bytes()
    damaged = b"PAR1" + b"\xff" * 200 + whole[204:]
    for broken in (whole[:-20], b"this is text", b"", damaged):
        path.write_bytes(broken)
        with pytest.raises(InputError, match="expected a whole parquet file, found: ") as error:
            read(f"{path}::audio/0")
        assert "\n" not in str(error.value)


def test_a_rewritten_parquet_file_is_read_anew(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", number_rows(2))
    assert read(f"{path}::audio/1") == b"row 1"
    write_parquet(path, [{"bytes": b"other row", "path": None}] * 3)
    assert read(f"{path}::audio/1") == b"other row"


def test_threads_share_what_is_read_of_a_parquet_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As many groups as are kept: of more, a thread that is held up may read one again.
    path = write_parquet(tmp_path / "a.parquet", number_rows(60), rows_a_group=30)
    groups: list[int] = []
    read_group = pq.ParquetFile.read_row_group

    def watch(self: Any, group: int, **options: Any) -> Any:
        groups.append(group)
        return read_group(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", watch)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(read, [f"{path}::audio/{row}" for row in range(60)]))
    assert found == [b"row %d" % row for row in range(60)]
    assert sorted(groups) == [0, 1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_readers_of_a_parquet_file_do_not_wait_for_their_parent(tmp_path: Path) -> None:
    """Even where a thread of the parent is reading at that moment."""
    from blsp import parquet

    path = write_parquet(tmp_path / "a.parquet", number_rows(40))
    read(f"{path}::audio/0")
    children = []
    with parquet._LOCKS[os.getpid()]:
        for _ in range(3):
            child = os.fork()
            if child == 0:
                wrong = any(read(f"{path}::audio/{r}") != b"row %d" % r for r in range(40))
                os._exit(int(wrong))
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]


def test_opening_files_does_not_import_what_reads_parquet() -> None:
    code = "import sys, blsp.archive; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
