"""Scores of intents and slots: SLURP's and SLUE's rules worked out by hand, and the parser."""

import random
from itertools import permutations

import pytest

from blsp.errors import InputError
from blsp.metrics import Frame, measure, pair_texts, parse_frame, slue_scores, slurp_scores
from blsp.metrics.frames import (
    Slot,
    character_distance,
    compute_f1,
    count_near,
    count_spans,
    frame_f1,
    intent_accuracy,
    invalid_frames,
    word_distance,
    write_frame,
)
from blsp.metrics.statistics import Statistics


def scored(
    gold: list[Slot], predicted: list[Slot] | None, *, official: bool = False
) -> dict[str, Statistics]:
    """Scores of one utterance beside one that is right without slots."""
    still = Frame("alarm", "set")
    found = {} if predicted is None else {"a": Frame("alarm", "set", tuple(predicted))}
    return slurp_scores(
        {"a": Frame("alarm", "set", tuple(gold)), "b": still},
        found | {"b": still},
        official=official,
    )


def sums(statistics: Statistics) -> list[float]:
    return statistics.counts.sum(0).tolist()


# SLURP


def test_a_misheard_filler_costs_its_distance() -> None:
    found = scored(
        [("currency", "american dollar"), ("currency", "japanese yen")],
        [("currency", "american dollars"), ("currency", "japanese yen")],
    )
    assert sums(found["span_f1"]) == [1, 1, 1]
    assert sums(found["word_f1"]) == [2, 0.5, 0.5]
    assert sums(found["char_f1"]) == [2, 1 / 16, 1 / 16]
    assert found["slu_f1"].value == pytest.approx(0.876712, abs=1e-6)


def test_word_errors_of_a_filler_have_no_bound() -> None:
    found = scored([("time", "eight")], [("time", "at half past eight sharp")])
    assert sums(found["word_f1"]) == [1, 4, 4]
    assert found["word_f1"].value == pytest.approx(1 / 5)


def test_each_prediction_takes_the_nearest_of_its_type_that_is_left() -> None:
    gold = [("date", "monday"), ("date", "tuesday")]
    # The first takes `tuesday` (exact); what is left for the second is `monday`.
    assert count_near(gold, [("date", "tuesday"), ("date", "tuesday")], word_distance) == (2, 1, 1)
    # A greedy choice: `monday x` takes `monday` though the next one would have it for nothing.
    found = count_near(gold, [("date", "monday x"), ("date", "monday")], word_distance)
    assert found == (2, 1 + 1, 1 + 1)


def test_of_equally_near_ones_the_first_is_taken() -> None:
    gold = [("date", "ab"), ("date", "cd")]
    # `xy` is as far from both: it takes `ab`, and `cd` is left for the second.
    found = count_near(gold, [("date", "xy"), ("date", "cd")], character_distance)
    assert found == (2, 1, 1)


def test_more_of_a_type_than_there_are_is_a_false_alarm() -> None:
    assert count_near([("a", "x")], [("a", "x"), ("a", "x")], word_distance) == (1, 1, 0)
    assert count_near([("a", "x"), ("a", "x")], [("a", "x")], word_distance) == (1, 0, 1)
    assert count_near([], [("a", "x")], word_distance) == (0, 1, 0)
    assert count_near([("a", "x")], [("b", "x")], word_distance) == (0, 1, 1)


def test_characters_are_those_of_unicode() -> None:
    assert character_distance("zürich", "zurich") == pytest.approx(1 / 6)
    assert character_distance("東京", "京都") == 1.0
    assert character_distance("", "") == 0.0


def test_without_any_slot_the_score_is_zero_and_not_undefined() -> None:
    found = scored([], [])
    assert sums(found["slu_f1"]) == [0, 0, 0]
    assert found["slu_f1"].value == 0.0
    assert found["intent_f1"].value == 1.0


def test_what_was_not_predicted_is_missed_and_costs_the_official_score_nothing() -> None:
    gold: list[Slot] = [("time", "eight"), ("date", "today")]
    ours, official = scored(gold, None), scored(gold, None, official=True)
    assert sums(ours["slu_f1"]) == [0, 0, 4]
    assert sums(ours["intent_f1"]) == [1, 0, 1]
    assert sums(official["slu_f1"]) == [0, 0, 0]
    assert sums(official["intent_f1"]) == [1, 0, 0]
    assert ours["slu_f1"].signature != official["slu_f1"].signature


def test_an_intent_is_scenario_and_action() -> None:
    found = slurp_scores(
        {"1": Frame("play", "music"), "2": Frame("play", "game")},
        {"1": Frame("play", "music"), "2": Frame("play", "music")},
    )
    assert [sums(found[name]) for name in ("scenario_f1", "action_f1", "intent_f1")] == [
        [2, 0, 0],
        [1, 1, 1],
        [1, 1, 1],
    ]


def test_a_prediction_of_another_utterance_is_refused() -> None:
    with pytest.raises(InputError, match=r"found 1 others \(the first is 'x'\)"):
        slurp_scores({"a": Frame("a", "b")}, {"x": Frame("a", "b")})
    with pytest.raises(InputError, match="expected frames to score, found none"):
        slurp_scores({"a": Frame("a", "b")}, {}, official=True)


def test_equal_slots_are_forgiven_no_more_than_near_ones() -> None:
    draw = random.Random(5)
    for _ in range(100):
        gold, found = (
            [(draw.choice("ab"), draw.choice(["x", "x y", "z"])) for _ in range(draw.randint(0, 4))]
            for _ in range(2)
        )
        spans = count_spans(gold, found)
        near = count_near(gold, found, character_distance)
        assert near[0] >= spans[0]
        assert near[0] + near[2] >= len(gold) and spans[0] + spans[2] == len(gold)


def test_the_order_of_equal_slots_does_not_matter() -> None:
    gold = [("a", "x"), ("a", "y"), ("b", "x")]
    assert {count_spans(gold, list(order)) for order in permutations(gold)} == {(3, 0, 0)}


def test_an_interval_resamples_utterances() -> None:
    found = measure(scored([("time", "eight")], [("time", "late")])["slu_f1"], resamples=50)
    assert found.ci_low <= found.value <= found.ci_high
    assert found.interval.startswith("bootstrap of utterances")


# SLUE


def test_entities_are_a_multiset_of_tags_and_phrases() -> None:
    gold = {"1": [("PLACE", "eu")], "2": [("ORG", "un"), ("ORG", "un")]}
    found = slue_scores(gold, {"1": [("PLACE", "eu"), ("PLACE", "eu")], "2": [("ORG", "unesco")]})
    assert sums(found["ner_f1"]) == [1, 2, 2]
    assert sums(found["ner_label_f1"]) == [2, 1, 1]
    precision, recall, _ = compute_f1(found["ner_label_f1"].counts.sum(0)[None])
    assert (precision[0], recall[0]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))


def test_an_utterance_without_entities_can_only_lose() -> None:
    found = slue_scores({"1": [], "2": []}, {"1": [("ORG", "un")]})
    assert sums(found["ner_f1"]) == [0, 1, 0]
    assert found["ner_f1"].value == 0.0


# Answers

EIGHT = Frame("a", "", (("n", "8"),))
RIGHT = Frame("set", "alarm", (("time_of_day", "eight o'clock"),))


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        (write_frame("set_alarm", RIGHT.slots), RIGHT),
        (
            '```json\n{"intent": "Set alarm", "entities": '
            '[{"type": "Time-of-day", "filler": " Eight  o\'clock"}]}\n```',
            RIGHT,
        ),
        ('Sure: {"intent": "set_alarm"} and {"intent": "other"}', Frame("set", "alarm")),
        ('{"intent": "call", "entities": null}', Frame("call", "")),
        ('{not this} {"intent": "call", "entities": []}', Frame("call", "")),
        ('{"intent": "a", "entities": [{"type": "n", "filler": 8}]}', EIGHT),
        ("set_alarm", None),
        ("", None),
        ('{"intent": "set_alarm"', None),  # cut
        ('{"intents": "set_alarm"}', None),
        ('{"intent": 3}', None),
        ('{"x": 1} {"intent": "set_alarm"}', None),  # the first object decides
        ('{"intent": "a", "entities": {"time": "eight"}}', None),
        ('{"intent": "a", "entities": ["eight"]}', None),
        ('{"intent": "a", "entities": [{"type": "time"}]}', None),
        ('{"intent": "a", "entities": [{"type": "t", "filler": true}]}', None),
        ('{"a":' * 5000, None),
    ],
)
def test_a_frame_is_read_out_of_an_answer(text: str, frame: Frame | None) -> None:
    assert parse_frame(text) == frame


def test_what_is_no_frame_misses_its_slots_and_is_counted() -> None:
    right = write_frame("set_alarm", [("time", "Eight")])
    texts = pair_texts(dict.fromkeys("123", right), {"1": right.lower(), "2": "eight", "3": ""})
    assert sums(frame_f1("slurp_f1", texts)) == [2, 0, 4]
    assert sums(frame_f1("slot_f1", texts)) == [1, 0, 2]
    assert intent_accuracy(texts).value == pytest.approx(1 / 3)
    assert invalid_frames(texts).value == pytest.approx(2 / 3)
    assert frame_f1("slurp_f1", texts).metric == "slurp_f1"


def test_a_reference_that_is_no_frame_is_refused() -> None:
    with pytest.raises(InputError, match="expected intent and entities of 'a' as a JSON object"):
        intent_accuracy(pair_texts({"a": "set_alarm"}, {"a": ""}))
