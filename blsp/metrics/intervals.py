"""How sure a score is: bootstrap over utterances, and the paired bootstrap of two systems.

Resampling draws utterances, sums what they add, and computes the corpus metric of the sums. A share
of utterances gets Wilson's interval instead: the bootstrap of 0 hits in 400 is [0, 0], which would
call a single lucky hit of another system significant.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from blsp.errors import InputError
from blsp.metrics.statistics import Statistics

_Z = 1.959963984540054  # 97.5th percentile of the normal distribution
_DRAWS_AT_ONCE = 2_000_000


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A scored row; the value and its 95 % interval are fractions."""

    metric: str
    value: float
    ci_low: float
    ci_high: float
    n: int
    """Utterances, or whatever else was resampled."""
    signature: str
    interval: str
    """How the interval was made."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The first system minus the second on the same utterances."""

    metric: str
    difference: float
    ci_low: float
    ci_high: float
    p_value: float
    """Two-sided: how often resampling alone moves the difference as far from its mean."""
    n: int
    signature: str


def measure(statistics: Statistics, *, resamples: int = 1000, seed: int = 0) -> Metric:
    """Return the value with its 95 % interval: percentile bootstrap, or Wilson for a share."""
    n = len(statistics.ids)
    if statistics.proportion:
        low, high = wilson_interval(int(statistics.counts[:, 0].sum()), n)
        interval = "wilson"
    else:
        low, high = percentiles(_resample(statistics, resamples=resamples, seed=seed))
        interval = f"bootstrap of {statistics.unit}, {resamples} resamples, seed {seed}"
    return Metric(
        metric=statistics.metric,
        value=statistics.value,
        ci_low=low,
        ci_high=high,
        n=n,
        signature=statistics.signature,
        interval=interval,
    )


def compare(
    first: Statistics, second: Statistics, *, resamples: int = 1000, seed: int = 0
) -> Comparison:
    """Paired bootstrap test (Koehn, EMNLP 2004): both systems on the same resampled utterances.

    Raises:
        InputError: the two are not the same metric of the same utterances.
    """
    check_comparable(first, second)
    moved = _resample(first, resamples=resamples, seed=seed)
    moved -= _resample(second, resamples=resamples, seed=seed)
    difference = first.value - second.value
    # The small slack counts equal differences as equal whatever their rounding.
    as_far = np.abs(moved - moved.mean()) >= abs(difference) - 1e-12
    low, high = percentiles(moved)
    return Comparison(
        metric=first.metric,
        difference=difference,
        ci_low=low,
        ci_high=high,
        p_value=(int(as_far.sum()) + 1) / (resamples + 1),
        n=len(first.ids),
        signature=first.signature,
    )


def check_comparable(first: Statistics, second: Statistics) -> None:
    """Raise an `InputError` unless the two are the same metric of the same utterances."""
    for part in ("metric", "signature", "ids"):
        if getattr(first, part) != getattr(second, part):
            raise InputError(
                f"expected two systems with the same {part}, found "
                f"{_difference(first, second, part)}; score both the same way on the same manifest"
            )


def wilson_interval(hits: int, n: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion (Wilson, JASA 1927)."""
    share, spread = hits / n, _Z**2 / n
    centre = (share + spread / 2) / (1 + spread)
    reach = (spread * (share * (1 - share) + spread / 4)) ** 0.5 / (1 + spread)
    return max(centre - reach, 0.0), min(centre + reach, 1.0)


def draw_times(n: int, *, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield (r, n) blocks of ``resamples`` rows: how often each of n utterances was drawn.

    The draws depend on the seed and the number of utterances alone.
    """
    rng, block = np.random.default_rng(seed), max(_DRAWS_AT_ONCE // n, 1)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        yield times.astype(np.float64)


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """Return the bounds of the middle 95 % of (R,) values."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _resample(statistics: Statistics, *, resamples: int, seed: int) -> np.ndarray:
    """(R,) values."""
    blocks = draw_times(len(statistics.ids), resamples=resamples, seed=seed)
    return statistics.compute(np.concatenate([times @ statistics.counts for times in blocks]))


def _difference(first: Statistics, second: Statistics, part: str) -> str:
    if part != "ids":
        return f"{getattr(first, part)!r} and {getattr(second, part)!r}"
    if len(first.ids) != len(second.ids):
        return f"{len(first.ids)} and {len(second.ids)} utterances"
    one, other = next(
        pair for pair in zip(first.ids, second.ids, strict=True) if len(set(pair)) > 1
    )
    return f"{one!r} where the other has {other!r}"
