"""What the tiny LLM is trained on: pauses are in the sentence as it is read, never in an answer."""

import random

from blsp.tiny.llm import sample_conversation, write_pauses
from blsp.tiny.world import sample_sentence


def test_pauses_leave_the_words_and_their_order() -> None:
    rng = random.Random(3)
    for _ in range(200):
        text = sample_sentence(rng, "train").text
        paused = write_pauses(rng, text)
        assert " ".join(paused.replace(".", "").split()) == text


def test_a_training_sentence_is_read_with_and_without_pauses() -> None:
    rng = random.Random(4)
    turns = [turn for _ in range(300) for turn in sample_conversation(rng, "train")]
    asked = [turn for turn in turns if "\n" in turn.user and "sounds" not in turn.user]
    paused = sum("." in turn.user for turn in asked)
    assert 0.3 < paused / len(asked) < 0.7
    assert not any(".." in turn.answer for turn in turns)


def test_what_is_measured_has_no_pauses() -> None:
    rng = random.Random(5)
    turns = [turn for _ in range(100) for turn in sample_conversation(rng, "dev")]
    assert not any(".." in turn.user for turn in turns)
