"""Answers that are right or wrong: exact match, and labels read out of free text.

A language model answers "The intent is play music."; the parser finds the label by a written rule
and never guesses: what it cannot tell counts as wrong, and its share is a metric of its own.
"""

import re
from collections.abc import Sequence

from blsp.errors import InputError, suggest
from blsp.metrics.statistics import Pairs, Statistics, proportion


def exact_match(pairs: Pairs) -> Statistics:
    """Share of predictions equal to their reference, after the pairs' normaliser."""
    hits = [a == b for a, b in zip(pairs.references, pairs.predictions, strict=True)]
    return proportion("exact_match", pairs.ids, hits, f"norm:{pairs.normalizer}")


def parse_label(text: str, labels: Sequence[str]) -> str | None:
    """Return the label that a text names, or None.

    Case, punctuation, ``_`` and ``-`` do not matter. The text is a label, or it holds exactly one
    of them as whole words.

    Raises:
        InputError: two labels differ in nothing that matters.
    """
    return _find(text, _by_plain_name(labels))


def label_accuracy(pairs: Pairs, labels: Sequence[str]) -> Statistics:
    """Share of predictions that name their reference's label; unparsed ones are wrong.

    Raises:
        InputError: a reference that is none of the labels, or two labels that look alike.
    """
    known = _by_plain_name(labels)
    for identity, label in zip(pairs.ids, pairs.references, strict=True):
        if label not in labels:
            raise InputError(
                f"expected a known label for {identity!r}, found {label!r}; "
                f"{suggest(label, labels)}"
            )
    parsed = [_find(text, known) for text in pairs.predictions]
    hits = [label == found for label, found in zip(pairs.references, parsed, strict=True)]
    return proportion("accuracy", pairs.ids, hits, _signature(known))


def invalid_rate(pairs: Pairs, labels: Sequence[str]) -> Statistics:
    """Share of predictions that name no label, or several."""
    known = _by_plain_name(labels)
    misses = [_find(text, known) is None for text in pairs.predictions]
    return proportion("invalid_rate", pairs.ids, misses, _signature(known))


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[\W_]+", " ", text.lower()).split())


def _by_plain_name(labels: Sequence[str]) -> dict[str, str]:
    known: dict[str, str] = {}
    for label in labels:
        other = known.setdefault(_plain(label), label)
        if other != label:
            raise InputError(
                f"expected labels that differ in letters or digits, found {other!r} and {label!r}; "
                "rename one"
            )
    return known


def _find(text: str, known: dict[str, str]) -> str | None:
    plain = _plain(text)
    if plain in known:
        return known[plain]
    held = [label for name, label in known.items() if f" {name} " in f" {plain} "]
    return held[0] if len(held) == 1 else None


def _signature(known: dict[str, str]) -> str:
    return f"labels:{len(known)}|parse:exact-or-only-one-contained"
