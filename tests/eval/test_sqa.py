"""What `blsp bench sqa` and `slu --slots` ask, from what manifests have."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blsp.errors import InputError
from blsp.manifest import Entity, Utterance
from blsp.official import Corpus
from blsp.testsets import TestSet
from eval.slu import NAME_METRICS, SLOT_METRICS, build_slot_task
from eval.sqa import build_task, find_answers, is_choice, is_conclusion, name_letters

OPTIONS: Any = type(
    "Options",
    (),
    {"instruction": None, "language": "en", "held_out": False, "labels": None, "manifest": ["m"]}
    | {"official": Corpus(), "data": None},
)


def made_of(*rows: dict[str, Any], **fields: Any) -> TestSet:
    """A set of one utterance a row of other keys."""
    return TestSet(
        condition="c",
        root=Path(),
        utterances=tuple(
            Utterance(id=f"u{i}", audio="a.wav", duration=1.0, text="x", extra=row, **fields)
            for i, row in enumerate(rows)
        ),
    )


def test_a_heard_question_is_asked_for_a_short_answer() -> None:
    sets = [made_of({"reference": "Paris"})]
    task = build_task(OPTIONS, sets, "reference")
    assert task.prompts == (
        "Answer the question with as few words as possible, not with a sentence.\n{audio}",
    )
    assert task.metrics[0] == "squad_em" and task.fills == ()


def test_a_question_in_writing_belongs_to_a_passage() -> None:
    sets = [made_of({"question": "Who won?", "answer": "he", "answers": ["he", "Bob"]})]
    assert find_answers(sets, ["m"]) == "answers"
    task = build_task(OPTIONS, sets, "answers")
    [one] = sets[0].utterances
    assert task.ask(one).endswith("not with a sentence.\nQuestion: Who won?\n{audio}")
    assert task.reference_of(one) == '["he", "Bob"]'


def test_a_written_context_comes_first() -> None:
    sets = [made_of({"context": "It rained.", "answer": "rain"})]
    task = build_task(OPTIONS, sets, "answer")
    assert task.ask(sets[0].utterances[0]).startswith("It rained.\n\nAnswer the question")


def test_letters_are_a_choice() -> None:
    sets = [made_of({"reference": "B"}, {"reference": "D"})]
    assert is_choice(sets, "reference")
    task = build_task(OPTIONS, sets, "reference")
    assert task.metrics == ("choice_accuracy", "unparsed_choices")
    assert "with the letter of the right option" in task.prompts[0]
    assert not is_choice([made_of({"reference": "B"}, {"reference": "Bob"})], "reference")
    assert not is_choice([made_of({"reference": ["B"]}, {})], "reference")
    assert not is_choice([made_of({})], "reference")


def test_questions_of_big_bench_hard_are_asked_for_a_conclusion() -> None:
    rows = made_of({"reference": "yes"}, {"reference": "(B)"})
    assert not is_conclusion([rows], "reference")  # their ids name no task
    named = [replace(one, id=f"navigate_{one.id}") for one in rows.utterances]
    sets = [replace(rows, utterances=tuple(named))]
    task = build_task(OPTIONS, sets, "reference")
    assert task.metrics == ("conclusion_accuracy", "unparsed_conclusions")
    assert "yes or no" in task.prompts[0]


def test_options_in_writing_are_lettered_and_the_right_one_becomes_its_letter() -> None:
    rows = {"choices": ["ada", "bob"], "answer": "bob"}, {"choices": ["x", "y"], "answer": "A"}
    named = name_letters(made_of(*rows), "answer")
    assert [one.extra["answer"] for one in named.utterances] == ["B", "A"]
    task = build_task(OPTIONS, [named], "answer")
    assert "Options:\n(A) ada\n(B) bob\n{audio}" in task.ask(named.utterances[0])
    with pytest.raises(InputError, match=r"found 'eve' of \['ada'\]"):
        name_letters(made_of({"choices": ["ada"], "answer": "eve"}), "answer")
    with pytest.raises(InputError, match="one of at most 4"):
        name_letters(made_of({"choices": list("vwxyz"), "answer": "v"}), "answer")


def test_a_manifest_that_asks_some_in_writing_is_refused() -> None:
    sets = [made_of({"question": "Who?", "answer": "he"}, {"answer": "she"})]
    with pytest.raises(
        InputError, match=r"'question' in all .* found 1 without \(the first is 'u1"
    ):
        build_task(OPTIONS, sets, "answer")


def test_a_manifest_without_answers_is_refused() -> None:
    with pytest.raises(InputError, match="expected one of answers, answer, reference"):
        find_answers([made_of({})], ["m"])


def test_slots_are_asked_for_with_intents_or_alone() -> None:
    slots = {"entities": (Entity(type="time", filler="eight"),)}
    with_intents = build_slot_task(OPTIONS, [made_of({}, intent="alarm_set", **slots)])
    assert "Intents: alarm_set\nTypes: time\n{audio}" in with_intents.prompts[0]
    assert with_intents.metrics == SLOT_METRICS
    alone = build_slot_task(OPTIONS, [made_of({}, **slots)])
    assert "intent" not in alone.prompts[0] and alone.metrics == NAME_METRICS
    with pytest.raises(InputError, match="expected `entities` in the utterances of m"):
        build_slot_task(OPTIONS, [made_of({}, intent="a")])
