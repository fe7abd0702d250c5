"""What the tiny LLM is asked about the sentences of its world, and what is right to answer.

Training and tests of the quickstart and of the comparison of methods ask the same: questions come
from the behaviours, their wordings from the text world. Utterances enter; utterances with their
right answers leave.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product

from blsp.behaviours import Behaviour, Behaviours, load_behaviours, place_prompt
from blsp.manifest import Utterance
from blsp.tiny.world import Sentence, answer

LLM, WHISPER = "blsp/tiny-llm", "blsp/tiny-whisper"
EMOTIONAL = ("continue", "reply")
"""Kinds of which the answer follows the speaker's mood."""


def group_behaviours() -> dict[str, Behaviours]:
    """Names of conversations files -> what the LLM is asked for them.

    To repeat takes every word, so it says most about what was heard; it is as much as all else.
    Of the mood the LLM is told, and the model that hears is not.
    """
    every = load_behaviours("tiny").behaviours

    def choose(chosen: Iterable[Behaviour]) -> Behaviours:
        return Behaviours(behaviours=tuple(chosen))

    return {
        "repeat": choose(one for one in every if one.kind == "repeat"),
        "continue": choose(one for one in every if one.kind == "continue"),
        "diverse": choose(one for one in every if one.kind != "repeat"),
        "emotions": load_behaviours("tiny-emotions"),
    }


def place_everywhere(prompts: Sequence[str]) -> tuple[str, ...]:
    """Each before the recording, and after it."""
    return tuple(place_prompt(text, first=first) for text, first in product(prompts, (False, True)))


def add_answers(utterance: Utterance, sentence: Sentence, kinds: Iterable[str]) -> Utterance:
    """The utterance with what is right to answer; `emotional_answers` to the mood it is spoken in,
    `answers` as if it were spoken plainly."""
    right = {kind: answer(kind, sentence) for kind in kinds}
    mood = utterance.emotion or "neutral"
    moved = {kind: answer(kind, sentence, emotion=mood) for kind in EMOTIONAL}
    more = {"answers": right, "emotional_answers": moved}
    return replace(utterance, extra={**utterance.extra, **more})
