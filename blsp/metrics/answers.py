"""Short answers to questions, of which several may be right: exact match, F1 of words, containment.

SQuAD's rules (Rajpurkar et al., EMNLP 2016; the script of version 1.1): lower case, no punctuation,
no articles; the best of all right answers counts. A language model answers in sentences, which have
no exact match, so the share that contains a right answer stands beside. The right answers of an
utterance are one text, a JSON list, so that predictions stay lines that a person can read.
"""

import json
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from blsp.errors import InputError
from blsp.metrics.normalizers import RAW, Normalizer
from blsp.metrics.statistics import Pairs, Statistics, proportion

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the)\b")


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation and without a, an, the; one space between words."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def score_exact(prediction: str, golds: Sequence[str]) -> bool:
    """Whether an answer equals one of the right ones, both normalised; empty equals empty."""
    return normalize_answer(prediction) in map(normalize_answer, golds)


def score_words(prediction: str, golds: Sequence[str]) -> float:
    """F1 of the words shared with the right answer that it is best for.

    Without a shared word it is 0, also where both normalise to nothing, as in the official script.
    """
    return max((_words_f1(prediction, gold) for gold in golds), default=0.0)


def _words_f1(prediction: str, gold: str) -> float:
    found, wanted = (normalize_answer(text).split() for text in (prediction, gold))
    shared = (Counter(found) & Counter(wanted)).total()
    if shared == 0:
        return 0.0
    precision, recall = shared / len(found), shared / len(wanted)
    return 2 * precision * recall / (precision + recall)


def contains_answer(prediction: str, golds: Sequence[str]) -> bool:
    """Whether the words of a right answer stand in it, next to each other, both normalised.

    A right answer that normalises to nothing stands in nothing.
    """
    spaced = f" {normalize_answer(prediction)} "
    return any(f" {gold} " in spaced for gold in map(normalize_answer, golds) if gold)


def write_golds(golds: str | Sequence[str]) -> str:
    """Return right answers as the one text that a reference is."""
    return json.dumps([golds] if isinstance(golds, str) else list(golds), ensure_ascii=False)


def read_golds(reference: str) -> list[str]:
    """Return the right answers of a reference.

    Raises:
        InputError: it is no JSON list of texts, or an empty one.
    """
    try:
        golds = json.loads(reference)
    except ValueError:
        golds = None
    if not (isinstance(golds, list) and golds and all(isinstance(gold, str) for gold in golds)):
        raise InputError(
            f"expected right answers as a JSON list of texts, found {reference[:60]!r}; write them "
            "with blsp.metrics.write_golds"
        )
    return golds


def squad_em(pairs: Pairs, normalizer: Normalizer = RAW) -> Statistics:
    """Share of answers that equal a right one; references are of `write_golds`.

    Args:
        pairs: as they were predicted.
        normalizer: for answers and right answers, before SQuAD's own; Whisper's writes "fifty" and
            "50" alike, and the metric is then called `spoken_em`.
    """
    hits = [bool(score) for score in _each(pairs, score_exact, normalizer)]
    return proportion(_name("em", normalizer), pairs.ids, hits, _signature(normalizer))


def squad_f1(pairs: Pairs, normalizer: Normalizer = RAW) -> Statistics:
    """Mean F1 of words; arguments as of `squad_em`."""
    scores = np.array(_each(pairs, score_words, normalizer), dtype=np.float64)
    return Statistics(
        metric=_name("f1", normalizer),
        ids=pairs.ids,
        counts=np.stack([scores, np.ones(len(scores))], axis=1),
        compute=lambda sums: sums[:, 0] / sums[:, 1],
        signature=_signature(normalizer),
    )


def contains_gold(pairs: Pairs) -> Statistics:
    """Share of answers that contain a right one; references are of `write_golds`."""
    hits = [bool(score) for score in _each(pairs, contains_answer, RAW)]
    return proportion("contains_gold", pairs.ids, hits, _signature(RAW))


def _each(
    pairs: Pairs, score: Callable[[str, Sequence[str]], float], normalizer: Normalizer
) -> list[float]:
    """(n,) scores."""
    return [
        score(normalizer.apply(text), [normalizer.apply(gold) for gold in read_golds(golds)])
        for golds, text in zip(pairs.references, pairs.predictions, strict=True)
    ]


def _name(score: str, normalizer: Normalizer) -> str:
    return f"{'squad' if normalizer is RAW else 'spoken'}_{score}"


def _signature(normalizer: Normalizer) -> str:
    return f"norm:{normalizer.name}+squad-1.1|golds:best"
