"""What corpora say of their recordings, as their authors wrote it: lines, tables, large JSON.

A file of a corpus enters; a `Candidate` leaves for every recording, and a `Dropped` for what cannot
be used, or the lines and rows that a program of `data_prep` makes them of. Everything is read as a
stream, whatever its size.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from blsp.errors import InputError

_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """What a corpus says of one recording, before anybody has looked at the audio."""

    where: str
    """The line that says so, as `file:line`."""
    id: str
    audio: str
    """Relative to the root, `/` between folders."""
    text: str | None
    """The words; None where nobody wrote them down, and empty where there are none."""
    start: float = 0.0
    duration: float | None = None
    """Seconds; None reaches to the end of the file."""
    file_seconds: float | None = None
    """How long the corpus says its file is: nothing else shows that an MP3 was cut."""
    labels: Mapping[str, Any] = field(default_factory=dict)
    """Other keys of the manifest's line: speaker, language, and the corpus's own."""


class Dropped(NamedTuple):
    """A recording, or a line about one, that cannot be used."""

    reason: str
    """The same words for all of a kind: they are counted."""
    which: str
    """Which one, and where it stands."""


Item = Candidate | Dropped


class Row(NamedTuple):
    """A line of a table."""

    where: str
    """As `file:line`."""
    cells: dict[str, str]
    """By the name of their column."""


class Segment(NamedTuple):
    """A part of a long recording."""

    where: str
    """The file and the recording."""
    id: str
    audio: str
    """The recording's file."""
    start: float
    duration: float
    text: str
    row: Mapping[str, Any]
    """All that the corpus says of the segment."""
    recording: Mapping[str, Any]
    """All that it says of the recording."""


# --- files ----------------------------------------------------------------------------------------


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of every line, without line end or byte order mark.

    Raises:
        InputError: the file cannot be read, or a line is not UTF-8.
    """
    number = 0
    try:
        with path.open("rb") as file:
            for number, data in enumerate(file, start=1):
                line = data.removeprefix(b"\xef\xbb\xbf") if number == 1 else data
                yield number, line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        found = error.object[error.start : error.start + 1]
        raise InputError(
            f"{path}:{number}: expected UTF-8 text, found the byte {found!r}; save it as UTF-8"
        ) from error
    except OSError as error:
        raise InputError(
            f"{path}: expected a text file, found: {error.strerror}; check the path"
        ) from error


def read_objects(path: Path, key: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of the list under a key of a JSON object, however large the file.

    Raises:
        InputError: the file cannot be read, or holds no such list of objects.
    """
    wrong = f"{path}: expected a JSON object with a list of objects under {key!r}"
    decoder, text = json.JSONDecoder(), ""
    try:
        with path.open(encoding="utf-8-sig") as file:
            mark = f'"{key}"'
            while mark not in text:
                block = file.read(_BLOCK)
                if not block:
                    raise InputError(f"{wrong}, found none; use the file of the corpus as it is")
                text = text[-len(mark) :] + block
            text = text[text.index(mark) + len(mark) :].lstrip(" \t\r\n:[")
            while True:
                text = text.lstrip(" \t\r\n,:[")
                if text.startswith("]"):
                    return
                try:
                    row, end = decoder.raw_decode(text)
                except ValueError as error:
                    block = file.read(max(_BLOCK, len(text)))
                    if not block:
                        raise InputError(f"{wrong}, found it cut or broken: {error}") from error
                    text += block
                    continue
                if not isinstance(row, dict):
                    raise InputError(f"{wrong}, found {row!r:.60}; use the corpus as it is")
                yield row
                text = text[end:]
    except OSError as error:
        raise InputError(
            f"{path}: expected a text file, found: {error.strerror}; check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8 text, found {error}; save it as UTF-8") from error


def read_cells(path: Path, *, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """Yield `file:line` and the cells of every line of a table that is not empty.

    Between commas a cell may stand in quotes, and hold commas and line ends; spaces around it are
    dropped. Between tabs a cell is as it stands, with its spaces and quotation marks.

    Raises:
        InputError: the file cannot be read, or a quote is never closed.
    """
    lines = (f"{line}\n" for _, line in read_lines(path))
    if delimiter == "\t":
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    try:
        for cells in reader:
            if any(cells):
                place = f"{path}:{reader.line_num}"
                yield place, cells if delimiter == "\t" else [cell.strip() for cell in cells]
    except csv.Error as error:
        raise InputError(
            f"{path}:{reader.line_num}: expected cells of a table, found: {error}; use the file of "
            "the corpus as it is"
        ) from error


def read_table(
    path: Path, columns: Iterable[str], *, delimiter: str = "\t"
) -> Iterator[Row | Dropped]:
    """Yield the lines below a header, by column; one that does not fit the header is left out.

    Args:
        path: the table.
        columns: must be there, in any order and among others.
        delimiter: see `read_cells`.

    Raises:
        InputError: as `read_cells`, or a column is missing.
    """
    rows = read_cells(path, delimiter=delimiter)
    _, header = next(rows, ("", []))
    for column in columns:
        if column not in header:
            raise InputError(
                f"{path}:1: expected a header with {', '.join(columns)}, found "
                f"{delimiter.join(header)[:80]!r}; use the table of the corpus as it is"
            )
    for where, cells in rows:
        if len(cells) == len(header):
            yield Row(where, dict(zip(header, cells, strict=True)))
        else:
            told = f"{where}: {len(cells)} cells, not {len(header)}"
            yield Dropped("a line that does not fit the header", told)


def read_segments(path: Path, *, text: str, subset: str | None = None) -> Iterator[Segment]:
    """Yield segments from JSON as GigaSpeech and WenetSpeech write it.

    Args:
        path: a JSON object with recordings under `audios`, of any size.
        text: the segments' key for their words.
        subset: only those in it; braces around names in the file do not count.

    Raises:
        InputError: the file cannot be read or has another form.
    """
    for recording in read_objects(path, "audios"):
        where = f"{path}: {recording.get('aid')}"
        try:
            yield from [
                _build_segment(where, row, recording, text)
                for row in recording["segments"]
                if subset is None or subset in _find_subsets(row)
            ]
        except _WRONG_FORM as error:
            raise _wrong_form(where, text, error) from error


def find_subsets(path: Path, training: Sequence[str], tests: Sequence[str]) -> list[str]:
    """Return the first training subset that has segments, and the tests that have.

    Args:
        path: as of `read_segments`; it is read until nothing better can come.
        training: from the largest, which contains the others, to the smallest.
        tests: all of them are looked for.
    """
    found: set[str] = set()
    for recording in read_objects(path, "audios"):
        try:
            found.update(*map(_find_subsets, recording["segments"]))
        except _WRONG_FORM as error:
            raise _wrong_form(f"{path}: {recording.get('aid')}", "words", error) from error
        if found.issuperset((training[0], *tests)):
            break
    largest = [name for name in training if name in found][:1]
    return largest + [name for name in tests if name in found]


_WRONG_FORM = (KeyError, TypeError, ValueError, AttributeError)


def _wrong_form(where: str, text: str, error: Exception) -> InputError:
    keys = f"sid, begin_time, end_time, subsets and {text}"
    return InputError(
        f"{where}: expected a path and segments with {keys}, found {error!r}; use the file of the "
        "corpus as it is"
    )


def _find_subsets(row: Mapping[str, Any]) -> set[str]:
    return {name.strip("{}") for name in row["subsets"]}


def _build_segment(
    where: str, row: Mapping[str, Any], recording: Mapping[str, Any], text: str
) -> Segment:
    start, end = float(row["begin_time"]), float(row["end_time"])
    for value in (row["sid"], recording["path"], row[text]):
        if not isinstance(value, str):
            raise TypeError(value)
    return Segment(
        where=where,
        id=row["sid"],
        audio=recording["path"],
        start=start,
        duration=end - start,
        text=row[text],
        row=row,
        recording=recording,
    )


def relative_audio(path: str, root: Path, where: str) -> str:
    """Return a path that a corpus states, from its root or from that of the disk, relative to
    `root`.

    Raises:
        InputError: it is not inside.
    """
    if not Path(path).is_absolute():
        return Path(path).as_posix() if path else ""
    for folder in (root.absolute(), root.resolve()):  # people write links as they see them
        if Path(path).is_relative_to(folder):
            return Path(path).relative_to(folder).as_posix()
    raise InputError(
        f"{where}: expected audio inside {root.absolute()}, found {path!r}; name a folder that "
        "holds all of it: --audio-root DIR"
    )
