"""Between our manifest and what others write: NeMo's JSON lines, tables with commas or tabs.

Rows go by as a stream and no audio is opened: what lacks a duration is for `blsp prep folder`,
which measures. Keys without a counterpart go along as they are. Our `audio` is relative to a root,
that of others to the folder of their file, or absolute. A path enters; a whole file leaves, with a
side file if it is ours: `m.csv` beside `m.jsonl` would have the same one.
"""

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from blsp.corpora import Dropped, read_lines, read_table, relative_audio
from blsp.derivation import Row, format_row, read_rows, write_derived
from blsp.errors import InputError
from blsp.files import atomic_path
from blsp.locking import hold
from blsp.manifest import Meta, find_kind, find_written, relative_folder, relative_root
from blsp.remote import is_remote
from blsp.rows import check_utterance, parse_line

Form = Literal["blsp", "nemo", "csv", "tsv"]

_NEMO = {"audio_filepath": "audio", "offset": "start", "lang": "language"}
_TO_NEMO = {ours: theirs for theirs, ours in _NEMO.items()}
_DELIMITERS = {"csv": ",", "tsv": "\t"}
_NUMBERS = ("duration", "start")
_NESTED = ("entities", "translation")
_TEXTS = ("id", "speaker", "language", "emotion", "intent", "license", "source")


def choose_form(path: Path) -> Form:
    """Tell from its name what a file is to be: JSON lines of ours unless it ends as a table."""
    suffix = path.suffix.lower()
    return "csv" if suffix == ".csv" else "tsv" if suffix in (".tsv", ".tab") else "blsp"


def find_form(path: Path) -> Form:
    """Tell what a file is: a table by its name, NeMo's by the key of its first line.

    Raises:
        InputError: it cannot be read, or holds conversations.
    """
    form = choose_form(path)
    if form != "blsp":
        return form
    if find_kind(path) == "conversations":
        raise InputError(
            f"{path}: expected a manifest, found conversations, which no other tool reads; name a "
            "manifest"
        )
    _, line = next(read_lines(path), (1, ""))
    row, _ = parse_line(line.encode())
    return "nemo" if row is not None and "audio_filepath" in row else "blsp"


def convert(path: Path, out: Path, *, form: Form, root: Path | None, command: str) -> int:
    """Write a manifest in another form; returns how many rows.

    Args:
        path: in any form.
        out: to write.
        form: of it.
        root: folder that holds all audio, to which ours will be relative; that of `path` if None.
        command: for the side file.

    Raises:
        InputError: a line that is wrong, audio outside the root, two files of one form, or a file
            there that another command wrote.
    """
    found = find_form(path)
    if (found == "blsp") == (form == "blsp"):
        raise InputError(
            f"{path}: expected a file to turn from or into a manifest of blsp, found {found} to "
            f"{form}; choose another --to, or another ending of --out"
        )
    with hold(out):
        if form == "blsp":
            find_written(out, command)
            return _write_ours(path, out, found, root or path.parent, command)
        return _write_theirs(path, out, form)


# --- into ours ------------------------------------------------------------------------------------


def _write_ours(path: Path, out: Path, form: Form, root: Path, command: str) -> int:
    rows = _read_nemo(path) if form == "nemo" else _read_cells(path, _DELIMITERS[form])
    meta = Meta(command=command, root=relative_folder(root, out))
    return write_derived(out, _check_rows(rows, path, root), meta)


def _read_nemo(path: Path) -> Iterator[tuple[str, Row]]:
    for number, line in read_lines(path):
        if not line.strip():
            continue
        row, problems = parse_line(line.encode())
        if row is None:
            raise InputError(f"{path}:{number}: {problems[0]}")
        yield f"{path}:{number}", {_NEMO.get(key, key): value for key, value in row.items()}


def _read_cells(path: Path, delimiter: str) -> Iterator[tuple[str, Row]]:
    for line in read_table(path, (), delimiter=delimiter):
        if isinstance(line, Dropped):
            raise InputError(
                f"{line.which}; expected as many cells as the header has, correct the line"
            )
        cells = {_NEMO.get(key, key): cell for key, cell in line.cells.items() if cell != ""}
        yield line.where, {key: _parse_cell(key, cell) for key, cell in cells.items()}


def _parse_cell(key: str, cell: str) -> object:
    """Return a value; one that does not read as what it must be is left for the check."""
    try:
        return json.loads(cell) if key in (*_NUMBERS, *_NESTED) else cell
    except ValueError:
        return cell


def _check_rows(rows: Iterator[tuple[str, Row]], path: Path, root: Path) -> Iterator[Row]:
    places: dict[str, str] = {}
    for where, row in rows:
        row = _complete(row, path, root, where)
        if problems := check_utterance(row):
            raise InputError(f"{where}: {problems[0]}")
        earlier = places.setdefault(row["id"], where)
        if earlier != where:
            raise InputError(
                f"{where}: expected every id once, found {row['id']!r} also at {earlier}; give "
                "each an id of its own"
            )
        yield row
    if not places:
        raise InputError(f"{path}: expected at least one row, found none; write some")


def _complete(row: Row, path: Path, root: Path, where: str) -> Row:
    """Return a row with the keys that ours must have, numbers of names as text."""
    if "duration" not in row:
        raise InputError(
            f"{where}: expected a duration, found {', '.join(row)}; `blsp prep folder` measures"
        )
    audio = row.get("audio")
    if type(audio) is not str or not audio:
        raise InputError(f"{where}: expected 'audio_filepath' or 'audio', found neither; add it")
    if not is_remote(audio):
        audio = _relative_to_root(os.path.normpath(path.parent.absolute() / audio), root, where)
    start = row.get("start")
    name = PurePosixPath(audio).with_suffix("").as_posix() + (f"@{start:g}" if start else "")
    texts = {key: str(row[key]) for key in _TEXTS if row.get(key) is not None}
    return {"id": name, **row, **texts, "audio": audio, "text": row.get("text")}


def _relative_to_root(absolute: str, root: Path, where: str) -> str:
    """Return a path of audio relative to the root; an error names --root."""
    try:
        return relative_audio(absolute, root, where)
    except InputError as error:
        raise InputError(
            f"{where}: expected audio inside {root.absolute()}, found {absolute!r}; name a folder "
            "that holds all of it: --root DIR"
        ) from error


# --- into theirs ----------------------------------------------------------------------------------


def _write_theirs(path: Path, out: Path, form: Form) -> int:
    if out.exists():
        raise InputError(
            f"{out}: expected no file yet, found one; delete it or choose another --out"
        )
    lines = _format_nemo(path, out) if form == "nemo" else _format_table(path, out, form)
    count = 0
    with atomic_path(out) as temporary, temporary.open("wb") as file:
        for line in lines:
            file.write(line)
            count += 1
    return count if form == "nemo" else count - 1  # without the header


def _read_theirs(path: Path, out: Path) -> Iterator[Row]:
    """Yield our rows with `audio` relative to the folder of the new file."""
    above = relative_root(path, out)
    for _, row in read_rows(path):
        audio = row["audio"]
        if not is_remote(audio):
            audio = os.path.normpath(f"{above}/{audio}").replace(os.sep, "/")
        yield {**row, "audio": audio}


def _format_nemo(path: Path, out: Path) -> Iterator[bytes]:
    for row in _read_theirs(path, out):
        if "::" in row["audio"]:
            raise InputError(
                f"{path}: expected audio in files of its own, found {row['audio']!r}, which NeMo "
                "does not read; unpack the archive"
            )
        line = {_TO_NEMO.get(key, key): value for key, value in row.items()}
        yield format_row(line | {"text": row["text"] or ""})


def _format_table(path: Path, out: Path, form: Form) -> Iterator[bytes]:
    """Yield a header of every key that any row has, in the order they come, and the rows."""
    header: dict[str, None] = {}
    for _, row in read_rows(path):
        header |= dict.fromkeys(row)
    yield _format_line([*header], form)
    for row in _read_theirs(path, out):
        yield _format_line([_format_cell(row.get(key)) for key in header], form)


def _format_line(cells: list[str], form: Form) -> bytes:
    if form == "tsv":
        return ("\t".join(map(_one_line, cells)) + "\n").encode()
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue().encode()


def _one_line(text: str) -> str:
    """Between tabs a cell stands as it is, so that it can hold neither tab nor line end."""
    return " ".join(text.replace("\t", " ").splitlines())


def _format_cell(value: object) -> str:
    if value is None:
        return ""
    return value if type(value) is str else json.dumps(value, ensure_ascii=False)
