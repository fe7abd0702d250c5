"""From what a corpus says of its recordings to a manifest: the part that all preparations share.

A program in `data_prep` reads a corpus in the form its authors gave it and adds a `Candidate` for
every recording to a `Listing`. Here their audio is measured by its headers, what cannot be used is
dropped and counted by reason, and a manifest is written whole or not at all.
"""

import os
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from blsp.audio import TOLERANCE_SECONDS, read_audio_info
from blsp.errors import InputError
from blsp.manifest import Meta, Utterance, build_utterance, read_meta, write_rows
from blsp.rows import check_utterance
from blsp.validation import validate

_EXAMPLES = 3  # of each reason to drop a recording
_THREADS = 8  # headers of a network disk come slowly but many at once
_CHUNK = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """What a corpus says of one recording, before anybody has looked at the audio."""

    where: str
    """The line that says so, as `file:line`."""
    id: str
    audio: str
    """Relative to the root, `/` between folders."""
    text: str
    start: float = 0.0
    duration: float | None = None
    """Seconds; None reaches to the end of the file."""
    labels: Mapping[str, Any] = field(default_factory=dict)
    """Other keys of the manifest's line: speaker, language, and the corpus's own."""


@dataclass(kw_only=True)
class Listing:
    """The recordings of one manifest to be, and those left out."""

    candidates: list[Candidate] = field(default_factory=list)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    """Why -> which, each one line."""
    _places: dict[str, str] = field(default_factory=dict)

    def add(self, candidate: Candidate) -> None:
        """Take a recording in; one without words is dropped.

        Raises:
            InputError: another recording has the same id.
        """
        earlier = self._places.setdefault(candidate.id, candidate.where)
        if earlier != candidate.where:
            raise InputError(
                f"{candidate.where}: expected every id once, found {candidate.id!r} also at "
                f"{earlier}; give each an id of its own"
            )
        if not candidate.text:
            self.drop("no words", f"{candidate.where}: {candidate.id}")
        elif _printable(candidate.audio) != candidate.audio:
            self.drop("a file name that is not UTF-8", f"{candidate.where}: {candidate.audio}")
        else:
            self.candidates.append(candidate)

    def drop(self, reason: str, which: str) -> None:
        """Leave a recording out."""
        self.dropped.setdefault(reason, []).append(_printable(which))


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


# --- measuring ------------------------------------------------------------------------------------


def write_manifest(path: Path, listing: Listing, *, root: Path, command: str) -> None:
    """Measure the recordings of a listing and write those that can be used.

    Args:
        path: the manifest.
        listing: recordings whose audio cannot be used move to its `dropped`.
        root: folder that `audio` is relative to.
        command: what made the manifest, for its side file.

    Raises:
        InputError: no recording is left, or one has a label that a manifest would refuse.
    """
    relative = Path(os.path.relpath(root.resolve(), path.parent.resolve())).as_posix()
    write_rows(path, _measure_all(path, listing, root), Meta(command=command, root=relative))


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


def _measure_all(path: Path, listing: Listing, root: Path) -> Iterator[Utterance]:
    count = 0
    for candidate, seconds in _show_progress(path.stem, _measure_in_threads(listing, root)):
        if isinstance(seconds, InputError):
            there = Path(root, candidate.audio).exists()
            reason = "audio that cannot be read" if there else "no audio file"
            listing.drop(reason, f"{candidate.where}: {seconds}")
            continue
        utterance = _build_utterance(candidate, seconds)
        if utterance is None:
            end = candidate.start + (candidate.duration or 0.0)
            listing.drop(
                "a segment beyond the end of its audio",
                f"{candidate.where}: until {end:.3f} s in {seconds:.3f} s of {candidate.audio}",
            )
            continue
        count += 1
        yield utterance
    if not count:
        dropped = [f"{len(which):,} {why}: {which[0]}" for why, which in listing.dropped.items()]
        raise InputError(
            f"{path}: expected at least one recording with its words, found none; look into the "
            f"corpus ({'; '.join(dropped) or 'it holds no recording'})"
        )


def _measure_in_threads(
    listing: Listing, root: Path
) -> Iterator[tuple[int, Candidate, float | InputError]]:
    """Yield how many there are, each candidate, and its file's seconds or why it has none."""

    def measure(candidate: Candidate) -> float | InputError:
        try:
            seconds = read_audio_info(candidate.audio, root=root).seconds
        except InputError as error:
            return error
        return seconds or InputError(f"{candidate.audio}: expected samples, found none")

    remaining, total = iter(listing.candidates), len(listing.candidates)
    with ThreadPoolExecutor(_THREADS) as threads:
        while chunk := list(islice(remaining, _CHUNK)):
            for candidate, seconds in zip(chunk, threads.map(measure, chunk), strict=True):
                yield total, candidate, seconds


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
    name: str, measured: Iterator[tuple[int, Candidate, float | InputError]]
) -> Iterator[tuple[Candidate, float | InputError]]:
    """Pass recordings on and say on a terminal how far they are, twice a second."""
    begun = said = time.monotonic()
    for done, (total, candidate, seconds) in enumerate(measured, start=1):
        yield candidate, seconds
        now = time.monotonic()
        if sys.stderr.isatty() and now - said > 0.5:
            said, speed = now, done / (now - begun)
            text = f"{name}: {done / total:4.0%}, {speed:,.0f} files/s, "
            text += f"{(total - done) / speed:,.0f} s left"
            print(f"\r{text:<60}", end="", file=sys.stderr, flush=True)
    if said != begun:
        print(file=sys.stderr)


# --- what is said ---------------------------------------------------------------------------------


def describe_manifest(path: Path, listing: Listing | None = None) -> str:
    """Return size and hours of a manifest, and what was left out of it."""
    report = validate(path)
    hours = report.seconds / 3600
    head = f"{path}: {report.rows:,} utterances, {hours:,.2f} h"
    if listing is None:
        return f"{head} (there since an earlier run)"
    return "\n".join([head, *_describe_dropped(listing)])


def _describe_dropped(listing: Listing) -> Iterator[str]:
    for reason, which in listing.dropped.items():
        yield f"  dropped {len(which):,}: {reason}"
        yield from (f"    {line}" for line in which[:_EXAMPLES])
        if len(which) > _EXAMPLES:
            yield f"    and {len(which) - _EXAMPLES:,} more"
