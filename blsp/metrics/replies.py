"""Replies: whether there is one, and whether other voices get other ones that fit them.

A greedy model that reads gives the same words the same reply, so what it lacks here only hearing
can give. A reference is what the voice tells (an emotion), a group the words.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np

from blsp.errors import InputError
from blsp.metrics.labels import plain_words
from blsp.metrics.statistics import Pairs, Statistics, proportion

Phrases = Mapping[str, Sequence[str]]
"""Emotion -> what only a reply to it says; one without phrases is fitted by a reply with none."""


def answered(pairs: Pairs) -> Statistics:
    """Share of answers that hold anything; references do not matter."""
    hits = [bool(text.strip()) for text in pairs.predictions]
    return proportion("answered", pairs.ids, hits, "norm:strip")


def distinct_replies(pairs: Pairs) -> Statistics:
    """Share of pairs of the same words in different emotions whose replies differ.

    Replies that have the same letters and digits do not. Groups are what is resampled; one goes by
    the id of its first utterance.

    Raises:
        InputError: no words in two emotions.
    """
    groups: dict[str, list[int]] = {}
    for index, group in enumerate(pairs.groups):
        groups.setdefault(group, []).append(index)
    replies = [plain_words(text) for text in pairs.predictions]
    ids, counts = [], []
    for members in groups.values():
        by_reply: dict[str, list[str]] = {}
        for index in members:
            by_reply.setdefault(replies[index], []).append(pairs.references[index])
        compared = _count_mixed(pairs.references[index] for index in members)
        same = sum(map(_count_mixed, by_reply.values()))
        if compared:
            ids.append(pairs.ids[members[0]])
            counts.append((compared - same, compared))
    if not ids:
        raise InputError(
            f"expected the same words in two emotions, found none in {len(pairs)} utterances; "
            "check the manifest"
        )
    return Statistics(
        metric="distinct",
        ids=tuple(ids),
        counts=np.array(counts, dtype=np.float64),
        compute=lambda sums: sums[:, 0] / sums[:, 1],
        signature="pairs:same-group-other-reference|norm:letters-and-digits",
        unit="groups of the same words",
    )


def _count_mixed(labels: Iterable[str]) -> int:
    """How many pairs have different labels."""
    counts = Counter(labels)
    total = counts.total()
    return (total * total - sum(n * n for n in counts.values())) // 2


def fitting_replies(pairs: Pairs, phrases: Phrases) -> Statistics:
    """Share of replies with a phrase of their own emotion and of no other.

    Case and punctuation do not matter; an empty reply fits nothing.

    Raises:
        InputError: a reference that has no entry among the phrases.
    """
    known = {emotion: [plain_words(text) for text in texts] for emotion, texts in phrases.items()}
    hits = []
    for label, text in zip(pairs.references, pairs.predictions, strict=True):
        if label not in known:
            raise InputError(
                f"expected phrases for one of {', '.join(known)}, found the emotion {label!r}; add "
                "its own to the lexicon"
            )
        plain = plain_words(text)
        named = {emotion for emotion, texts in known.items() if _holds(plain, texts)}
        hits.append(bool(plain) and named == ({label} if known[label] else set()))
    entries = sum(map(len, known.values()))
    return proportion("fitting", pairs.ids, hits, f"phrases:{entries}|emotions:{len(known)}")


def check_phrases(phrases: Phrases) -> None:
    """Raise an `InputError` where a phrase is empty, or holds one of another emotion."""
    for emotion, texts in phrases.items():
        for text in texts:
            if not plain_words(text):
                raise InputError(
                    f"{emotion}: expected phrases of letters or digits, found {text!r}; delete it"
                )
    for first, second in combinations(phrases, 2):
        for inner, outer in ((first, second), (second, first)):
            for text in phrases[outer]:
                if _holds(plain_words(text), map(plain_words, phrases[inner])):
                    raise InputError(
                        f"{outer}: expected phrases that no other emotion has, found {text!r}, "
                        f"which holds one of {inner!r}; change one"
                    )


def _holds(plain: str, phrases: Iterable[str]) -> bool:
    return any(f" {phrase} " in f" {plain} " for phrase in phrases)
