"""Answers that are right or wrong: exact match, and labels read out of free text.

A language model answers "The intent is play music."; the parser finds the label by a written rule
and never guesses: what it cannot tell counts as wrong, and its share is a metric of its own.
"""

import re
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

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
    parsed = _parse_all(pairs, known)
    hits = [label == found for label, found in zip(pairs.references, parsed, strict=True)]
    return proportion("accuracy", pairs.ids, hits, _signature(known))


def unweighted_accuracy(pairs: Pairs, labels: Sequence[str]) -> Statistics:
    """Mean, over the labels that occur as references, of the share of each that is named (UA).

    `label_accuracy` is its weighted counterpart (WA); papers swap the names.

    Raises:
        InputError: a reference that is none of the labels, or two labels that look alike.
    """
    return mean_of_labels("unweighted_accuracy", pairs, labels)


ClassMetric = Literal["unweighted_accuracy", "macro_f1", "weighted_f1"]


def mean_of_labels(metric: ClassMetric, pairs: Pairs, labels: Sequence[str]) -> Statistics:
    """A mean over the labels that occur as references, of labels read out of free text.

    Args:
        metric: recall, or F1 with equal or with the references' weights.
        pairs: as they were predicted.
        labels: all answers there are.

    Raises:
        InputError: a reference that is none of the labels, or two labels that look alike.
    """
    known = _by_plain_name(labels)
    return score_classes(metric, pairs, _parse_all(pairs, known), _signature(known))


def score_classes(
    metric: ClassMetric, pairs: Pairs, parsed: Sequence[str | None], signature: str
) -> Statistics:
    """Statistics of a mean over the K classes that occur as references.

    What names another class, or none, is wrong in the class of its reference and counts for no
    other. A resample in which a class does not occur is scored on the others.

    Args:
        metric: mean recall, or F1 with equal or with the references' weights.
        pairs: with the references.
        parsed: (n,) the class that each prediction names.
        signature: how they were found.
    """
    classes = sorted(set(pairs.references))
    wanted = np.array(pairs.references)[:, None] == np.array(classes)  # (n, K)
    found = np.array([name or "" for name in parsed])[:, None] == np.array(classes)
    found &= np.array([name is not None for name in parsed])[:, None]
    return Statistics(
        metric=metric,
        ids=pairs.ids,
        counts=np.concatenate([wanted & found, found, wanted], axis=1).astype(np.float64),
        compute=_CLASS_MEANS[metric],
        signature=f"{signature}|classes:of-references",
    )


def _mean_recall(sums: np.ndarray) -> np.ndarray:
    hits, _, wanted = np.split(sums, 3, axis=1)  # (R, 3 K) -> 3 (R, K)
    return _divide(hits, wanted).sum(1) / (wanted > 0).sum(1)


def _macro_f1(sums: np.ndarray) -> np.ndarray:
    hits, found, wanted = np.split(sums, 3, axis=1)
    f1 = _divide(2 * hits, found + wanted) * (wanted > 0)
    return f1.sum(1) / (wanted > 0).sum(1)


def _weighted_f1(sums: np.ndarray) -> np.ndarray:
    hits, found, wanted = np.split(sums, 3, axis=1)
    return (_divide(2 * hits, found + wanted) * wanted).sum(1) / wanted.sum(1)


_CLASS_MEANS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "unweighted_accuracy": _mean_recall,
    "macro_f1": _macro_f1,
    "weighted_f1": _weighted_f1,
}


def _divide(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """0 where there is nothing to divide by."""
    return np.divide(over, under, out=np.zeros_like(over), where=under > 0)


def invalid_rate(pairs: Pairs, labels: Sequence[str]) -> Statistics:
    """Share of predictions that name no label, or several."""
    known = _by_plain_name(labels)
    misses = [_find(text, known) is None for text in pairs.predictions]
    return proportion("invalid_rate", pairs.ids, misses, _signature(known))


def _parse_all(pairs: Pairs, known: dict[str, str]) -> list[str | None]:
    labels = list(known.values())
    for identity, label in zip(pairs.ids, pairs.references, strict=True):
        if label not in labels:
            raise InputError(
                f"expected a known label for {identity!r}, found {label!r}; "
                f"{suggest(label, labels)}"
            )
    return [_find(text, known) for text in pairs.predictions]


def plain_words(text: str) -> str:
    """Letters and digits in lower case, words apart by one space."""
    return " ".join(re.sub(r"[\W_]+", " ", text.lower()).split())


def _by_plain_name(labels: Sequence[str]) -> dict[str, str]:
    known: dict[str, str] = {}
    for label in labels:
        other = known.setdefault(plain_words(label), label)
        if other != label:
            raise InputError(
                f"expected labels that differ in letters or digits, found {other!r} and {label!r}; "
                "rename one"
            )
    return known


def _find(text: str, known: dict[str, str]) -> str | None:
    plain = plain_words(text)
    if plain in known:
        return known[plain]
    held = [label for name, label in known.items() if f" {name} " in f" {plain} "]
    return held[0] if len(held) == 1 else None


def _signature(known: dict[str, str]) -> str:
    return f"labels:{len(known)}|parse:exact-or-only-one-contained"
