"""From what a corpus says of its recordings to a manifest: the part that all preparations share.

A program in `data_prep` reads a corpus in the form its authors gave it, and yields a `Candidate`
for every recording and a `Dropped` for what it cannot use. Here their audio is measured by its
headers, what is left out is counted by reason, and manifests are written whole or not at all, one a
split. A split that is finished is not done again. Of a corpus only the ids are held in memory.
"""

import argparse
import csv
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from blsp.audio import TOLERANCE_SECONDS, read_audio_info
from blsp.errors import InputError, suggest
from blsp.manifest import Meta, Utterance, build_utterance, read_meta, write_rows
from blsp.rows import check_utterance
from blsp.validation import validate

_EXAMPLES = 3  # of each reason to drop a recording
_THREADS = 8  # headers of a network disk come slowly but many at once
_CHUNK = 1000
_KNOWN_FILES = 4096  # whose lengths are remembered: segments of one file come together
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
    labels: Mapping[str, Any] = field(default_factory=dict)
    """Other keys of the manifest's line: speaker, language, and the corpus's own."""


class Dropped(NamedTuple):
    """A recording, or a line about one, that cannot be used."""

    reason: str
    """The same words for all of a kind: they are counted."""
    which: str
    """Which one, and where it stands."""


Item = Candidate | Dropped


class Tally:
    """What was left out: how many for each reason, and the first few."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {"written": 0}
        self.examples: dict[str, list[str]] = {}

    def add(self, dropped: Dropped) -> None:
        """Count one."""
        self.counts[dropped.reason] = self.counts.get(dropped.reason, 0) + 1
        some = self.examples.setdefault(dropped.reason, [])
        if len(some) < _EXAMPLES:
            some.append(_printable(dropped.which))


# --- a program ------------------------------------------------------------------------------------


def build_parser(program: str, description: str) -> argparse.ArgumentParser:
    """Return the arguments that all programs share: `root`, `--out`, `--splits`.

    Args:
        program: as it is called, `blsp prep PROGRAM`.
        description: its docstring, of which the first line is shown.
    """
    parser = argparse.ArgumentParser(
        prog=f"blsp prep {program}", description=description.partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("root", type=Path, help="folder in which the archives were unpacked")
    parser.add_argument("--out", type=Path, required=True, help="folder for the manifests")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="default: all that are there")
    return parser


def prepare_splits(
    options: argparse.Namespace,
    splits: Mapping[str, Callable[[], Iterable[Item]]],
    *,
    program: str,
    root: Path,
    expected: str,
    choices: Sequence[str] = (),
) -> int:
    """Write the manifests of all splits, or of those that were named; returns the exit code.

    Args:
        options: of `build_parser`.
        splits: name -> reads its recordings.
        program: as it is called.
        root: folder that `audio` is relative to.
        expected: what lies below the user's folder, for the message where nothing does.
        choices: options of the program's own that decide rows, every default written out.

    Raises:
        InputError: no split, none of a name, or a manifest that another command wrote.
    """
    if not splits:
        raise InputError(
            f"{options.root}: expected {expected} below it, found none; name the folder in which "
            "the archives were unpacked"
        )
    for name in options.splits or splits:
        if name not in splits:
            raise InputError(
                f"--splits: expected one in {options.root}, found {name!r}; {suggest(name, splits)}"
            )
        path = options.out / f"{name}.jsonl"
        words = ["blsp", "prep", program, str(options.root), "--out", str(options.out)]
        command = shlex.join([*words, "--splits", name, *choices])
        if is_written(path, command):
            print(describe_manifest(path), flush=True)
            continue
        tally = write_manifest(path, splits[name](), root=root, command=command)
        print(describe_manifest(path, tally), flush=True)
    return 0


# --- reading what corpora say ---------------------------------------------------------------------


def _printable(text: str) -> str:
    """Bytes of a file name that are not UTF-8 come as half surrogate pairs; write them out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


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


def read_cells(path: Path, *, delimiter: str = ",") -> Iterator[tuple[str, list[str]]]:
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
    path: Path, columns: Iterable[str], *, delimiter: str = ","
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield `file:line` and the cells by column of a table whose first line names its columns.

    Raises:
        InputError: as `read_cells`, or a column is missing, or a line does not fit the first.
    """
    rows = read_cells(path, delimiter=delimiter)
    _, header = next(rows, ("", []))
    if lacking := [column for column in columns if column not in header]:
        raise InputError(
            f"{path}:1: expected the columns {', '.join(lacking)}, found "
            f"{', '.join(header) or 'an empty file'}; use the file of the corpus as it is"
        )
    for where, cells in rows:
        if len(cells) != len(header):
            raise InputError(
                f"{where}: expected {len(header)} cells as in the first line, found {len(cells)}; "
                "use the file of the corpus as it is"
            )
        yield where, dict(zip(header, cells, strict=True))


# --- measuring ------------------------------------------------------------------------------------


def write_manifest(path: Path, items: Iterable[Item], *, root: Path, command: str) -> Tally:
    """Measure recordings and write those that can be used.

    Args:
        path: the manifest.
        items: recordings, and what the corpus's reader has left out.
        root: folder that `audio` is relative to.
        command: what made the manifest, for its side file.

    Returns:
        What was left out.

    Raises:
        InputError: no recording is left, two have one id, or one has a label that a manifest would
            refuse.
    """
    relative = Path(os.path.relpath(root.resolve(), path.parent.resolve())).as_posix()
    tally = Tally()
    utterances = _measure_all(path, items, root, tally)
    # The counts are known when the rows are written, and the side file is written after them.
    write_rows(path, utterances, Meta(command=command, root=relative, counts=tally.counts))
    return tally


def is_written(path: Path, command: str) -> bool:
    """Tell whether this very command has written the manifest before.

    Raises:
        InputError: a manifest of that name is there, but another command wrote it.
    """
    if not path.exists():
        return False
    meta = read_meta(path)
    if meta is None or meta.command != command:
        found = f"`{meta.command}`" if meta else "one that does not say what made it"
        raise InputError(
            f"{path}: expected the manifest of `{command}`, found that of {found}; delete it or "
            "choose another --out"
        )
    return True


def _measure_all(
    path: Path, items: Iterable[Item], root: Path, tally: Tally
) -> Iterator[Utterance]:
    candidates = _sift(items, tally)
    for candidate, seconds in _show_progress(path.stem, _measure_in_threads(candidates, root)):
        if isinstance(seconds, InputError):
            there = Path(root, candidate.audio).exists()
            reason = "audio that cannot be read" if there else "no audio file"
            tally.add(Dropped(reason, f"{candidate.where}: {seconds}"))
            continue
        utterance = _build_utterance(candidate, seconds)
        if utterance is None:
            end = candidate.start + (candidate.duration or 0.0)
            told = f"until {end:.3f} s in {seconds:.3f} s of {candidate.audio}"
            tally.add(
                Dropped("a segment beyond the end of its audio", f"{candidate.where}: {told}")
            )
            continue
        tally.counts["written"] += 1
        yield utterance
    if not tally.counts["written"]:
        told = [f"{tally.counts[why]:,} {why}: {some[0]}" for why, some in tally.examples.items()]
        raise InputError(
            f"{path}: expected at least one recording with its words, found none; look into the "
            f"corpus ({'; '.join(told) or 'it holds no recording'})"
        )


def _sift(items: Iterable[Item], tally: Tally) -> Iterator[Candidate]:
    """Pass on what can be measured and count the rest.

    Raises:
        InputError: two recordings have one id.
    """
    places: dict[str, str] = {}
    for item in items:
        if isinstance(item, Dropped):
            tally.add(item)
            continue
        if (earlier := places.setdefault(item.id, item.where)) is not item.where:
            raise InputError(
                f"{item.where}: expected every id once, found {item.id!r} also at {earlier}; give "
                "each an id of its own"
            )
        if item.text is not None and not item.text.strip():
            tally.add(Dropped("no words", f"{item.where}: {item.id}"))
        elif _printable(item.audio) != item.audio:
            tally.add(Dropped("a file name that is not UTF-8", f"{item.where}: {item.audio}"))
        else:
            yield item


def _measure_in_threads(
    candidates: Iterator[Candidate], root: Path
) -> Iterator[tuple[Candidate, float | InputError]]:
    """Yield each candidate, and its file's seconds or why it has none."""

    @lru_cache(maxsize=_KNOWN_FILES)
    def measure(audio: str) -> float | InputError:
        try:
            seconds = read_audio_info(audio, root=root).seconds
        except InputError as error:
            return error
        return seconds or InputError(f"{audio}: expected samples, found none")

    with ThreadPoolExecutor(_THREADS) as threads:
        while chunk := list(islice(candidates, _CHUNK)):
            files = dict.fromkeys(candidate.audio for candidate in chunk)
            seconds = dict(zip(files, threads.map(measure, files), strict=True))
            for candidate in chunk:
                yield candidate, seconds[candidate.audio]


def _build_utterance(candidate: Candidate, seconds: float) -> Utterance | None:
    """Return the row of a candidate in a file of that many seconds; None if it is not inside.

    Raises:
        InputError: a manifest would refuse the row.
    """
    left = seconds - candidate.start
    duration = left if candidate.duration is None else candidate.duration
    if left <= 0 or duration > left + TOLERANCE_SECONDS:
        return None
    row = {
        "id": candidate.id,
        "audio": candidate.audio,
        "start": candidate.start,
        "duration": round(min(duration, left), 6),
        "text": candidate.text,
        **candidate.labels,
    }
    if problems := check_utterance(row):
        raise InputError(f"{candidate.where}: {problems[0]}")
    return build_utterance(row)


def _show_progress(
    name: str, measured: Iterator[tuple[Candidate, float | InputError]]
) -> Iterator[tuple[Candidate, float | InputError]]:
    """Pass recordings on and say on a terminal how far they are, twice a second."""
    begun = said = time.monotonic()
    for done, (candidate, seconds) in enumerate(measured, start=1):
        yield candidate, seconds
        now = time.monotonic()
        if sys.stderr.isatty() and now - said > 0.5:
            said = now
            text = f"{name}: {done:,} recordings, {done / (now - begun):,.0f}/s"
            print(f"\r{text:<60}", end="", file=sys.stderr, flush=True)
    if said != begun:
        print(file=sys.stderr)


# --- what is said ---------------------------------------------------------------------------------


def describe_manifest(path: Path, tally: Tally | None = None) -> str:
    """Return size and hours of a manifest, and what was left out of it."""
    report = validate(path)
    hours = report.seconds / 3600
    head = f"{path}: {report.rows:,} utterances, {hours:,.2f} h"
    if tally is None:
        return f"{head} (there since an earlier run)"
    return "\n".join([head, *_describe_dropped(tally)])


def _describe_dropped(tally: Tally) -> Iterator[str]:
    for reason, which in tally.examples.items():
        count = tally.counts[reason]
        yield f"  dropped {count:,}: {reason}"
        yield from (f"    {line}" for line in which)
        if count > len(which):
            yield f"    and {count - len(which):,} more"
