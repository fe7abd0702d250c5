"""How sure a score of several training runs is: seeds and utterances are both resampled.

An interval over utterances says how another test would score these very weights, and not how
another run of the same recipe would do. Here rows are seeds and columns utterances, crossed: every
run answered the same test. Matrices of what each utterance scored enter; intervals, paired
differences and p values corrected for their number leave.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blsp.errors import InputError
from blsp.metrics.intervals import draw_times, percentiles


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds and utterances with its 95 % interval."""

    value: float
    ci_low: float
    ci_high: float
    seeds: int
    n: int
    """Utterances."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first recipe minus the second."""

    value: float
    ci_low: float
    ci_high: float
    p_value: float
    """Two-sided: how often resampling alone moves the difference as far from its mean."""


def measure_seeds(scores: np.ndarray, *, resamples: int = 10_000, seed: int = 0) -> Estimate:
    """Return the mean of (S, n) scores; of one seed, the interval is that of utterances alone."""
    low, high = percentiles(_resample(scores, resamples=resamples, seed=seed, stream=1))
    return Estimate(
        value=float(scores.mean()), ci_low=low, ci_high=high, seeds=len(scores), n=scores.shape[1]
    )


def compare_seeds(
    first: np.ndarray, second: np.ndarray, *, resamples: int = 10_000, seed: int = 0
) -> Difference:
    """Compare (S, n) with (S', n) scores of the same utterances, which are drawn for both alike.

    Seeds are drawn for each on its own: the third run of one recipe has nothing in common with the
    third of another.

    Raises:
        InputError: not as many utterances on both sides.
    """
    if first.shape[1] != second.shape[1]:
        raise InputError(
            f"expected scores of the same utterances, found {first.shape[1]} and "
            f"{second.shape[1]}; score both on the same test"
        )
    moved = _resample(first, resamples=resamples, seed=seed, stream=1)
    moved -= _resample(second, resamples=resamples, seed=seed, stream=2)
    difference = float(first.mean() - second.mean())
    # The small slack counts equal differences as equal whatever their rounding.
    as_far = np.abs(moved - moved.mean()) >= abs(difference) - 1e-12
    low, high = percentiles(moved)
    p_value = (int(as_far.sum()) + 1) / (resamples + 1)
    return Difference(value=difference, ci_low=low, ci_high=high, p_value=p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for their number (Holm, Scand. J. Statist. 1979), in their order.

    The smallest is multiplied by how many there are, the next by one less, and so on; none ends up
    below one that was smaller.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, (len(p_values) - rank) * p_values[index])
        corrected[index] = min(largest, 1.0)
    return corrected


def _resample(scores: np.ndarray, *, resamples: int, seed: int, stream: int) -> np.ndarray:
    """(R,) means of drawn seeds and drawn utterances."""
    seeds, n = scores.shape
    utterances = np.concatenate(list(draw_times(n, resamples=resamples, seed=seed)))  # (R, n)
    by_seed = utterances @ _widen(scores).T / n  # (R, S)
    drawn = np.random.default_rng([seed, stream]).integers(0, seeds, (resamples, seeds))
    return np.take_along_axis(by_seed, drawn, axis=1).mean(1)


def _widen(scores: np.ndarray) -> np.ndarray:
    """Spread seeds around their mean so that few of them vary, when drawn, as much as all would.

    Drawing S rows from S has a variance (S - 1) / S too small, a third for three seeds.
    """
    seeds = len(scores)
    if seeds == 1:
        return scores
    mean = scores.mean(0, keepdims=True)
    return mean + (seeds / (seeds - 1)) ** 0.5 * (scores - mean)
