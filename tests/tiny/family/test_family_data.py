"""The data of the comparison: what is asked, what is sealed, and the hand of a second author."""

from blsp.manifest import Utterance
from blsp.tiny.family.data import Sizes, plan_speech
from blsp.tiny.family.rewording import OPENINGS, reword, take_off_manner
from blsp.tiny.family.scoring import build_tasks, group_tasks
from blsp.tiny.questions import add_answers, group_behaviours
from blsp.tiny.voices import NOISES, voices_of
from blsp.tiny.world import kinds, sample_sentences

SMALL = Sizes(train=8, dev=8, test=4, emotion_sentences=2)


def test_splits_share_neither_voices_nor_ids_and_nothing_sealed_is_spoken() -> None:
    plans = plan_speech(SMALL)
    sealed = set(voices_of("sealed"))
    for name, each in plans.items():
        split = name.partition("-")[0]
        assert {plan.voice for plan in each} <= set(voices_of(split)) - sealed  # type: ignore[arg-type]
        assert {plan.noise for plan in each} <= {None, *NOISES}
    for split in ("train", "dev"):
        ids = [plan.id for half in ("clean", "noisy") for plan in plans[f"{split}-{half}"]]
        assert len(set(ids)) == 8
    assert [plan.id for plan in plans["test-clean"]] == [plan.id for plan in plans["test-noisy"]]
    assert len(plans["dev-emotions"]) == 10 and len(plans["test-emotions"]) == 20


def test_each_file_asks_what_its_name_says() -> None:
    asked = {
        name: {one.kind for one in behaviours.behaviours}
        for name, behaviours in group_behaviours().items()
    }
    assert asked["repeat"] == {"repeat"} and asked["continue"] == {"continue"}
    assert asked["diverse"] == set(group_tasks()["aligned"]) - {"repeat"}
    assert asked["emotions"] == {"continue", "emotion"}


def test_development_asks_nothing_sealed_and_the_test_everything() -> None:
    dev, test = ({task.name for task in build_tasks(split)} for split in ("dev", "test"))
    assert test - dev == set(kinds(sealed=True))
    assert dev == test - set(kinds(sealed=True))
    assert set(kinds()) <= test


def test_a_question_of_no_training_is_marked() -> None:
    held_out = {task.name for task in build_tasks("test") if task.held_out}
    groups = group_tasks()
    assert held_out == {*groups["held_out"], *groups["sealed"], *groups["emotion"]}


def test_what_is_right_in_a_mood_is_known_beside_what_is_right() -> None:
    (sentence,) = sample_sentences(1, "test", 1)
    spoken = Utterance(id="u", audio="u.flac", duration=1.0, text=sentence.text, emotion="sad")
    extra = add_answers(spoken, sentence, ["reply", "repeat"]).extra
    assert extra["answers"]["repeat"] == sentence.text
    assert extra["emotional_answers"]["reply"].startswith("I am sorry you feel down.")
    assert extra["answers"]["reply"] in extra["emotional_answers"]["reply"]


def test_the_second_author_says_the_same_otherwise() -> None:
    said = reword("anna and otto", "train-1/who")
    assert said in {f"{opening}: Anna and otto." for opening in OPENINGS}
    assert reword("anna and otto", "train-1/who") == said
    assert take_off_manner(said) == take_off_manner("anna and otto") == "anna and otto"
    assert take_off_manner(reword("I will do so.", "x")) == take_off_manner("I will do so.")
    assert take_off_manner("otto") != take_off_manner(said)
