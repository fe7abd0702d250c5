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
    unit: str = "utterances"
    """What a row of the counts is, and so what is resampled."""

    @property
    def value(self) -> float:
        return float(self.compute(self.counts.sum(0, keepdims=True))[0])


def cluster(statistics: Statistics, groups: Mapping[str, str], unit: str) -> Statistics:
    """Return the same metric with one row a group, for intervals and tests that draw whole groups.

    Utterances of one speaker or talk are not independent: drawn one by one, they make an interval
    look narrower than another set of speakers would.

    Args:
        statistics: of utterances.
        groups: id -> its speaker, talk or recording.
        unit: what these are, in the plural, such as `speakers`.

    Raises:
        InputError: an utterance that is in no group.
    """
    lacking = [each for each in statistics.ids if each not in groups]
    if lacking:
        raise InputError(
            f"expected every utterance among the {unit}, found {len(lacking)} in none (the first "
            f"is {lacking[0]!r}); name all, or resample utterances"
        )
    names = tuple(dict.fromkeys(groups[each] for each in statistics.ids))
    place = {name: index for index, name in enumerate(names)}
    counts = np.zeros((len(names), statistics.counts.shape[1]))
    np.add.at(counts, [place[groups[each]] for each in statistics.ids], statistics.counts)
    return replace(statistics, ids=names, counts=counts, proportion=False, unit=unit)


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
