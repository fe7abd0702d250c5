"""Tests of two systems: known answers, every swap of a small corpus, and sacrebleu's own test."""

import random
from itertools import product
from math import comb
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest

from blsp.errors import InputError
from blsp.metrics import (
    Pairs,
    Statistics,
    bleu,
    chrf,
    cluster,
    compare,
    exact_match,
    mcnemar_test,
    measure,
    pair_texts,
    randomization_test,
    word_error_rate,
)
from blsp.metrics.significance import two_sided_coin

# What is right, and what two systems made of it.
REFERENCES = [
    "the cat sat on the mat today",
    "he lives in a small house by the lake",
    "please turn off the lights in the kitchen",
    "we will meet you at the station tomorrow",
    "she has never been to the mountains before",
    "the train was late because of the snow",
    "I would like a cup of tea without sugar",
    "they are building a new school near the park",
]
GOOD = [
    "the cat sat on the mat today",
    "he lives in a small house at the lake",
    "please turn off lights in the kitchen",
    "we will meet you at the station tomorrow",
    "she has never been in the mountains",
    "the train was late because of snow",
    "I would like a cup of tea without sugar",
    "they build a new school near the park",
]
POOR = [
    "cat sat on a mat today",
    "he is living in small house near lake",
    "turn off the kitchen lights please",
    "we meet you at station tomorrow",
    "she never was in the mountains before",
    "train was late due to the snow",
    "I want tea without sugar",
    "they are building new school at the park",
]


def pairs(predictions: list[str], references: list[str] = REFERENCES) -> Pairs:
    numbered = {str(index): text for index, text in enumerate(predictions)}
    return pair_texts({str(index): text for index, text in enumerate(references)}, numbered)


def right(*hits: int) -> Statistics:
    return exact_match(pairs([str(hit) for hit in hits], ["1"] * len(hits)))


# Randomisation


def test_the_worked_corpus() -> None:
    good, poor = word_error_rate(pairs(GOOD)), word_error_rate(pairs(POOR))
    assert (good.value, poor.value) == pytest.approx((0.106061, 0.409091), abs=1e-6)
    found = compare(good, poor)
    assert (found.ci_low, found.ci_high) == pytest.approx((-0.424242, -0.166667), abs=1e-6)
    assert 100 * bleu(pairs(GOOD), "en").value == pytest.approx(75.5635, abs=1e-4)
    assert 100 * chrf(pairs(POOR)).value == pytest.approx(59.7126, abs=1e-4)


def every_swap(first: Statistics, second: Statistics) -> float:
    """The p value that more and more draws come near to."""
    real, far = abs(first.value - second.value), 0
    for swap in product((False, True), repeat=len(first.ids)):
        taken = np.array(swap)[:, None]
        one = np.where(taken, second.counts, first.counts).sum(0, keepdims=True)
        other = np.where(taken, first.counts, second.counts).sum(0, keepdims=True)
        far += abs(first.compute(one)[0] - first.compute(other)[0]) >= real - 1e-12
    return far / 2 ** len(first.ids)


@pytest.mark.parametrize("metric", [word_error_rate, chrf])
def test_draws_come_near_to_every_swap(metric) -> None:  # noqa: ANN001
    first, second = metric(pairs(GOOD)), metric(pairs(POOR))
    exact = every_swap(first, second)
    assert exact >= 2 / 256
    found = randomization_test(first, second, resamples=4000)
    assert found == pytest.approx(exact, abs=4 * (exact / 4000) ** 0.5)


WORDS = ("the", "a", "cat", "dog", "sees", "has", "big", "small", "one", "two")


def sentences(seed: int, changes: int) -> list[str]:
    """Forty sentences of ten words, so many of which are other ones."""
    words, changed = random.Random(1), random.Random(seed)
    rows: list[list[str]] = [words.choices(WORDS, k=10) for _ in range(40)]
    for row in rows:
        for place in changed.sample(range(10), changed.randint(0, changes)):
            row[place] = changed.choice(["tree", "house", "runs"])
    return [" ".join(row) for row in rows]


def test_p_values_are_those_of_sacrebleu_where_no_swap_is_as_far_as_the_real_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SACREBLEU_SEED", "12345")
    references, one, other = sentences(0, 0), sentences(2, 6), sentences(3, 5)
    theirs: dict[str, Any] = PairedTest(
        [("B", other), ("A", one)],
        {"BLEU": BLEU(), "chrF": CHRF()},
        [references],
        test_type="ar",
        n_samples=500,
    )()[1]
    first, second = pairs(one, references), pairs(other, references)
    ours = {
        "BLEU": randomization_test(
            bleu(first, "en"), bleu(second, "en"), resamples=500, seed=12345
        ),
        "chrF2": randomization_test(chrf(first), chrf(second), resamples=500, seed=12345),
    }
    for name, p_value in ours.items():
        assert 0.01 < p_value < 0.99, "a p value at an end would agree with anything"
        assert p_value == pytest.approx(theirs[name][1].p_value, abs=1e-9)


def test_a_system_is_no_other_than_itself() -> None:
    same = word_error_rate(pairs(GOOD))
    assert randomization_test(same, same) == 1.0


def test_the_order_of_systems_does_not_matter() -> None:
    first, second = word_error_rate(pairs(GOOD)), word_error_rate(pairs(POOR))
    assert randomization_test(first, second) == randomization_test(second, first)


# McNemar


@pytest.mark.parametrize(
    ("one", "other", "p_value"),
    [(10, 2, 0.038574), (5, 5, 1.0), (30, 12, 0.007916), (0, 0, 1.0), (1, 0, 1.0), (0, 6, 2 / 64)],
)
def test_known_answers(one: int, other: int, p_value: float) -> None:
    assert two_sided_coin(one, other) == pytest.approx(p_value, abs=1e-6)
    assert two_sided_coin(other, one) == two_sided_coin(one, other)


def test_coins_are_counted_exactly_however_many() -> None:
    for heads, tails in ((7, 9), (400, 450), (1500, 1600)):
        n = heads + tails
        exact = 2 * sum(comb(n, k) for k in range(heads + 1)) / 2**n
        assert two_sided_coin(heads, tails) == pytest.approx(exact, rel=1e-9)


def test_only_what_one_system_alone_has_right_counts() -> None:
    first = right(*[1] * 10, *[0] * 2, *[1] * 50, *[0] * 9)
    second = right(*[0] * 10, *[1] * 2, *[1] * 50, *[0] * 9)
    assert mcnemar_test(first, second) == pytest.approx(0.038574, abs=1e-6)


def test_a_metric_that_is_no_share_is_refused() -> None:
    found = word_error_rate(pairs(GOOD))
    with pytest.raises(InputError, match="right or wrong, found 'wer'; compare it by"):
        mcnemar_test(found, found)


def test_only_the_same_utterances_are_tested() -> None:
    with pytest.raises(InputError, match="same ids, found 2 and 1 utterances"):
        mcnemar_test(right(1, 0), right(1))
    with pytest.raises(InputError, match="same ids"):
        randomization_test(right(1, 0), right(1))


# Clusters


def test_utterances_of_a_speaker_are_drawn_together() -> None:
    found = right(1, 1, 0, 0)
    speakers = {"0": "ann", "1": "ann", "2": "bob", "3": "bob"}
    grouped = cluster(found, speakers, "speakers")
    assert grouped.ids == ("ann", "bob")
    assert grouped.counts.tolist() == [[2, 2], [0, 2]]
    assert grouped.value == found.value == 0.5
    measured = measure(grouped)
    # Two draws of all or nothing: 0, 1/2 or 1.
    assert (measured.ci_low, measured.ci_high, measured.n) == (0.0, 1.0, 2)
    assert measured.interval == "bootstrap of speakers, 1000 resamples, seed 0"


def test_a_group_of_each_changes_nothing() -> None:
    found = word_error_rate(pairs(POOR))
    grouped = cluster(found, {each: f"talk {each}" for each in found.ids}, "talks")
    assert measure(grouped).ci_low == measure(found).ci_low


def test_two_systems_are_compared_by_groups() -> None:
    groups = dict(zip(map(str, range(8)), "aabbccdd", strict=True))
    good, poor = (cluster(word_error_rate(pairs(x)), groups, "talks") for x in (GOOD, POOR))
    assert compare(good, poor).difference == pytest.approx(0.106061 - 0.409091, abs=1e-6)
    assert 2 / 16 - 0.05 < randomization_test(good, poor) < 2 / 16 + 0.05


def test_an_utterance_of_nobody_is_refused() -> None:
    with pytest.raises(InputError, match=r"among the speakers, found 1 in none \(the first is '1'"):
        cluster(right(1, 0), {"0": "ann"}, "speakers")
