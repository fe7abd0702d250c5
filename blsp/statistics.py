"""What a manifest or conversations file is made of: hours, lengths, speaking rates, labels.

One pass keeps three numbers a recording and a count a label, never a row. A path enters; a
`Statistics` leaves, and its text for a terminal (`blsp.statistics_page` draws it).
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from blsp.derivation import Row, name_value, read_rows
from blsp.manifest import Kind, find_kind
from blsp.rows import recordings_of, words_of

DURATION, WORD_RATE, CHARACTER_RATE = "seconds", "words per second", "characters per second"
RESPONSE_WORDS = "words per response"
LABELS = ("language", "speaker", "emotion", "intent", "kind", "finish_reason", "source", "license")
SHOWN = 10
"""Values of a label that are listed; the others are counted."""
_BINS = 12
_BAR = 40  # characters


class Bin(NamedTuple):
    """One bar of a histogram: from `low` up to, not including, `high`; None has no end."""

    low: float
    high: float | None
    size: int

    @property
    def label(self) -> str:
        """Its borders."""
        end = "more" if self.high is None else f"{self.high:g}"
        return f"{self.low:g} to {end}"


@dataclass(slots=True)
class Share:
    """How much has one value of a label."""

    count: int = 0
    """Rows, or recordings where the label is theirs."""
    seconds: float = 0.0


@dataclass(kw_only=True)
class Statistics:
    """What a file holds."""

    kind: Kind
    rows: int = 0
    recordings: int = 0
    without_words: int = 0
    """Recordings without a transcript, or with an empty one."""
    values: dict[str, array] = field(default_factory=dict)
    """What is measured -> that number of every recording that has it."""
    labels: dict[str, dict[str, Share]] = field(default_factory=dict)
    """Label -> value -> how much has it."""

    @property
    def hours(self) -> float:
        """Of audio in all; a segment counts with its own length."""
        return sum(self.values.get(DURATION, ())) / 3600


def compute_statistics(path: Path) -> Statistics:
    """Read a whole file.

    Raises:
        InputError: the first line that is wrong, or there is none.
    """
    found = Statistics(kind=find_kind(path))
    for _, row in read_rows(path):
        found.rows += 1
        seconds = 0.0
        for recording in recordings_of(row):
            seconds += recording["duration"]
            _add_recording(found, recording)
        _add_labels(found, row, seconds)
        if found.kind == "conversations":
            _add_responses(found, row)
    return found


def _add_recording(found: Statistics, recording: Row) -> None:
    duration, words = recording["duration"], words_of(recording)
    found.recordings += 1
    _add(found, DURATION, duration)
    if words is None or not words.strip():
        found.without_words += 1
        return
    _add(found, WORD_RATE, len(words.split()) / duration)
    _add(found, CHARACTER_RATE, len(words.strip()) / duration)


def _add(found: Statistics, what: str, value: float) -> None:
    # Four bytes would be enough to draw, but sums of durations are told in hundredths of an hour.
    found.values.setdefault(what, array("d")).append(value)


def _add_labels(found: Statistics, row: Row, seconds: float) -> None:
    for label in LABELS:
        if (value := row.get(label)) is not None:
            _count(found, label, name_value(value), seconds)
        elif "messages" in row:
            for recording in recordings_of(row):
                if (value := recording.get(label)) is not None:
                    _count(found, label, value, recording["duration"])


def _count(found: Statistics, label: str, value: str, seconds: float) -> None:
    shares = found.labels.setdefault(label, {})
    share = shares.get(value)
    if share is None:
        share = shares[value] = Share()
    share.count += 1
    share.seconds += seconds


def _add_responses(found: Statistics, row: Row) -> None:
    for message in row["messages"]:
        if message["role"] == "assistant":
            content = message["content"]
            texts = [content] if type(content) is str else [part["text"] for part in content]
            _add(found, RESPONSE_WORDS, len(" ".join(texts).split()))


# --- histograms -----------------------------------------------------------------------------------


def build_histogram(values: "array[float]") -> list[Bin]:
    """Return bins of one round width from 0 on, the last of them open: it holds the stragglers.

    The width is the smallest of 1, 2, 2.5 and 5 times a power of ten with which 99 % of the values
    are in the others.
    """
    numbers = np.frombuffer(values, dtype=np.float64)
    width = _round_up(float(np.quantile(numbers, 0.99)) / (_BINS - 1))
    places = np.minimum((numbers / width).astype(np.int64), _BINS - 1)
    counts = np.bincount(places, minlength=_BINS).tolist()
    last = max(place for place, count in enumerate(counts) if count)
    bins = [
        Bin(round(place * width, 9), round((place + 1) * width, 9), counts[place])
        for place in range(min(last + 1, _BINS - 1))
    ]
    if last == _BINS - 1:
        bins.append(Bin(round(last * width, 9), None, counts[last]))
    return bins


def _round_up(value: float) -> float:
    if value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value))


class Spread(NamedTuple):
    """Where values lie."""

    low: float
    low_tail: float
    median: float
    mean: float
    high_tail: float
    high: float


def compute_spread(values: "array[float]") -> Spread:
    """Return smallest, first percentile, median, mean, last percentile and largest."""
    numbers = np.frombuffer(values, dtype=np.float64)
    low, low_tail, median, high_tail, high = np.quantile(numbers, (0, 0.01, 0.5, 0.99, 1)).tolist()
    return Spread(low, low_tail, median, float(numbers.mean()), high_tail, high)


def describe_spread(spread: Spread) -> str:
    """Return it in one line."""
    return (
        f"median {spread.median:.4g}, mean {spread.mean:.4g}, "
        f"98 % in {spread.low_tail:.4g} to {spread.high_tail:.4g}, "
        f"all in {spread.low:.4g} to {spread.high:.4g}"
    )


# --- text -----------------------------------------------------------------------------------------


def describe_file(found: Statistics) -> str:
    """Return rows, recordings and hours in one line."""
    parts = [f"{found.rows:,} lines", f"{found.hours:,.2f} h of audio"]
    if found.kind == "conversations":
        parts.insert(1, f"{found.recordings:,} recordings")
    if found.without_words:
        parts.append(f"{found.without_words:,} recordings without words")
    return f"{found.kind}, {', '.join(parts)}"


def describe_statistics(path: Path, found: Statistics) -> str:
    """Return all of it for a terminal."""
    lines = [f"{path}: {describe_file(found)}"]
    for what, values in found.values.items():
        lines += ["", f"{what}: {describe_spread(compute_spread(values))}"]
        lines += _draw_bars([(one.label, one.size) for one in build_histogram(values)])
    for label in found.labels:
        shares = most_common(found, label)
        lines += ["", f"{label}: {describe_variety(found, label)}"]
        lines += _draw_bars(
            [(value, share.count) for value, share in shares],
            [f"{share.seconds / 3600:,.2f} h" for _, share in shares],
        )
    return "\n".join(lines)


def most_common(found: Statistics, label: str) -> list[tuple[str, Share]]:
    """Return the values of a label that are listed, the most frequent first."""
    return sorted(found.labels[label].items(), key=lambda pair: -pair[1].count)[:SHOWN]


def describe_variety(found: Statistics, label: str) -> str:
    """Return how many values of a label there are, and how many are not listed."""
    count = len(found.labels[label])
    listed = f", the {SHOWN} most frequent" if count > SHOWN else ""
    return f"{count:,} {'value' if count == 1 else 'values'}{listed}"


def _draw_bars(bars: list[tuple[str, int]], notes: list[str] | None = None) -> Iterator[str]:
    wide, most = max(len(label) for label, _ in bars), max(count for _, count in bars)
    digits = max(len(f"{count:,}") for _, count in bars)
    for at, (label, count) in enumerate(bars):
        # A few of a million must still be seen.
        bar = "█" * max(round(_BAR * count / most), 1 if count else 0)
        note = f"  {notes[at]:>10}" if notes else ""
        yield f"  {label:<{wide}}  {count:>{digits},}{note}  {bar}".rstrip()
