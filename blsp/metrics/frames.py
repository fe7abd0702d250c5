"""Intents and slots: SLURP's scores, SLUE's, and the JSON object that a model answers with.

SLURP (Bastianelli et al., EMNLP 2020) forgives a filler that was misheard by how far it is from the
right one; SLUE (Shon et al., ICASSP 2022) does not. Both are micro F1: what each utterance adds is
a row of true positives, false positives and false negatives. Frames of the same utterances enter,
right and predicted; statistics leave.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, Literal

import jiwer
import numpy as np
from rapidfuzz.distance import Levenshtein

from blsp.errors import InputError
from blsp.metrics.labels import plain_words
from blsp.metrics.statistics import Pairs, Statistics, proportion

Slot = tuple[str, str]
"""Type of an entity, and the words that fill it."""
Counts = tuple[float, float, float]
"""True positives, false positives, false negatives."""

_PARSE = "parse:first-json-object|norm:lower"


@dataclass(frozen=True)
class Frame:
    """What an utterance asks for."""

    scenario: str
    action: str
    slots: tuple[Slot, ...] = ()

    @property
    def intent(self) -> str:
        """As SLURP's scorer and our manifests spell it; the corpus's own `intent` differs."""
        return f"{self.scenario}_{self.action}"


# --- what one utterance adds ----------------------------------------------------------------------


def count_label(gold: str, predicted: str | None) -> Counts:
    """Of one label; None where nothing was predicted, which is a miss and no false alarm."""
    if predicted is None:
        return 0, 0, 1
    return (1, 0, 0) if predicted == gold else (0, 1, 1)


def count_spans(gold: Sequence[Slot], predicted: Sequence[Slot]) -> Counts:
    """Of slots that are equal or not; one predicted twice is a hit and a false alarm."""
    hits = (Counter(gold) & Counter(predicted)).total()
    return hits, len(predicted) - hits, len(gold) - hits


def count_near(
    gold: Sequence[Slot], predicted: Sequence[Slot], distance: Callable[[str, str], float]
) -> Counts:
    """Of slots whose fillers may differ: a hit that costs its distance as false alarm and as miss.

    In the order predicted, each takes the nearest right one of its type that is left, of equally
    near ones the first.

    Args:
        gold: what is right.
        predicted: what is scored.
        distance: of a right filler and a predicted one, 0 where they are equal.
    """
    left, hits, cost, false = list(gold), 0, 0.0, 0
    for kind, filler in predicted:
        near = [
            (distance(words, filler), i) for i, (name, words) in enumerate(left) if name == kind
        ]
        if near:
            nearest, index = min(near)
            hits, cost = hits + 1, cost + nearest
            del left[index]
        else:
            false += 1
    return hits, cost + false, cost + len(left)


def word_distance(gold: str, predicted: str) -> float:
    """WER of a filler; it can exceed 1."""
    return float(jiwer.wer(gold, predicted))


def character_distance(gold: str, predicted: str) -> float:
    """Edits over the length of the longer one, 0 to 1."""
    return Levenshtein.normalized_distance(gold, predicted)


# --- what they add up to --------------------------------------------------------------------------


def slurp_scores(
    gold: Mapping[str, Frame], predicted: Mapping[str, Frame], *, official: bool = False
) -> dict[str, Statistics]:
    """Return SLURP's scores by their names: scenario, action, intent, span, word, char, slu `_f1`.

    Args:
        gold: id -> what is right.
        predicted: id -> what is scored. What is lacking counts as missed, slot by slot.
        official: leave out utterances without a prediction, as the authors' scorer does: for
            comparison with its numbers alone, since silence then costs nothing.

    Raises:
        InputError: a prediction of another utterance, or nothing to score.
    """
    _check_ids(gold, predicted)
    ids = tuple(each for each in gold if not official or each in predicted)
    if not ids:
        raise InputError("expected frames to score, found none; check the predictions")
    pairs = [(gold[each], predicted.get(each)) for each in ids]
    slots = [(right.slots, found.slots if found else ()) for right, found in pairs]
    word = [count_near(*both, word_distance) for both in slots]
    char = [count_near(*both, character_distance) for both in slots]
    rows: dict[str, Any] = {
        f"{part}_f1": [
            count_label(getattr(right, part), getattr(found, part) if found else None)
            for right, found in pairs
        ]
        for part in ("scenario", "action", "intent")
    }
    rows |= {
        "span_f1": [count_spans(*both) for both in slots],
        "word_f1": word,
        "char_f1": char,
        "slu_f1": np.array(word) + np.array(char),
    }
    missing = "skipped" if official else "missed"
    return {
        name: micro_f1(name, ids, counts, f"slurp|unpredicted:{missing}")
        for name, counts in rows.items()
    }


def slue_scores(
    gold: Mapping[str, Sequence[Slot]], predicted: Mapping[str, Sequence[Slot]]
) -> dict[str, Statistics]:
    """Return SLUE's entity scores: `ner_f1` of tags and phrases, `ner_label_f1` of tags alone.

    Raises:
        InputError: a prediction of another utterance.
    """
    _check_ids(gold, predicted)
    ids = tuple(gold)
    both = [(gold[each], predicted.get(each, ())) for each in ids]
    tags = [[[(tag, "") for tag, _ in side] for side in pair] for pair in both]
    return {
        "ner_f1": micro_f1("ner_f1", ids, [count_spans(*pair) for pair in both], "slue"),
        "ner_label_f1": micro_f1(
            "ner_label_f1", ids, [count_spans(*pair) for pair in tags], "slue"
        ),
    }


def micro_f1(
    metric: str, ids: tuple[str, ...], counts: Sequence[Counts] | np.ndarray, signature: str
) -> Statistics:
    """Statistics of an F1 over (n, 3) true positives, false positives and false negatives."""
    return Statistics(
        metric=metric,
        ids=ids,
        counts=np.array(counts, dtype=np.float64),
        compute=lambda sums: compute_f1(sums)[2],
        signature=f"{signature}|micro|jiwer:{version('jiwer')}",
    )


def compute_f1(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(R, 3) sums -> precision, recall and F1, (R,) each; 0 where there is nothing to divide by."""
    hits, false, missed = sums.T
    precision, recall = _divide(hits, hits + false), _divide(hits, hits + missed)
    return precision, recall, 2 * _divide(precision * recall, precision + recall)


def _divide(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.divide(over, under, out=np.zeros_like(over), where=under > 0)


def _check_ids(gold: Mapping[str, Any], predicted: Mapping[str, Any]) -> None:
    foreign = [identity for identity in predicted if identity not in gold]
    if foreign:
        raise InputError(
            f"expected predictions of the utterances referred to, found {len(foreign)} others "
            f"(the first is {foreign[0]!r}); score them against their own manifest"
        )


# --- frames as answers ----------------------------------------------------------------------------

FrameMetric = Literal["slurp_f1", "slot_f1", "ner_f1", "ner_label_f1"]

_SLURP_NAMES = {"slurp_f1": "slu_f1", "slot_f1": "span_f1"}


def write_frame(intent: str | None, slots: Sequence[Slot]) -> str:
    """Return a frame as the one text that a reference is, and as a model is to answer."""
    named = {} if intent is None else {"intent": intent}
    entities = [{"type": kind, "filler": filler} for kind, filler in slots]
    return json.dumps(named | {"entities": entities}, ensure_ascii=False)


def parse_frame(text: str) -> Frame | None:
    """Return the frame that an answer gives, or None.

    It is the first JSON object in the text, whatever stands around it: `intent`, a text, and
    `entities`, a list of objects with `type` and `filler`; one of the two may be lacking. Case and
    spaces do not matter, in intent and types `_`, `-` and spaces are one. What has another form
    gives nothing: half an answer would be a guess at the rest.
    """
    row = _first_object(text) or {}
    intent, entities = row.get("intent", ""), row.get("entities") or []
    if not row.keys() & {"intent", "entities"}:
        return None
    if not isinstance(intent, str) or not isinstance(entities, list):
        return None
    slots = [slot for entity in entities if (slot := _read_slot(entity))]
    if len(slots) < len(entities):
        return None
    scenario, _, action = _plain_name(intent).partition("_")
    return Frame(scenario, action, tuple(slots))


def _first_object(text: str) -> dict[str, Any] | None:
    decoder, start = json.JSONDecoder(), text.find("{")
    while start >= 0:
        try:
            return decoder.raw_decode(text, start)[0]
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
    return None


def _read_slot(entity: Any) -> Slot | None:
    if not isinstance(entity, dict):
        return None
    kind, filler = entity.get("type"), entity.get("filler")
    if isinstance(filler, int | float) and not isinstance(filler, bool):
        filler = str(filler)  # JSON for "set it to 8" may have the number itself
    if not isinstance(kind, str) or not isinstance(filler, str):
        return None
    return _plain_name(kind), " ".join(filler.lower().split())


def _plain_name(text: str) -> str:
    return plain_words(text).replace(" ", "_")


def frame_f1(metric: FrameMetric, pairs: Pairs) -> Statistics:
    """F1 of slots in answers: SLURP's, of equal ones, or SLUE's; what is no frame misses them all.

    Raises:
        InputError: a reference that is no frame.
    """
    gold, answers = _read_frames(pairs)
    found = {identity: frame for identity, frame in answers.items() if frame}
    if metric in _SLURP_NAMES:
        chosen = slurp_scores(gold, found)[_SLURP_NAMES[metric]]
    else:
        right, predicted = ({i: one.slots for i, one in side.items()} for side in (gold, found))
        chosen = slue_scores(right, predicted)[metric]
    return replace(chosen, metric=metric, signature=f"{chosen.signature}|{_PARSE}")


def intent_accuracy(pairs: Pairs) -> Statistics:
    """Share of answers whose frame has the intent of their reference.

    Raises:
        InputError: a reference that is no frame.
    """
    gold, found = _read_frames(pairs)
    hits = [(one := found[i]) is not None and one.intent == gold[i].intent for i in pairs.ids]
    return proportion("intent_accuracy", pairs.ids, hits, _PARSE)


def invalid_frames(pairs: Pairs) -> Statistics:
    """Share of answers that are no frame."""
    misses = [parse_frame(text) is None for text in pairs.predictions]
    return proportion("invalid_frames", pairs.ids, misses, _PARSE)


def _read_frames(pairs: Pairs) -> tuple[dict[str, Frame], dict[str, Frame | None]]:
    gold: dict[str, Frame] = {}
    for identity, text in zip(pairs.ids, pairs.references, strict=True):
        frame = parse_frame(text)
        if frame is None:
            raise InputError(
                f"expected intent and entities of {identity!r} as a JSON object, found "
                f"{text[:60]!r}; write them with blsp.metrics.write_frame"
            )
        gold[identity] = frame
    return gold, dict(zip(pairs.ids, map(parse_frame, pairs.predictions), strict=True))
