"""One cell of a parquet file: the audio that a Hugging Face data set keeps inside its shards.

A file and `COLUMN/ROW` enter; the bytes of that row leave, or the path it names instead. Only the
row group that holds the row is read. The last groups are remembered, without an open handle, since
neighbours are asked for together; rows in random order cost a group each, so that shards for
training are better written with small groups (the hub's have 100 rows or so).
"""

import os
from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from blsp.errors import InputError, suggest

if TYPE_CHECKING:
    import pyarrow

SUFFIX = ".parquet"

# A lock a process, since a fork may copy one that another thread of the parent holds.
_LOCKS: dict[int, Lock] = {}


class _Footer(NamedTuple):
    """What the end of a file says: its schema and where each row group begins."""

    metadata: Any
    columns: tuple[str, ...]
    starts: tuple[int, ...]
    """First row of each group, and the number of rows at the end."""


def name_cell(file: str, column: str, row: int) -> str:
    """Return what `blsp.archive.open_source` takes for a cell: `x.parquet::audio/17`."""
    return f"{file}::{column}/{row}"


def read_cell(file: Path, cell: str) -> bytes | str:
    """Return the audio of `COLUMN/ROW`, or the path that stands there in place of it.

    Args:
        file: a parquet file.
        cell: a column of bytes, of paths, or of structs of both as the hub has them; and a row,
            counted from 0 over the whole file.

    Raises:
        InputError: no such column or row, nothing in it, or a damaged file.
    """
    name = f"{file}::{cell}"
    column, _, number = cell.rpartition("/")
    if not column or not number.isdecimal():
        raise InputError(
            f"{name}: expected a column and a row, such as 'audio/17', found {cell!r}; correct it"
        )
    stat, row = file.stat(), int(number)
    state = (file, stat.st_size, stat.st_mtime_ns)
    footer = _read_footer(*state)
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
    with _LOCKS.setdefault(os.getpid(), Lock()):  # else each thread would read the same group
        values = _read_group(*state, column, group)
    return _find_audio(values[row - footer.starts[group]].as_py(), name)


def _find_audio(value: Any, name: str) -> bytes | str:
    if isinstance(value, dict):
        data = value.get("bytes")
        value = value.get("path") if data is None else data
    if isinstance(value, bytes | str) and value:
        return value
    found = "nothing" if not value else f"a {type(value).__name__}"
    raise InputError(f"{name}: expected audio bytes or a path, found {found}; drop the row")


@lru_cache(maxsize=256)
def _read_footer(file: Path, size: int, modified_ns: int) -> _Footer:
    """Size and time are in the key: a rewritten file is new."""
    del size, modified_ns
    import pyarrow
    import pyarrow.parquet

    try:
        metadata = pyarrow.parquet.read_metadata(file)
        columns = tuple(metadata.schema.to_arrow_schema().names)
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(file, error) from error
    counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    return _Footer(metadata, columns, tuple(accumulate(counts, initial=0)))


@lru_cache(maxsize=2)  # threads that read in order stand on both sides of a border for a while
def _read_group(
    file: Path, size: int, modified_ns: int, column: str, group: int
) -> "pyarrow.ChunkedArray":
    import pyarrow
    import pyarrow.parquet

    metadata = _read_footer(file, size, modified_ns).metadata
    try:
        with pyarrow.parquet.ParquetFile(file, metadata=metadata) as shard:
            # Without its threads, which a forked worker does not have.
            return shard.read_row_group(group, columns=[column], use_threads=False)[column]
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> InputError:
    told = " ".join(str(error).split())
    return InputError(f"{file}: expected a whole parquet file, found: {told}; fetch it again")
