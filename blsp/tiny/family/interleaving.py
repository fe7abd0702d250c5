"""Conversations half heard, half read: the recording ends at a word, and its rest is written.

After InSerter (arXiv 2503.02769): where speech and text follow each other within one sentence, both
must mean the same to go on from. A recording is cut where eSpeak says that a word begins; the words
after it stand as text on the same line, so that the view with transcripts keeps the very tokens of
the whole sentence. Conversations and timings enter, conversations leave.
"""

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from blsp.manifest import AudioPart, Conversation, Message, Part, TextPart
from blsp.rendering import Renderer

WHOLE_SHARE = 0.3
"""Of the conversations, those that stay all speech."""

Words = Sequence[tuple[int, float]]
"""Offset in the text and start in seconds of each word."""


def read_words(timing: Path) -> dict[str, Words]:
    """Id -> its words, from a `NAME.timing.jsonl`."""
    rows = map(json.loads, timing.read_text(encoding="utf-8").splitlines())
    return {row["id"]: [(at, start) for at, start in row["words"]] for row in rows}


def interleave(
    conversations: Iterable[Conversation],
    words: Mapping[str, Words],
    renderer: Renderer,
    *,
    seed: int = 0,
) -> Iterator[Conversation]:
    """Yield every conversation, most of them cut; where depends on the seed and the id alone.

    Args:
        conversations: of one recording each, their ids `UTTERANCE/KIND`.
        words: utterance -> where its words are.
        renderer: checks that the teacher's tokens stay the same; a cut that changes them is not
            made.
    """
    for one in conversations:
        rng = random.Random(f"interleave {seed} {one.id}")
        cuts = _find_cuts(one.recordings[0], words[one.id.partition("/")[0]])
        if rng.random() < WHOLE_SHARE or not cuts:
            yield one
            continue
        cut = _cut_conversation(one, *rng.choice(cuts))
        same = _teacher_ids(renderer, cut) == _teacher_ids(renderer, one)
        yield cut if same else one


def _find_cuts(part: AudioPart, words: Words) -> list[tuple[int, float]]:
    """Where a word begins behind a space, after the recording's beginning and before its end."""
    text, end = part.transcript, part.start + part.duration
    return [
        (at, start)
        for at, start in words
        if 0 < at < len(text) and text[at - 1] == " " and part.start < start < end
    ]


def _cut_conversation(conversation: Conversation, at: int, start: float) -> Conversation:
    messages = [
        replace(message, content=tuple(_cut_parts(message, at, start)))
        for message in conversation.messages
    ]
    return replace(conversation, messages=tuple(messages), extra={**conversation.extra, "cut": at})


def _cut_parts(message: Message, at: int, start: float) -> Iterator[Part]:
    for part in message.content:
        if isinstance(part, TextPart):
            yield part
            continue
        seconds = round(start - part.start, 4)
        yield replace(part, duration=seconds, transcript=part.transcript[:at].rstrip())
        # The space is the first of the written words': that is how the whole is tokenised.
        yield TextPart(text=f" {part.transcript[at:]}")


def _teacher_ids(renderer: Renderer, conversation: Conversation) -> list[int]:
    return renderer.render(conversation, view="teacher").ids
