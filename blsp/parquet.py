"""One cell of a parquet file: the audio that a Hugging Face data set keeps inside its shards.

A file and `COLUMN/ROW` enter; the bytes of that row leave, or the path it names instead. Only the
row group that holds the row is read. The last groups are remembered, without an open handle, since
neighbours are asked for together; rows in random order cost a group each, so that shards for
training are better written with small groups (the hub's have 100 rows or so). Of a file that stays
on the hub (`blsp.remote`) the footer is read, and of a group the columns that are asked for.
"""

import io
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from blsp.errors import InputError, suggest
from blsp.remote import read_range, read_size

if TYPE_CHECKING:
    import pyarrow

File = Path | str
"""On this machine, or a name of `blsp.remote`."""

SUFFIX = ".parquet"

CACHE_BYTES = 2**30
"""What a process keeps of column chunks that came over the network: the hub's groups have up to
some hundreds of megabytes, of which a few must find room, and four workers keep 4 GiB."""

_TAIL = 2**16  # bytes; room for the footers of most files
_GAP = 2**20  # bytes; what lies between two columns is read along rather than asked for twice

# A lock a process, since a fork may copy one that another thread of the parent holds.
_LOCKS: dict[int, Lock] = {}


class Footer(NamedTuple):
    """What the end of a file says: its schema and where each row group begins."""

    metadata: Any
    columns: tuple[str, ...]
    starts: tuple[int, ...]
    """First row of each group, and the number of rows at the end."""


def name_cell(file: str, column: str, row: int) -> str:
    """Return what `blsp.archive.open_source` takes for a cell: `x.parquet::audio/17`."""
    return f"{file}::{column}/{row}"


def parse_cell(cell: str) -> tuple[str, int] | None:
    """Return the column and row of `COLUMN/ROW`; None where it is something else."""
    column, _, number = cell.rpartition("/")
    return (column, int(number)) if column and number.isdecimal() else None


def read_cell(file: File, cell: str) -> bytes | str:
    """Return the audio of `COLUMN/ROW`, or the path that stands there in place of it.

    Args:
        file: a parquet file.
        cell: a column of bytes, of paths, or of structs of both as the hub has them; and a row,
            counted from 0 over the whole file.

    Raises:
        InputError: no such column or row, nothing in it, or a damaged file.
        UnreachableError: the file is on a hub that does not answer.
    """
    name = f"{file}::{cell}"
    parsed = parse_cell(cell)
    if parsed is None:
        raise InputError(
            f"{name}: expected a column and a row, such as 'audio/17', found {cell!r}; correct it"
        )
    column, row = parsed
    footer = read_footer(file)
    if column not in footer.columns:
        raise InputError(
            f"{file}: expected a column {column!r}, found none of that name; "
            f"{suggest(column, footer.columns)}"
        )
    if row >= footer.starts[-1]:
        raise InputError(
            f"{name}: expected a row below {footer.starts[-1]}, found {row}; make the manifest anew"
        )
    group = bisect_right(footer.starts, row) - 1
    values = _find_group(file, column, group)
    return _find_audio(values[row - footer.starts[group]].as_py(), name)


def _find_audio(value: Any, name: str) -> bytes | str:
    if isinstance(value, dict):
        data = value.get("bytes")
        value = value.get("path") if data is None else data
    if isinstance(value, bytes | str) and value:
        return value
    found = "nothing" if not value else f"a {type(value).__name__}"
    raise InputError(f"{name}: expected audio bytes or a path, found {found}; drop the row")


# --- footers --------------------------------------------------------------------------------------


def read_footer(file: File) -> Footer:
    """Read the end of a file, or remember it.

    Raises:
        InputError: a damaged file.
        UnreachableError: see `read_cell`.
    """
    return _read_footer(*_identify(file))


def _identify(file: File) -> tuple[File, int, int]:
    """Size and time are in the key: a rewritten file is new. A commit is never rewritten."""
    if isinstance(file, str):
        return file, 0, 0
    stat = file.stat()
    return file, stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=1024)  # files, some tens of kilobytes each
def _read_footer(file: File, size: int, modified_ns: int) -> Footer:
    del size, modified_ns
    import pyarrow
    import pyarrow.parquet

    try:
        source: Any = _read_tail(file) if isinstance(file, str) else file
        metadata = pyarrow.parquet.read_metadata(source)
        columns = tuple(metadata.schema.to_arrow_schema().names)
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(file, error) from error
    counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    return Footer(metadata, columns, tuple(accumulate(counts, initial=0)))


def _read_tail(file: str) -> "_Parts":
    size = read_size(file)
    tail = read_range(file, max(0, size - _TAIL), size)
    # At the end stand the length of the footer, four bytes, and a mark of four more.
    needed = min(size, 8 + int.from_bytes(tail[-8:-4], "little"))
    if needed > len(tail):
        tail = read_range(file, size - needed, size)
    return _Parts(size, [(size - len(tail), tail)])


def measure_groups(footer: Footer, column: str) -> list[int]:
    """Return the bytes of a column in each row group, unpacked."""
    return [
        sum(chunk.total_uncompressed_size for chunk in _find_chunks(footer, column, group))
        for group in range(footer.metadata.num_row_groups)
    ]


def _find_chunks(footer: Footer, column: str, group: int) -> Iterator[Any]:
    """Yield what a footer says of each part of a column in a group: a struct has several."""
    described = footer.metadata.row_group(group)
    for number in range(described.num_columns):
        chunk = described.column(number)
        if chunk.path_in_schema == column or chunk.path_in_schema.startswith(f"{column}."):
            yield chunk


# --- row groups -----------------------------------------------------------------------------------


def read_rows(file: File, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file in order, a group at a time.

    Raises:
        InputError: a damaged file, or a column that is not there.
        UnreachableError: see `read_cell`.
    """
    footer = read_footer(file)
    for group in range(footer.metadata.num_row_groups):
        count = footer.starts[group + 1] - footer.starts[group]
        yield from _read_columns(file, columns, group).to_pylist() if columns else [{}] * count


def _read_columns(file: File, columns: Sequence[str], group: int) -> "pyarrow.Table":
    import pyarrow
    import pyarrow.parquet

    footer = read_footer(file)
    source: Any = _fetch(file, footer, columns, group) if isinstance(file, str) else file
    try:
        with pyarrow.parquet.ParquetFile(source, metadata=footer.metadata) as shard:
            # Without its threads, which a forked worker does not have.
            return shard.read_row_group(group, columns=list(columns), use_threads=False)
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(file, error) from error


def _fetch(file: str, footer: Footer, columns: Sequence[str], group: int) -> "_Parts":
    """Read the columns of a group in as few parts as can be."""
    ranges = []
    for chunk in (one for column in columns for one in _find_chunks(footer, column, group)):
        pages = chunk.data_page_offset, chunk.dictionary_page_offset
        begin = min(page for page in pages if page is not None)
        ranges.append((begin, begin + chunk.total_compressed_size))
    size = max((end for _, end in ranges), default=0)
    return _Parts(size, [(begin, read_range(file, begin, end)) for begin, end in _join(ranges)])


def _join(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges in order, those with little between them as one."""
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(ranges):
        if joined and begin - joined[-1][1] <= _GAP:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((begin, end))
    return joined


def _find_group(file: File, column: str, group: int) -> "pyarrow.ChunkedArray":
    if isinstance(file, str):
        chunks = _CHUNKS.setdefault(os.getpid(), _Chunks(CACHE_BYTES))
        return chunks.get(
            (file, column, group), lambda: _read_columns(file, [column], group)[column]
        )
    with _LOCKS.setdefault(os.getpid(), Lock()):  # else each thread would read the same group
        return _read_group(*_identify(file), column, group)


@lru_cache(maxsize=2)  # threads that read in order stand on both sides of a border for a while
def _read_group(
    file: File, size: int, modified_ns: int, column: str, group: int
) -> "pyarrow.ChunkedArray":
    """Read one of a file on this machine, where the system keeps what was read last."""
    del size, modified_ns
    return _read_columns(file, [column], group)[column]


def _damaged(file: File, error: Exception) -> InputError:
    told = " ".join(str(error).split())
    advice = "look at it on the hub" if isinstance(file, str) else "fetch it again"
    return InputError(f"{file}: expected a whole parquet file, found: {told}; {advice}")


# --- what came over the network -------------------------------------------------------------------

_Key = tuple[str, str, int]


class _Chunks:
    """Column chunks by file, column and group; those that were used last stay.

    Threads that want the same one wait for whoever reads it, and share what comes of it, since a
    hub that does not answer takes minutes to be given up.
    """

    def __init__(self, room: int) -> None:
        self._room, self._lock = room, Lock()
        self._kept: OrderedDict[_Key, Any] = OrderedDict()
        self._coming: dict[_Key, Future[Any]] = {}

    def get(self, key: _Key, read: Callable[[], Any]) -> Any:
        """Return a chunk, which `read` gives where it is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            is_first = key not in self._coming
            coming = self._coming.setdefault(key, Future())
        if is_first:
            self._read(key, read, coming)
        return coming.result()

    def _read(self, key: _Key, read: Callable[[], Any], coming: "Future[Any]") -> None:
        try:
            chunk = read()
        except BaseException as error:
            with self._lock:
                del self._coming[key]
            coming.set_exception(error)
            return
        with self._lock:
            self._kept[key] = chunk
            del self._coming[key]
            while len(self._kept) > 1 and self._count() > self._room:
                self._kept.popitem(last=False)
        coming.set_result(chunk)

    def _count(self) -> int:
        return sum(chunk.nbytes for chunk in self._kept.values())


# One a process, since a fork may copy one whose lock another thread of the parent holds.
_CHUNKS: dict[int, _Chunks] = {}


class _Parts(io.RawIOBase):
    """Some parts of a file, as a file in which nothing else can be read.

    Args:
        size: of the file, in bytes.
        parts: where each begins, and its bytes.
    """

    def __init__(self, size: int, parts: Sequence[tuple[int, bytes]]) -> None:
        self._size, self._parts, self._position = size, parts, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        for begin, data in self._parts:
            first = self._position - begin
            if 0 <= first < len(data):
                found = data[first : first + len(buffer)]
                buffer[: len(found)] = found
                self._position += len(found)
                return len(found)
        return 0
