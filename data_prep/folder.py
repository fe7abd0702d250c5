"""Your own recordings: audio beside .txt files of the same name, or one CSV or TSV table.

A folder gives one utterance for every audio file with a `.txt` beside it, and with
`--untranscribed` for every other too, for `blsp data transcribe` to fill in. A table has a header
line with a column for the audio and one for the words; other columns become keys of the manifest.
Made anew each time, since such a corpus grows.
"""

import argparse
import csv
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from blsp.cli import main as run_blsp
from blsp.corpora import (
    Candidate,
    Dropped,
    Item,
    read_lines,
    relative_audio,
)
from blsp.errors import InputError
from blsp.preparation import (
    add_label_options,
    describe_manifest,
    read_labels,
    write_manifest,
)

SUFFIXES = {".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".sph"}
TABLES = {".csv", ".tsv"}
# What people call the two columns that must be there; the first that is found counts.
AUDIO_COLUMNS = ("audio", "path", "file", "file_name", "audio_path", "audio_filepath")
TEXT_COLUMNS = ("text", "transcript", "transcription", "sentence")
DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
TRANSLATION = "translation_"  # translation_de -> translation: {de: ...}


def main(argv: Sequence[str]) -> int:
    """Write one manifest."""
    options = _parse(argv)
    source, out = options.source_path, options.out
    labels = read_labels(options)
    if source.is_dir():
        name, root = source.resolve().name, source
        items = read_folder(source, labels, untranscribed=options.untranscribed)
    else:
        name, root = source.stem, options.audio_root or source.parent
        items = read_table(source, root, labels, untranscribed=options.untranscribed)
    path = out / f"{name}.jsonl"
    tally = write_manifest(path, items, root=root, command=_command(argv))
    print(describe_manifest(path, tally))
    return 0


def _command(argv: Sequence[str]) -> str:
    return shlex.join(["blsp", "prep", "folder", *argv])


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="blsp prep folder", description="Your own recordings to one manifest."
    )
    parser.add_argument(
        "source_path", type=Path, metavar="ROOT", help="folder with .txt beside audio, or a table"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the manifest")
    parser.add_argument("--audio-root", type=Path, help="of a table's paths; default: its folder")
    add_label_options(parser)
    return parser.parse_args(argv)


# --- audio beside .txt ----------------------------------------------------------------------------


def read_folder(root: Path, labels: Mapping[str, Any], *, untranscribed: bool) -> Iterator[Item]:
    """Yield the recordings below `root` that have a `.txt` beside them, or all.

    Raises:
        InputError: two audio files differ in their ending only, or there is a table instead.
    """
    audio, texts = _find_files(root)
    if not audio.keys() & texts.keys() and (tables := _find_tables(root)):
        raise InputError(
            f"{root}: expected audio with .txt beside it, found a table; name it: {tables[0]}"
        )
    for stem, path in audio.items():
        text, words = texts.pop(stem, None), None
        if text is not None:
            words = " ".join(word for _, line in read_lines(text) for word in line.split())
        elif not untranscribed:
            yield Dropped("audio without a .txt", str(path))
            continue
        yield Candidate(
            where=str(text or path),
            id=stem.relative_to(root).as_posix(),
            audio=path.relative_to(root).as_posix(),
            text=words,
            labels=labels,
        )
    yield from (Dropped("a .txt without audio", str(text)) for text in texts.values())


def _find_files(root: Path) -> tuple[dict[Path, Path], dict[Path, Path]]:
    """Return audio and texts, each by its path without the ending."""
    audio: dict[Path, Path] = {}
    texts: dict[Path, Path] = {}
    for path in sorted(root.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(root).parts):
            continue
        suffix = path.suffix.lower()
        if suffix == ".txt":
            texts[path.with_suffix("")] = path
        elif suffix in SUFFIXES:
            earlier = audio.setdefault(path.with_suffix(""), path)
            if earlier != path:
                raise InputError(
                    f"{path}: expected one audio file of that name, found {earlier.name} too; "
                    "move one away"
                )
    return audio, texts


def _find_tables(root: Path) -> list[Path]:
    return [path for path in sorted(root.iterdir()) if path.suffix.lower() in TABLES]


# --- one table ------------------------------------------------------------------------------------


def read_table(
    table: Path, root: Path, labels: Mapping[str, Any], *, untranscribed: bool
) -> Iterator[Item]:
    """Yield the recordings of a table; `root` is what its paths are relative to.

    Raises:
        InputError: no such columns, a line that does not fit the header, or a path outside `root`.
    """
    if table.suffix.lower() not in TABLES:
        raise InputError(
            f"{table}: expected a folder, a .csv or a .tsv, found none of them; check the path"
        )
    for where, row in _read_table(table):
        audio = relative_audio(row.pop("audio"), root, where)
        words, name = " ".join(row.pop("text").split()), row.pop("id", "")
        if not audio:
            yield Dropped("no audio named", where)
            continue
        yield Candidate(
            where=where,
            id=name or Path(audio).with_suffix("").as_posix(),
            audio=audio,
            text=words or None if untranscribed else words,
            start=_seconds(row, "start", where) or 0.0,
            duration=_seconds(row, "duration", where),
            labels={**labels, **_labels(row)},
        )


def _read_table(table: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield `file:line` and the cells of every line by column, under our names."""
    lines = (f"{line}\n" for _, line in read_lines(table))
    header = next(lines, "")
    delimiter, columns = _read_header(table, header)
    # In a table with tabs a quotation mark is one: few programs that write such tables quote.
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    while True:
        where = f"{table}:{reader.line_num + 2}"  # the header is line 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(
                f"{where}: expected cells between {DELIMITERS[delimiter]}s, found this: {error}; "
                'put a text with a quotation mark in quotes and write the mark twice: "a ""b"""'
            ) from error
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(columns):
            raise InputError(
                f"{where}: expected {len(columns)} cells as in the header, found {len(cells)}; put "
                f"a text that holds a {DELIMITERS[delimiter]} in quotes, or fill the line up"
            )
        yield where, dict(zip(columns, (cell.strip() for cell in cells), strict=True))


def _read_header(table: Path, header: str) -> tuple[str, list[str]]:
    """Return the delimiter that gives both needed columns, and the columns under our names."""
    for delimiter in DELIMITERS:
        names = next(csv.reader([header], delimiter=delimiter), [])
        columns = [name.strip().lower() for name in names]
        audio = next((name for name in AUDIO_COLUMNS if name in columns), None)
        text = next((name for name in TEXT_COLUMNS if name in columns), None)
        if audio and text:
            _check_columns(table, columns)
            ours = {audio: "audio", text: "text"}
            return delimiter, [ours.get(name, name) for name in columns]
    raise InputError(
        f"{table}:1: expected a header with a column for the audio ({', '.join(AUDIO_COLUMNS)}) "
        f"and one for the words ({', '.join(TEXT_COLUMNS)}), separated by "
        f"{', '.join(DELIMITERS.values())}, found {header.strip()[:60]!r}; write one"
    )


def _check_columns(table: Path, columns: list[str]) -> None:
    for name in columns:
        if not name or columns.count(name) > 1:
            raise InputError(
                f"{table}:1: expected a name of its own for every column, found {name!r} "
                f"{columns.count(name)} times; rename or remove it"
            )


def _seconds(row: dict[str, str], name: str, where: str) -> float | None:
    cell = row.pop(name, "")
    try:
        return float(cell) if cell else None
    except ValueError as error:
        raise InputError(
            f"{where}: {name}: expected seconds as a number, found {cell!r}; correct it"
        ) from error


def _labels(row: Mapping[str, str]) -> dict[str, Any]:
    """Return the other cells that are filled, translations by language."""
    labels: dict[str, Any] = {}
    for name, cell in row.items():
        if cell and name.startswith(TRANSLATION):
            labels.setdefault("translation", {})[name.removeprefix(TRANSLATION)] = cell
        elif cell:
            labels[name] = cell
    return labels


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "folder", *sys.argv[1:]]))
