"""Tasks as data: what stands where in a line, what may be named together, what survives as JSON."""

import json
from typing import Any, get_args

import pytest

from blsp.errors import InputError
from blsp.manifest import Entity, Utterance
from blsp.metrics import BASIC, RAW, Pairs, pair_texts, write_golds
from blsp.tasks import (
    ERROR_RATES,
    FRAMES,
    GOLDS,
    LABELLED,
    MetricName,
    Task,
    compute_statistics,
    count_invalid,
)


def utterance(**changes: Any) -> Utterance:
    values: dict[str, Any] = {"id": "u", "audio": "u.wav", "duration": 1.0, "text": "call ada"}
    return Utterance(**(values | changes))


def task(*metrics: MetricName, **changes: Any) -> Task:
    values: dict[str, Any] = {"name": "t", "prompts": ("Say",), "reference": "answers"}
    return Task(metrics=metrics, **(values | changes))


def test_several_right_answers_are_one_reference() -> None:
    asked = task("squad_em", "squad_f1")
    assert asked.reference_of(utterance(extra={"answers": ["1", "one"]})) == '["1", "one"]'
    assert asked.reference_of(utterance(extra={"answers": "ä"})) == '["ä"]'
    assert asked.reference_of(utterance(extra={"answers": []})) is None
    assert asked.reference_of(utterance()) is None
    with pytest.raises(InputError, match="expected text at 'answers' of utterance 'u', found list"):
        asked.reference_of(utterance(extra={"answers": [1]}))
    assert asked.example_of('["1", "one"]') == "1"


def test_a_list_is_no_reference_of_a_metric_that_compares_one_text() -> None:
    with pytest.raises(InputError, match="found list"):
        task("exact_match").reference_of(utterance(extra={"answers": ["1"]}))


def test_a_frame_is_the_reference_also_where_nothing_is_named() -> None:
    asked = task("slurp_f1", reference="entities")
    named = utterance(intent="call", entities=(Entity(type="person", filler="ada"),))
    assert json.loads(asked.reference_of(named) or "") == {
        "intent": "call",
        "entities": [{"type": "person", "filler": "ada"}],
    }
    assert json.loads(asked.reference_of(utterance(intent="stop")) or "") == {
        "intent": "stop",
        "entities": [],
    }
    assert asked.reference_of(utterance()) == '{"entities": []}'
    reference = asked.reference_of(named) or ""
    assert asked.example_of(reference) == reference


def test_metrics_of_different_references_are_not_mixed() -> None:
    with pytest.raises(
        InputError, match="one kind of reference, found squad_em, chrf; leave out c"
    ):
        task("squad_em", "chrf")
    with pytest.raises(InputError, match="leave out slurp_f1"):
        task("choice_accuracy", "slurp_f1")


def test_words_of_the_line_are_filled_into_the_prompt() -> None:
    asked = task(
        "squad_em",
        prompts=("{audio}\nQuestion: {question}\n{choices}",),
        fills=("question", "choices"),
    )
    row = utterance(extra={"question": " Who? ", "choices": ["ada", "bob"]})
    assert asked.ask(row) == "{audio}\nQuestion: Who?\n(A) ada\n(B) bob"
    with pytest.raises(InputError, match="expected 'choices' in the line of utterance 'u'"):
        asked.ask(utterance(extra={"question": "Who?"}))


def test_a_task_survives_as_json() -> None:
    asked = task("squad_em", fills=("question",))
    assert Task(**json.loads(json.dumps(asked.to_dict()))) == asked
    assert "fills" not in task("squad_em").to_dict()  # runs begun before go on


UTTERANCE = "navigate_1"  # one metric wants the name of a task in it
REFERENCES = {
    "conclusion_accuracy": "yes",
    **dict.fromkeys(GOLDS, '["a"]'),
    **dict.fromkeys(FRAMES, '{"intent": "a"}'),
}


def one_pair(metric: str) -> Pairs:
    reference = REFERENCES.get(metric, "A" if metric.startswith("choice") else "a")
    return pair_texts({UTTERANCE: reference}, {UTTERANCE: '{"intent": "a"} a'})


@pytest.mark.parametrize("metric", [m for m in get_args(MetricName) if m != "distinct"])
def test_every_metric_that_can_be_named_is_computed_and_named_alike(metric: MetricName) -> None:
    labels = ("a",) if metric in LABELLED else ()
    asked = task(metric, labels=labels, phrases={"a": ["a"]})
    found = compute_statistics(asked, metric, one_pair(metric), BASIC)
    assert found.metric == metric and found.value >= 0
    assert found.ids == (UTTERANCE,)


def test_an_error_rate_of_gigaspeech_is_after_its_own_normaliser() -> None:
    pairs = pair_texts({"1": "uh e-mail, <unk>", "2": "um."}, {"1": "E mail", "2": "hello"})
    found = compute_statistics(task("gigaspeech_wer"), "gigaspeech_wer", pairs, RAW)
    assert (found.value, found.ids) == (0.0, ("1",))  # nothing of the second is scored
    assert "gigaspeech_wer" in ERROR_RATES


@pytest.mark.parametrize(
    ("metric", "value"),
    [("accuracy", 0.6), ("unweighted_accuracy", 0.25), ("macro_f1", 0.1875), ("weighted_f1", 0.45)],
)
def test_means_over_labels_are_those_worked_out_by_hand(metric: MetricName, value: float) -> None:
    """Who always answers neutral: recall 1 and F1 2 * 6 / (10 + 6) of one class, 0 of three."""
    references = ["neutral"] * 6 + ["happy", "angry", "sad", "sad"]
    pairs = pair_texts(
        {str(i): label for i, label in enumerate(references)},
        {str(i): "It is neutral." for i in range(10)},
    )
    asked = task(metric, labels=("neutral", "happy", "angry", "sad", "calm"))
    assert compute_statistics(asked, metric, pairs, None).value == pytest.approx(value)


def test_answers_that_could_not_be_read_are_counted() -> None:
    pairs = pair_texts({"1": "A", "2": "B"}, {"1": "A", "2": "who knows"})
    assert count_invalid(task("choice_accuracy"), pairs) == 1
    assert count_invalid(task("slurp_f1"), pairs) == 2
    assert count_invalid(task("accuracy", labels=("A", "B")), pairs) == 1
    golds = pair_texts({"1": write_golds("A")}, {"1": ""})
    assert count_invalid(task("squad_em"), golds) is None
