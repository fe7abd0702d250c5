"""Scores of several seeds: intervals that know of both, paired differences, Holm's correction."""

import numpy as np
import pytest

from blsp.errors import InputError
from blsp.metrics import Statistics, compare_seeds, holm, measure_seeds
from blsp.metrics.intervals import _resample, percentiles

HITS = np.array([1.0] * 30 + [0.0] * 10)


def width(scores: np.ndarray) -> float:
    found = measure_seeds(scores)
    return found.ci_high - found.ci_low


def test_equal_seeds_have_the_interval_of_utterances_alone() -> None:
    counts = np.stack([HITS, np.ones(40)], axis=1)
    plain = Statistics(
        metric="exact_match",
        ids=tuple(map(str, range(40))),
        counts=counts,
        compute=lambda sums: sums[:, 0] / sums[:, 1],
        signature="",
    )
    expected = percentiles(_resample(plain, resamples=10_000, seed=0))
    for scores in (HITS[None], np.stack([HITS] * 3)):
        found = measure_seeds(scores)
        assert found.value == 0.75 and (found.seeds, found.n) == (len(scores), 40)
        assert (found.ci_low, found.ci_high) == pytest.approx(expected)


def test_seeds_that_differ_widen_the_interval() -> None:
    flip = HITS.copy()
    flip[:10] = 0
    apart = np.stack([HITS, HITS, flip])  # 75, 75 and 50 %
    assert width(apart) > 1.3 * width(np.stack([apart.mean(0)] * 3))


def test_the_spread_of_seeds_is_that_of_the_seeds_to_come() -> None:
    """Means 0, 0.5 and 1 on utterances that are alike: a standard error of 0.5 / sqrt(3)."""
    scores = np.repeat(np.array([[0.0], [0.5], [1.0]]), 50, axis=1)
    # Of the mean of three drawn from three, spread by sqrt(3 / 2): -0.112 and 1.112 are the ends.
    found = measure_seeds(scores)
    assert found.ci_low == pytest.approx(0.5 - 0.5 * 1.5**0.5)
    assert found.ci_high == pytest.approx(0.5 + 0.5 * 1.5**0.5)


def test_a_difference_is_paired_by_utterance() -> None:
    """One is right wherever the other is and on five more: those alone make the interval."""
    more = HITS.copy()
    more[30:35] = 1
    found = compare_seeds(more[None], HITS[None])
    assert found.value == pytest.approx(0.125)
    assert 0 < found.ci_low < 0.05 < 0.125 < found.ci_high < 0.25
    assert found.p_value < 0.05


def test_equal_recipes_are_not_told_apart() -> None:
    found = compare_seeds(HITS[None], HITS[None])
    assert (found.value, found.ci_low, found.ci_high, found.p_value) == (0, 0, 0, 1)


def test_recipes_may_have_different_numbers_of_seeds_but_not_of_utterances() -> None:
    assert compare_seeds(np.stack([HITS] * 5), np.stack([HITS] * 3)).value == 0
    with pytest.raises(InputError, match="found 40 and 39"):
        compare_seeds(HITS[None], HITS[None, 1:])


def test_holm_by_hand() -> None:
    """0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04, which must not fall below 0.06."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []
