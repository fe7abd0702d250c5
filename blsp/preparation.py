"""From what a corpus says of its recordings to a manifest: the part that all preparations share.

A program in `data_prep` reads a corpus in the form its authors gave it, and yields a `Candidate`
for every recording and a `Dropped` for what it cannot use. Here their audio is measured by its
headers, what is left out is counted by reason, and manifests are written whole or not at all, one a
split. A split that is finished is not done again. Of a corpus only the ids are held in memory.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from pathlib import Path

from blsp.audio import TOLERANCE_SECONDS, read_audio_info
from blsp.corpora import Candidate, Dropped, Item
from blsp.errors import InputError, suggest
from blsp.locking import hold
from blsp.manifest import (
    Meta,
    Utterance,
    build_utterance,
    find_written,
    relative_folder,
    write_rows,
)
from blsp.remote import is_remote
from blsp.rows import check_utterance
from blsp.validation import validate

_EXAMPLES = 3  # of each reason to drop a recording
_THREADS = 8  # headers of a network disk come slowly but many at once
_CHUNK = 1000
_KNOWN_FILES = 4096  # whose lengths are remembered: segments of one file come together
_LABELS = {
    "language": "of all recordings, such as en",
    "license": "of all recordings, such as CC-BY-4.0",
    "source": "name of the corpus",
}
_CUT_SECONDS = 0.5  # programs count an MP3's padding differently, by less than this


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


def _printable(text: str) -> str:
    """Bytes of a file name that are not UTF-8 come as half surrogate pairs; write them out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


# --- a program ------------------------------------------------------------------------------------


def build_parser(
    program: str, description: str, *, root: str = "folder in which the archives were unpacked"
) -> argparse.ArgumentParser:
    """Return the arguments that all programs share: `root`, `--out`, `--splits`.

    Args:
        program: as it is called, `blsp prep PROGRAM`.
        description: its docstring, of which the first line is shown.
        root: what the user names.
    """
    parser = argparse.ArgumentParser(
        prog=f"blsp prep {program}", description=description.partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("root", type=Path, help=root)
    parser.add_argument("--out", type=Path, required=True, help="folder for the manifests")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="default: all that are there")
    return parser


def add_label_options(parser: argparse.ArgumentParser, *, without: str = "") -> None:
    """Add what a corpus without a program of its own does not say of its recordings.

    Args:
        parser: of the program.
        without: the label that the corpus itself says, such as `language`.
    """
    parser.add_argument(
        "--untranscribed", action="store_true", help="keep recordings that nobody has written down"
    )
    for name, meaning in _LABELS.items():
        if name != without:
            parser.add_argument(f"--{name}", help=meaning)


def read_labels(options: argparse.Namespace) -> dict[str, str]:
    """Return what the options of `add_label_options` say of every recording."""
    pairs = ((name, getattr(options, name, None)) for name in _LABELS)
    return {name: value for name, value in pairs if value}


def write_choices(options: argparse.Namespace, *own: str) -> list[str]:
    """Return options that decide rows as words of a command.

    Args:
        options: of a program with `add_label_options`.
        own: the program's own that decide rows, too, such as `audio_root`.
    """
    words = []
    for name in (*own, *_LABELS, "untranscribed"):
        value = getattr(options, name, None)
        for one in value if isinstance(value, list) else [value]:
            flag = f"--{name.replace('_', '-')}"
            words += [flag] if one is True else [flag, str(one)] if one else []
    return words


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

    A split that cannot be written does not keep the others from it.

    Args:
        options: of `build_parser`.
        splits: name -> reads its recordings.
        program: as it is called.
        root: folder that `audio` is relative to.
        expected: what lies below the user's folder, for the message where nothing does.
        choices: options of the program's own that decide rows, every default written out.

    Raises:
        InputError: no split, or none of a name; or, a line each and once all others are written,
            splits without a usable recording or with a manifest that another command wrote.
    """
    if not splits:
        raise InputError(
            f"{options.root}: expected {expected} below it, found none; name the folder in which "
            "the archives were unpacked"
        )
    names, failures = options.splits or list(splits), []
    for name in names:
        if name not in splits:
            raise InputError(
                f"--splits: expected one in {options.root}, found {name!r}; {suggest(name, splits)}"
            )
    for name in names:
        path = options.out / f"{name}.jsonl"
        words = ["blsp", "prep", program, str(options.root), "--out", str(options.out)]
        command = shlex.join([*words, "--splits", name, *choices])
        try:
            tally = _prepare_split(path, splits[name], root=root, command=command)
        except InputError as error:
            failures.append(error)
        else:
            print(describe_manifest(path, tally), flush=True)
    if failures:
        raise InputError("\n".join(map(str, failures))) from failures[0]
    return 0


def _prepare_split(
    path: Path, read: Callable[[], Iterable[Item]], *, root: Path, command: str
) -> Tally | None:
    """Write one manifest; returns what was left out, None where it is there already."""
    with hold(path):
        if find_written(path, command) is not None:
            return None
        return write_manifest(path, read(), root=root, command=command)


def choose_one(flag: str, asked: str | None, found: Iterable[str], *, root: Path) -> str:
    """Return what was asked for, or else the only one there is: a language, a pair of them.

    Args:
        flag: the option that asks, such as `--language`.
        asked: its value.
        found: what there is, at least one.
        root: where.

    Raises:
        InputError: it is not there, or several are and none was asked for.
    """
    names = sorted(found)
    if asked is None and len(names) == 1:
        return names[0]
    if asked not in names:
        advice = suggest(asked, names) if asked else f"choose from {', '.join(names)}"
        raise InputError(
            f"{flag}: expected one of the {len(names)} in {root}, found {asked!r}; {advice}"
        )
    return asked


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
    tally = Tally()
    utterances = _measure_all(path, items, root, tally)
    # The counts are known when the rows are written, and the side file is written after them.
    meta = Meta(command=command, root=relative_folder(root, path), counts=tally.counts)
    write_rows(path, utterances, meta)
    return tally


def _measure_all(
    path: Path, items: Iterable[Item], root: Path, tally: Tally
) -> Iterator[Utterance]:
    candidates = _sift(items, tally)
    for candidate, seconds in _show_progress(path.stem, _measure_in_threads(candidates, root)):
        found = _build_utterance(candidate, seconds, root)
        if isinstance(found, Dropped):
            tally.add(found)
        else:
            tally.counts["written"] += 1
            yield found
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
        count = len(places)
        earlier = places.setdefault(item.id, item.where)
        if len(places) == count:
            raise InputError(
                f"{item.where}: expected every id once, found {item.id!r} also at {earlier}; give "
                "each an id of its own"
            )
        if item.text is not None and not item.text.strip():
            tally.add(Dropped("no words", f"{item.where}: {item.id}"))
        elif item.duration is not None and item.duration <= 0:
            tally.add(Dropped("a segment without length", f"{item.where}: {item.id}"))
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


def _build_utterance(
    candidate: Candidate, seconds: float | InputError, root: Path
) -> Utterance | Dropped:
    """Return the row of a candidate in a file of that many seconds, or why it cannot have one.

    Raises:
        InputError: a manifest would refuse the row.
    """
    where, told = candidate.where, candidate.file_seconds
    if isinstance(seconds, InputError):
        file = candidate.audio.partition("::")[0]  # an archive counts
        there = is_remote(file) or Path(root, file).exists()
        reason = "audio that cannot be read" if there else "no audio file"
        return Dropped(reason, f"{where}: {seconds}")
    if told is not None and seconds < told - _CUT_SECONDS:
        rest = f"{seconds:.3f} s of {told:.3f} s in {candidate.audio}"
        return Dropped("audio that was cut", f"{where}: {rest}")
    left = seconds - candidate.start
    duration = left if candidate.duration is None else candidate.duration
    if left <= 0 or duration > left + TOLERANCE_SECONDS:
        end = candidate.start + (candidate.duration or 0.0)
        beyond = f"until {end:.3f} s in {seconds:.3f} s of {candidate.audio}"
        return Dropped("a segment beyond the end of its audio", f"{where}: {beyond}")
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
