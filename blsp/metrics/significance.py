"""Whether two systems differ by more than chance: tests beside the paired bootstrap.

Both ask what happens if the names of the systems mean nothing. `randomization_test` serves every
metric: it swaps the two on half of the utterances, drawn anew each time. `mcnemar_test` is exact,
for metrics that are right or wrong an utterance: only those count that one system alone has right.
Statistics of two systems enter, a two-sided p value leaves.
"""

import math

import numpy as np

from blsp.errors import InputError
from blsp.metrics.intervals import check_comparable
from blsp.metrics.statistics import Statistics


def randomization_test(
    first: Statistics, second: Statistics, *, resamples: int = 1000, seed: int = 0
) -> float:
    """Approximate randomisation (Noreen 1989; Riezler and Maxwell 2005).

    The p value is the share of swaps whose difference is at least as large as the real one, which
    is counted as a swap. sacrebleu's test counts larger ones alone, which makes p too small where
    many swaps give the same difference: on eight sentences it can fall below 2/256, the share of
    the two that change nothing.

    Args:
        first: of one system.
        second: of the other, on the same utterances.
        resamples: swaps drawn.
        seed: of the draws; they are sacrebleu's for the same seed.

    Raises:
        InputError: not the same metric of the same utterances.
    """
    check_comparable(first, second)
    rng, n = np.random.default_rng(seed), len(first.ids)
    swapped = rng.integers(2, size=(resamples, n), dtype=bool).astype(np.float64)
    moved = first.compute(swapped @ second.counts + (1 - swapped) @ first.counts)
    moved -= first.compute(swapped @ first.counts + (1 - swapped) @ second.counts)
    # The small slack counts equal differences as equal whatever their rounding.
    as_far = np.abs(moved) >= abs(first.value - second.value) - 1e-12
    return (int(as_far.sum()) + 1) / (resamples + 1)


def mcnemar_test(first: Statistics, second: Statistics) -> float:
    """Exact test of two shares (McNemar 1947): a fair coin for each utterance that they differ on.

    Raises:
        InputError: not the same metric of the same utterances, or no share of utterances.
    """
    check_comparable(first, second)
    if not (first.proportion and second.proportion):
        raise InputError(
            f"expected answers that are right or wrong, found {first.metric!r}; compare it by "
            "randomization_test"
        )
    one, other = first.counts[:, 0] > 0, second.counts[:, 0] > 0
    return two_sided_coin(int((one & ~other).sum()), int((other & ~one).sum()))


def two_sided_coin(heads: int, tails: int) -> float:
    """How likely a fair coin falls at least as unevenly."""
    n = heads + tails
    # By logarithms, since 2 ** -n is 0 to a float from 1,075 on.
    ways = (
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        for k in range(min(heads, tails) + 1)
    )
    return min(1.0, 2 * math.fsum(math.exp(way - n * math.log(2)) for way in ways))
