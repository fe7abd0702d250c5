"""Scores of parts of a test set: by speaker, accent, any key of its manifest, or by duration.

A mean hides whom a model does not understand. What each utterance belongs to is written once into
the run folder (`slices.json`: condition -> field -> id -> name of the slice), so that slices are
scored again from predictions like everything else. Utterances and the statistics of a whole test
set enter; rows with value, interval and number of utterances leave.
"""

import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
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
_ENDS = (2, 5, 10, 30)
_DURATIONS = ("0 to 2 s", "2 to 5 s", "5 to 10 s", "10 to 30 s", "over 30 s")
"""Each with its end, and without its beginning."""

Slices = Mapping[str, Mapping[str, str]]
"""Field -> id -> name of the slice, of one test set."""


def slice_utterances(utterances: Sequence[Utterance], field: str) -> dict[str, str]:
    """Return id -> name of the slice that the utterance is in.

    Args:
        utterances: of a test set.
        field: a key of the manifest, `translation.de` inside another, or `duration`.

    Raises:
        InputError: no utterance has it, it holds more than a name, or too many of them.
    """
    if field == DURATION:
        return {one.id: _DURATIONS[bisect_left(_ENDS, one.duration)] for one in utterances}
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


def write_slices(folder: Path, found: Mapping[str, Slices]) -> None:
    """Write condition -> slices, joined with what an earlier part of the run wrote."""
    known = read_slices(folder)
    joined = {name: {**known.get(name, {}), **found.get(name, {})} for name in {**known, **found}}
    text = json.dumps(joined, indent=1, ensure_ascii=False, sort_keys=True)
    with atomic_path(folder / FILE) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_slices(folder: Path) -> dict[str, Slices]:
    """Return condition -> slices of a run folder; none where nobody asked for any."""
    path = folder / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


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
    if name in _DURATIONS:
        return 0, _DURATIONS.index(name), name
    try:
        return 0, float(name), name
    except ValueError:
        return 1 + (name == NOTHING), 0.0, name
