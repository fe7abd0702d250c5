"""Scores of parts of a test set: by speaker, accent, any key of its manifest, or by duration.

A mean hides whom a model does not understand. What each utterance belongs to is written once into
the run folder (`slices.json`), with the edges at which durations were cut, so that slices are
scored again from predictions like everything else, without the checkpoint whose longest recording
of training is one of the edges. Utterances and the statistics of a whole test set enter; rows with
value, interval and number of utterances leave.
"""

import json
import math
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blsp.derivation import find_value, name_value
from blsp.errors import InputError, suggest
from blsp.files import atomic_path
from blsp.manifest import Utterance, to_row
from blsp.metrics import Statistics, measure

FILE = "slices.json"
DURATION = "duration"
NOTHING = "(none)"
"""The slice of utterances that lack the field."""
MOST = 200
"""Slices of a field; more are no table that anybody reads."""
EDGES = (2.0, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Seconds at which durations are cut; Whisper hears 30 s at once."""
_NEAR = 0.1
"""An edge nearer to the longest recording of training than this share of it gives way to it."""
_BETWEEN = re.compile(r"([\d.e+-]+) to ([\d.e+-]+) s")
_OVER = re.compile(r"over ([\d.e+-]+) s")

Slices = Mapping[str, Mapping[str, str]]
"""Field -> id -> name of the slice, of one test set."""


@dataclass(frozen=True, kw_only=True)
class Sliced:
    """What `slices.json` holds."""

    slices: Mapping[str, Slices]
    """Condition -> slices."""
    trained_max_seconds: float | None = None
    """Of the checkpoint that was asked, if it knows and one was: an edge of the durations."""


def find_edges(trained_max_seconds: float | None) -> tuple[float, ...]:
    """Return the seconds at which durations are cut, with the longest of training among them."""
    if trained_max_seconds is None:
        return EDGES
    room = _NEAR * trained_max_seconds
    kept = [edge for edge in EDGES if abs(edge - trained_max_seconds) > room]
    return tuple(sorted([*kept, trained_max_seconds]))


def find_bounds(name: str) -> tuple[float, float] | None:
    """Return beginning and end in seconds of a slice of durations; None where it is of others."""
    if found := _BETWEEN.fullmatch(name):
        return float(found[1]), float(found[2])
    if found := _OVER.fullmatch(name):
        return float(found[1]), math.inf
    return None


def _name_duration(seconds: float, edges: Sequence[float]) -> str:
    """A slice has its end, and not its beginning."""
    at = bisect_left(edges, seconds)
    if at == len(edges):
        return f"over {edges[-1]:g} s"
    return f"{edges[at - 1] if at else 0:g} to {edges[at]:g} s"


def slice_utterances(
    utterances: Sequence[Utterance], field: str, *, trained_max_seconds: float | None = None
) -> dict[str, str]:
    """Return id -> name of the slice that the utterance is in.

    Args:
        utterances: of a test set.
        field: a key of the manifest, `translation.de` inside another, or `duration`.
        trained_max_seconds: the longest recording of training, where durations are cut too.

    Raises:
        InputError: no utterance has it, it holds more than a name, or too many of them.
    """
    if field == DURATION:
        edges = find_edges(trained_max_seconds)
        return {one.id: _name_duration(one.duration, edges) for one in utterances}
    rows = {one.id: to_row(one) for one in utterances}
    values = {identity: find_value(row, field) for identity, row in rows.items()}
    if all(value is None for value in values.values()):
        known = {key for row in rows.values() for key in row}
        raise InputError(
            f"--by: expected a key of the manifest, found none of {field!r}; "
            f"{suggest(field, known)}"
        )
    for identity, value in values.items():
        if isinstance(value, list | dict):
            raise InputError(
                f"--by: expected one name at {field!r}, found a {type(value).__name__} for "
                f"{identity!r}; name another key"
            )
    names = {i: NOTHING if value is None else name_value(value) for i, value in values.items()}
    if (count := len(set(names.values()))) > MOST:
        raise InputError(
            f"--by: expected at most {MOST} slices, found {count} at {field!r}; name another key"
        )
    return names


def write_slices(folder: Path, found: Sliced) -> None:
    """Write what is in which slice, joined with what an earlier part of the run wrote."""
    known, new = read_slices(folder).slices, found.slices
    joined = {name: {**known.get(name, {}), **new.get(name, {})} for name in {**known, **new}}
    content = {
        "edges": find_edges(found.trained_max_seconds),
        "trained_max_seconds": found.trained_max_seconds,
        "slices": joined,
    }
    text = json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True)
    with atomic_path(folder / FILE) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_slices(folder: Path) -> Sliced:
    """Return the slices of a run folder; none where nobody asked for any."""
    path = folder / FILE
    if not path.is_file():
        return Sliced(slices={})
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content.get("edges"), list):  # older runs have the slices alone
        return Sliced(slices=content)
    return Sliced(slices=content["slices"], trained_max_seconds=content["trained_max_seconds"])


def score_slices(
    scores: Mapping[str, Mapping[str, Statistics]], slices: Slices
) -> Iterator[dict[str, Any]]:
    """Yield a row for every field, slice, metric and system.

    A metric that compares utterances with each other has no score of a slice.

    Args:
        scores: metric -> system -> statistics of the whole test set.
        slices: of that test set.
    """
    for field, names in slices.items():
        for name in sorted(set(names.values()), key=_order):
            for by_system in scores.values():
                for system, statistics in by_system.items():
                    part = _select(statistics, names, name)
                    if part is not None:
                        yield {"by": field, "slice": name, "system": system, **_measure(part)}


def _measure(statistics: Statistics) -> dict[str, Any]:
    found = measure(statistics)
    return {key: getattr(found, key) for key in ("metric", "value", "ci_low", "ci_high", "n")}


def _select(statistics: Statistics, names: Mapping[str, str], name: str) -> Statistics | None:
    kept = [i for i, identity in enumerate(statistics.ids) if names.get(identity) == name]
    if not kept:
        return None
    ids = tuple(statistics.ids[i] for i in kept)
    return replace(statistics, ids=ids, counts=statistics.counts[kept])


def _order(name: str) -> tuple[int, float, str]:
    """Durations by length, numbers by size, names by alphabet, what lacks the field last."""
    if bounds := find_bounds(name):
        return 0, bounds[0], name
    try:
        return 0, float(name), name
    except ValueError:
        return 1 + (name == NOTHING), 0.0, name
