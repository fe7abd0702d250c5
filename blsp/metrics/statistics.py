"""What goes into a metric: texts joined by id, and what every utterance adds to the score.

A corpus metric is a function of sums (errors and words, matching n-grams), not a mean of utterance
scores. Keeping the summands makes intervals, paired tests and sums over shards one matrix product.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from blsp.errors import InputError
from blsp.metrics.normalizers import RAW, Normalizer


@dataclass(frozen=True)
class Pairs:
    """References and predictions of the same utterances, in the same order."""

    ids: tuple[str, ...]
    references: tuple[str, ...]
    predictions: tuple[str, ...]
    missing: int = 0
    """Utterances without a prediction; they are scored as an empty one."""
    normalizer: str = RAW.name
    """What both sides went through."""
    groups: tuple[str, ...] = ()
    """What each utterance is compared within; none where a metric compares nothing."""

    def __len__(self) -> int:
        return len(self.ids)

    def normalized(self, normalizer: Normalizer) -> "Pairs":
        """Both sides through a normaliser."""
        return replace(
            self,
            references=tuple(map(normalizer.apply, self.references)),
            predictions=tuple(map(normalizer.apply, self.predictions)),
            normalizer=normalizer.name,
        )


def pair_texts(references: Mapping[str, str], predictions: Mapping[str, str]) -> Pairs:
    """Join by id, in the order of the references.

    Raises:
        InputError: no reference, or a prediction that no reference belongs to.
    """
    if not references:
        raise InputError("expected at least one reference, found none; check the manifest")
    foreign = [identity for identity in predictions if identity not in references]
    if foreign:
        raise InputError(
            f"expected predictions of the utterances referred to, found {len(foreign)} others "
            f"(the first is {foreign[0]!r}); score them against their own manifest"
        )
    return Pairs(
        ids=tuple(references),
        references=tuple(references.values()),
        predictions=tuple(predictions.get(identity, "") for identity in references),
        missing=len(references) - len(predictions),
    )


def drop_empty_references(pairs: Pairs) -> Pairs:
    """Leave out utterances whose (normalised) reference has no words; compare lengths for how many.

    Raises:
        InputError: none is left.
    """
    kept = [index for index, text in enumerate(pairs.references) if text.strip()]
    if not kept:
        raise InputError(
            f"expected words in a reference, found none in {len(pairs)} after normaliser "
            f"{pairs.normalizer!r}; check the manifest"
        )
    return replace(
        pairs,
        ids=tuple(pairs.ids[index] for index in kept),
        references=tuple(pairs.references[index] for index in kept),
        predictions=tuple(pairs.predictions[index] for index in kept),
        groups=tuple(pairs.groups[index] for index in kept) if pairs.groups else (),
    )


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """A metric before it is a number."""

    metric: str
    ids: tuple[str, ...]
    counts: np.ndarray
    """(n, k) float64: what each utterance adds."""
    compute: Callable[[np.ndarray], np.ndarray]
    """(R, k) sums -> (R,) values, as fractions."""
    signature: str
    """Everything that must be the same for two values to be comparable."""
    proportion: bool = False
    """Whether the counts are (hit or not, 1)."""

    @property
    def value(self) -> float:
        return float(self.compute(self.counts.sum(0, keepdims=True))[0])


def proportion(metric: str, ids: tuple[str, ...], hits: list[bool], signature: str) -> Statistics:
    """Statistics of a share of utterances."""
    counts = np.stack([np.array(hits, dtype=np.float64), np.ones(len(hits))], axis=1)
    return Statistics(
        metric=metric,
        ids=ids,
        counts=counts,
        compute=lambda sums: sums[:, 0] / sums[:, 1],
        signature=signature,
        proportion=True,
    )
