"""Opening one file, wherever it lies: on disk, in memory, or inside a zip, tar or parquet file.

A source (path, bytes, or `archive::member`) enters; a seekable binary file leaves. Only the index
of an archive is cached, never an open handle: forked or pickled data-loading workers then share
no file position, and a read costs one `open` and one `seek`. An uncompressed member is read in
place, so that a second out of a 45-minute recording does not read the rest of it; of a parquet
file, the group of rows that holds the member is read (`blsp.parquet`).
"""

import difflib
import io
import re
import tarfile
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from blsp import parquet
from blsp.errors import InputError
from blsp.remote import FORM, is_remote, is_remote_cell

Source = str | Path | bytes

_SEPARATOR = "::"
# The first archive suffix followed by the separator ends the archive's path, so that `C:\a.zip`,
# a plain file called `a::b.wav` and a member called `x::y.wav` all mean what they say.
_MEMBER = re.compile(
    rf"(.+?\.(?:zip|tar|tgz|tar\.\w+|parquet)){_SEPARATOR}(.+)", re.IGNORECASE | re.DOTALL
)
_COMPRESSED_TAR = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd"}


class _Member(NamedTuple):
    """Where a member's bytes are. In a zip, `offset` is that of the member's local header."""

    offset: int
    size: int
    zip_info: zipfile.ZipInfo | None = None


class _ByteRange(io.RawIOBase):
    """`size` bytes of a file from `offset` on, as a file of their own.

    It has no `name`: libsndfile must go by the content, never by an extension.
    """

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._offset, self._size, self._position = offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._size - self._position))
        self._file.seek(self._offset + self._position)
        got = self._file.readinto(memoryview(buffer)[:count]) or 0
        self._position += got
        return got

    def close(self) -> None:
        self._file.close()
        super().close()


def describe_source(source: Source) -> str:
    """Return the words that name a source in an error."""
    return f"<{len(source)} bytes>" if isinstance(source, bytes) else str(source)


def open_source(source: Source, *, root: str | Path | None = None) -> BinaryIO:
    """Open a source for reading; the caller closes it.

    Args:
        source: a path, the file's bytes, or `ARCHIVE::MEMBER`, where ARCHIVE is a path that ends
            in `.zip` or `.tar` and MEMBER the exact name inside it: `clips.zip::inner/a.wav`,
            `shards/000.tar::a.flac`. Members are stored or deflated (zip), uncompressed (tar). In
            a `.parquet` file MEMBER is a column and a row, counted from 0: `x.parquet::audio/17`,
            where there are bytes, or a path relative to the file's folder. That file may be on the
            hub: `hf://datasets/OWNER/NAME@COMMIT/x.parquet::audio/17`.
        root: folder that a path is relative to. A path that is absolute or leads out of it, also
            by a symbolic link, is refused. What is on the hub has none.

    Returns:
        A seekable binary file without a `name`.

    Raises:
        InputError: nothing there, a folder, an unreadable file or archive, no such member, or a
            path that escapes `root`.
        UnreachableError: a hub that does not answer.
    """
    if isinstance(source, bytes):
        return io.BytesIO(source)
    text = source.as_posix() if isinstance(source, Path) else source
    if is_remote(text):
        return _open_remote(text)
    found = _MEMBER.fullmatch(text)
    path = _resolve(found[1] if found else text, root)
    try:
        size = _check_file(path)
        if not found:
            return _as_file(path, 0, size)
        if path.suffix.lower() != parquet.SUFFIX:
            return _open_member(path, found[2], archive_size=size)
        cell = parquet.read_cell(path, found[2])
        if isinstance(cell, bytes):
            return io.BytesIO(cell)
        path = _resolve_beside(found[1], cell, root)
        return _as_file(path, 0, _check_file(path))
    except OSError as error:
        raise InputError(
            f"{path}: expected a readable file, found: {error.strerror}; check its permissions"
        ) from error


def _open_remote(name: str) -> BinaryIO:
    if not is_remote_cell(name):
        raise InputError(f"{name}: expected {FORM}::COLUMN/ROW, found another form; correct it")
    file, _, cell = name.partition(_SEPARATOR)
    found = parquet.read_cell(file, cell)
    if isinstance(found, str):
        raise InputError(f"{name}: expected audio bytes, found the path {found!r}; drop the row")
    return io.BytesIO(found)


def _resolve(path: str, root: str | Path | None) -> Path:
    if root is None:
        return Path(path)
    joined = Path(root, path)
    if Path(path).is_absolute() or not joined.resolve().is_relative_to(Path(root).resolve()):
        raise InputError(
            f"{path}: expected a path inside the root {root}, found one that leads out of it; "
            "move the file there or set another root"
        )
    return joined


def _resolve_beside(file: str, path: str, root: str | Path | None) -> Path:
    """Return where a path leads that stands in `file`; without a root it stays in its folder."""
    folder = Path(file).parent
    return _resolve(path, folder) if root is None else _resolve(str(folder / path), root)


def _check_file(path: Path) -> int:
    """Return the size in bytes of a regular file that exists."""
    if path.is_dir():
        raise InputError(f"{path}: expected a file, found a folder; name a file in it")
    if not path.exists():
        raise InputError(f"{path}: expected a file, found nothing there; check the path and root")
    if not path.is_file():
        raise InputError(f"{path}: expected a regular file, found a device or pipe; save it first")
    return path.stat().st_size


def _as_file(path: Path, offset: int, size: int) -> BinaryIO:
    return io.BufferedReader(_ByteRange(path, offset, size), buffer_size=65536)


def _open_member(archive: Path, member: str, *, archive_size: int) -> BinaryIO:
    index = _read_index(archive, archive_size, archive.stat().st_mtime_ns)
    entry = index.get(member)
    if entry is None:
        near = difflib.get_close_matches(member, index, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"it has {len(index)} members"
        raise InputError(
            f"{archive}: expected a member '{member}', found none of that name; {hint}"
        )
    if entry.zip_info is None:
        return _as_file(archive, entry.offset, entry.size)
    return _open_zip_member(archive, entry.zip_info)


def _open_zip_member(archive: Path, info: zipfile.ZipInfo) -> BinaryIO:
    name = f"{archive}{_SEPARATOR}{info.filename}"
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        found = "an encrypted one" if info.flag_bits & 1 else f"method {info.compress_type}"
        raise InputError(
            f"{name}: expected a stored or deflated zip member, found {found}; zip it again"
        )
    with archive.open("rb") as file:
        file.seek(info.header_offset + 26)  # the lengths of name and extra field, two bytes each
        lengths = file.read(4)
        file.seek(int.from_bytes(lengths[:2], "little"), 1)
        file.seek(int.from_bytes(lengths[2:], "little"), 1)
        if info.compress_type == zipfile.ZIP_STORED:
            return _as_file(archive, file.tell(), info.file_size)
        packed = file.read(info.compress_size)
    try:
        data = zlib.decompress(packed, wbits=-zlib.MAX_WBITS)
    except zlib.error:
        data = b""
    if zlib.crc32(data) != info.CRC:
        raise InputError(f"{name}: expected intact data, found a wrong checksum; fetch it again")
    return io.BytesIO(data)


@lru_cache(maxsize=64)  # archives; about 300 bytes a member in each process
def _read_index(archive: Path, size: int, modified_ns: int) -> dict[str, _Member]:
    """Return every file in an archive. Size and time are in the key: a rewritten archive is new."""
    del size, modified_ns
    with archive.open("rb") as file:
        magic = file.read(2)
    if magic in _COMPRESSED_TAR:
        raise InputError(
            f"{archive}: expected a zip or an uncompressed tar, found {_COMPRESSED_TAR[magic]}, "
            "where every read would unpack all that comes before; uncompress it first"
        )
    try:
        return _read_zip_index(archive) if magic == b"PK" else _read_tar_index(archive)
    except (zipfile.BadZipFile, tarfile.TarError) as error:
        raise InputError(
            f"{archive}: expected a whole zip or tar, found a damaged one ({error}); fetch it again"
        ) from error


def _read_zip_index(archive: Path) -> dict[str, _Member]:
    with zipfile.ZipFile(archive) as file:
        return {
            info.filename: _Member(info.header_offset, info.file_size, info)
            for info in file.infolist()
            if not info.is_dir()
        }


def _read_tar_index(archive: Path) -> dict[str, _Member]:
    index: dict[str, _Member] = {}
    with tarfile.open(archive, "r:") as file:
        for info in file:
            if info.isreg() and not info.issparse():
                index[info.name] = _Member(info.offset_data, info.size)
            elif info.islnk() and info.linkname in index:
                index[info.name] = index[info.linkname]
    return index
