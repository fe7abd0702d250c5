"""What the tiny LLM is trained on: sentences taken down slowly as questions, never as answers."""

import random
from itertools import groupby, pairwise

from blsp.tiny.llm import sample_conversation, write_slowly
from blsp.tiny.world import sample_sentence


def test_slow_writing_leaves_the_words_and_their_order() -> None:
    rng = random.Random(3)
    repeated = 0
    for _ in range(200):
        text = sample_sentence(rng, "train").text
        written = write_slowly(rng, text).replace(".", " ").split()
        repeated += len(written) > len(text.split())
        assert [word for word, _ in groupby(written)] == [word for word, _ in groupby(text.split())]
    assert 50 < repeated < 200


def test_a_word_said_twice_is_written_twice() -> None:
    rng = random.Random(1)
    for _ in range(50):
        written = write_slowly(rng, "wake me at ten ten").replace(".", " ").split()
        assert written == ["wake", "me", "at", "ten", "ten"]


def test_a_training_sentence_is_read_slowly_and_as_it_is() -> None:
    rng = random.Random(4)
    turns = [turn for _ in range(300) for turn in sample_conversation(rng, "train")]
    asked = [turn for turn in turns if "\n" in turn.user and "sounds" not in turn.user]
    slowly = sum("." in turn.user or _repeats(turn.user) for turn in asked)
    assert 0.3 < slowly / len(asked) < 0.7
    assert not any(".." in turn.answer for turn in turns)


def test_what_is_measured_is_read_as_it_is() -> None:
    rng = random.Random(5)
    turns = [turn for _ in range(100) for turn in sample_conversation(rng, "dev")]
    assert not any(".." in turn.user or _repeats(turn.user) for turn in turns)


def _repeats(text: str) -> bool:
    words = text.split()
    return any(word == following for word, following in pairwise(words))
