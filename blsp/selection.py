"""Choosing rows of a manifest or conversations file: those that pass, or one part of several.

Rows go by as a stream and keep every key. What does not pass is counted by the first condition that
it fails. Parts go by a hash of one field: the same value is always in the same part, in whatever
file and order it comes, so that rows added later move no other. A path and conditions or shares
enter; files with side files leave, whole or not at all.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from blsp.derivation import (
    Row,
    derive_meta,
    find_value,
    format_row,
    name_value,
    read_rows,
    write_derived,
)
from blsp.errors import InputError, suggest
from blsp.files import atomic_path
from blsp.locking import hold
from blsp.manifest import find_written, write_meta
from blsp.rows import recordings_of, words_of

KEPT = "written"
_FAR_OFF = 0.25  # of a share that was asked for


class Condition(NamedTuple):
    """What a row must fulfil to be kept."""

    reason: str
    """What is said of rows that do not."""
    passes: Callable[[Row], bool]


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The smallest and the largest value that pass; None has no bound."""

    low: float | None = None
    high: float | None = None


def build_conditions(
    *,
    seconds: Bounds,
    word_rate: Bounds,
    languages: Sequence[str],
    where: Sequence[str],
) -> list[Condition]:
    """Return conditions in the order in which they are looked at.

    Args:
        seconds: of every recording of a row.
        word_rate: words per second of every recording; one without words passes no bound.
        languages: any of them; none asks for nothing.
        where: `KEY=VALUE` and `KEY!=VALUE`; an empty value means that there is none, or that it
            is an empty text.

    Raises:
        InputError: no condition at all, a `where` of another form, or bounds that nothing is
            between.
    """
    conditions = [
        *_bound("seconds", "s", seconds, lambda recording: recording["duration"]),
        *_bound("words-per-second", "words a second", word_rate, _find_word_rate),
        *([_any_language(languages)] if languages else []),
        *map(_parse_where, where),
    ]
    if not conditions:
        raise InputError(
            "blsp data filter: expected a condition, found none; name one, such as --max-seconds 30"
        )
    return conditions


def _bound(
    flag: str, unit: str, bounds: Bounds, measure: Callable[[Row], float | None]
) -> Iterator[Condition]:
    low, high = bounds.low, bounds.high
    if low is not None and high is not None and low > high:
        raise InputError(
            f"--max-{flag}: expected at least --min-{flag} {low:g}, found {high:g}; correct one"
        )
    if low is not None:
        yield Condition(f"below {low:g} {unit}", _all_recordings(measure, lambda x: x >= low))
    if high is not None:
        yield Condition(f"above {high:g} {unit}", _all_recordings(measure, lambda x: x <= high))


def _all_recordings(
    measure: Callable[[Row], float | None], passes: Callable[[float], bool]
) -> Callable[[Row], bool]:
    def check(row: Row) -> bool:
        values = [measure(recording) for recording in recordings_of(row)]
        return all(value is not None and passes(value) for value in values)

    return check


def _find_word_rate(recording: Row) -> float | None:
    words = words_of(recording)
    return None if words is None else len(words.split()) / recording["duration"]


def _any_language(languages: Sequence[str]) -> Condition:
    reason = f"language is not {' or '.join(languages)}"
    return Condition(reason, lambda row: find_value(row, "language") in languages)


def _parse_where(text: str) -> Condition:
    key, equals, wanted = text.partition("=")
    differs = key.endswith("!")
    key = key.removesuffix("!")
    if not key or not equals:
        raise InputError(
            f"--where: expected KEY=VALUE or KEY!=VALUE, found {text!r}; write it so, in quotes"
        )
    return Condition(f"not {text}", lambda row: (_value_text(row, key) == wanted) != differs)


def _value_text(row: Row, key: str) -> str:
    value = find_value(row, key)
    return "" if value is None else name_value(value)


# --- filter ---------------------------------------------------------------------------------------


def write_filtered(
    path: Path, out: Path, conditions: Sequence[Condition], *, command: str
) -> dict[str, int]:
    """Write the rows that pass every condition.

    Args:
        path: manifest or conversations.
        out: what to write.
        conditions: see `build_conditions`.
        command: for the side file.

    Returns:
        How many were `written`, and how many failed each condition first.

    Raises:
        InputError: no row passes, a bad line, or a file there that another command wrote.
    """
    counts = {KEPT: 0}
    with hold(out):
        find_written(out, command)
        meta = derive_meta(path, out, command=command, counts=counts)
        write_derived(out, _sift(path, conditions, counts), meta)
    return counts


def _sift(path: Path, conditions: Sequence[Condition], counts: dict[str, int]) -> Iterator[Row]:
    for _, row in read_rows(path):
        failed = next((each.reason for each in conditions if not each.passes(row)), None)
        reason = failed or KEPT
        counts[reason] = counts.get(reason, 0) + 1
        if failed is None:
            yield row
    if not counts[KEPT]:
        told = ", ".join(f"{count:,} {why}" for why, count in counts.items() if why != KEPT)
        raise InputError(
            f"{path}: expected rows that pass, found none among {sum(counts.values()):,} ({told}); "
            f"`blsp data stats {path}` says what there is"
        )


# --- split ----------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Part:
    """One of the files that a split writes, and how it came out."""

    path: Path
    share: float
    """What was asked for."""
    rows: int = 0
    seconds: float = 0.0


def parse_parts(text: str) -> dict[str, float]:
    """Return name -> share of `train=0.9,dev=0.05,test=0.05`.

    Raises:
        InputError: another form, a name twice or not fit for a file, or shares that are not 1 in
            all.
    """
    shares: dict[str, float] = {}
    for piece in text.split(","):
        name, _, number = (part.strip() for part in piece.partition("="))
        share = _parse_share(number)
        if not name or Path(name).name != name or name in shares or share is None:
            raise InputError(
                f"--parts: expected NAME=SHARE with names of their own and shares above 0, found "
                f"{piece!r}; write train=0.9,dev=0.05,test=0.05"
            )
        shares[name] = share
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise InputError(
            f"--parts: expected shares of 1 in all, found {sum(shares.values()):g}; change one"
        )
    return shares


def _parse_share(text: str) -> float | None:
    try:
        share = float(text)
    except ValueError:
        return None
    return share if 0 < share <= 1 else None


def choose_part(value: str, shares: Mapping[str, float]) -> str:
    """Return the part of a value: its hash as a number in [0, 1), among the shares in order."""
    digest = hashlib.blake2b(value.encode(), digest_size=8).digest()
    place, end = int.from_bytes(digest, "big") / 2**64, 0.0
    for name, share in shares.items():
        end += share
        if place < end:
            return name
    return list(shares)[-1]  # the shares are 1 but for rounding


def write_parts(
    path: Path, folder: Path, shares: Mapping[str, float], *, by: str, command: str
) -> list[Part]:
    """Write one file a part, `FOLDER/NAME.jsonl`, and return how they came out.

    Args:
        path: manifest or conversations.
        folder: for the parts.
        shares: see `parse_parts`.
        by: the field whose values stay together.
        command: for the side files.

    Raises:
        InputError: a row without the field, a part without rows, a bad line, or a file there that
            another command wrote.
    """
    parts = {
        name: Part(path=folder / f"{name}.jsonl", share=share) for name, share in shares.items()
    }
    with ExitStack() as held:
        for part in parts.values():
            held.enter_context(hold(part.path))
            find_written(part.path, command)
        with ExitStack() as opened:
            temporary = {
                name: opened.enter_context(atomic_path(part.path)) for name, part in parts.items()
            }
            _distribute(path, parts, temporary, by=by)
            for part in parts.values():
                counts = {KEPT: part.rows}
                write_meta(part.path, derive_meta(path, part.path, command=command, counts=counts))
    return list(parts.values())


def _distribute(
    path: Path, parts: Mapping[str, Part], temporary: Mapping[str, Path], *, by: str
) -> None:
    shares = {name: part.share for name, part in parts.items()}
    with ExitStack() as opened:
        files = {name: opened.enter_context(file.open("wb")) for name, file in temporary.items()}
        for number, row in read_rows(path):
            name = choose_part(_find_group(row, by, f"{path}:{number}"), shares)
            files[name].write(format_row(row))
            parts[name].rows += 1
            parts[name].seconds += sum(one["duration"] for one in recordings_of(row))
    for name, part in parts.items():
        if not part.rows:
            raise InputError(
                f"{path}: expected rows for every part, found none for {name!r}: too few values of "
                f"{by!r}; ask for fewer parts or larger shares"
            )


def _find_group(row: Row, by: str, where: str) -> str:
    value = find_value(row, by)
    if value is None or value == "":
        raise InputError(
            f"{where}: expected the field {by!r} in every row, found none (or recordings that "
            f"differ in it); {suggest(by, row)} `blsp data filter --where {by}!=` drops such rows"
        )
    return name_value(value)


def find_far_off(parts: Sequence[Part]) -> list[str]:
    """Return a line for each part whose share of rows or hours is far from what was asked for."""
    total_rows, total = sum(part.rows for part in parts), sum(part.seconds for part in parts)
    lines = []
    for part in parts:
        of_rows = part.rows / total_rows
        of_hours = part.seconds / total if total else of_rows
        if max(abs(of_rows - part.share), abs(of_hours - part.share)) > _FAR_OFF * part.share:
            lines.append(
                f"{part.path}: expected {part.share:.1%}, found {of_rows:.1%} of the rows and "
                f"{of_hours:.1%} of the hours (few values, or some with much of all)"
            )
    return lines
