"""Files made of other files: rows go on as they are, the side file says from where.

What filters, splits or packs a manifest keeps every key of a row, also those of the user's own, so
rows stay JSON objects here. The audio stays where it is, so that the new side file names the same
root as seen from the new folder. Rows and the path of their first file enter, a whole file leaves.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from blsp.errors import InputError
from blsp.files import atomic_path
from blsp.manifest import (
    Meta,
    checked,
    find_kind,
    read_meta,
    relative_root,
    scan_rows,
    write_meta,
)
from blsp.rows import recordings_of

Row = dict[str, Any]


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield line number and row of a manifest or conversations file.

    Raises:
        InputError: the first line that is wrong, or there is none at all.
    """
    number = 0
    for line in scan_rows(path, find_kind(path)):
        number = line.number
        yield number, checked(path, line)
    if not number:
        raise InputError(f"{path}: expected at least one line, found none; write some")


def find_value(row: Row, key: str) -> Any:
    """Return the value of a field, `translation.de` inside another; None where there is none.

    A field that a conversation lacks is looked for in its recordings, and counts where all of
    them agree.
    """
    value = _look_up(row, key)
    if value is None and "messages" in row:
        values = [_look_up(recording, key) for recording in recordings_of(row)]
        if values and all(one == values[0] for one in values):
            return values[0]
    return value


def _look_up(row: Row, key: str) -> Any:
    if key in row:
        return row[key]
    outer, _, inner = key.partition(".")
    found = row.get(outer)
    return found.get(inner) if inner and type(found) is dict else None


def name_value(value: Any) -> str:
    """Return a value as it is written on a command line: text as it is, `true`, `3`."""
    return value if type(value) is str else json.dumps(value, ensure_ascii=False)


def derive_meta(source: Path, out: Path, *, command: str, counts: Mapping[str, int]) -> Meta:
    """Return the side file of a file made of `source`; models and templates stay those of it."""
    changed = Meta(command=command, root=relative_root(source, out), counts=counts)
    meta = read_meta(source)
    if meta is None:
        return changed
    return replace(
        meta,
        command=command,
        root=changed.root,
        counts=counts,
        plan=None,
        versions=changed.versions,
    )


def format_row(row: Row) -> bytes:
    """Return the line of a row."""
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def write_derived(out: Path, rows: Iterable[Row], meta: Meta) -> int:
    """Write rows that were read and found in order, and the side file; returns how many.

    Counts in `meta` may still change while rows are drawn: it is written after them.
    """
    count = 0
    with atomic_path(out) as temporary:
        with temporary.open("wb") as file:
            for row in rows:
                file.write(format_row(row))
                count += 1
        write_meta(out, meta)
    return count
