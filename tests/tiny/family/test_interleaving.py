"""Recordings that end at a word: where they are cut, and that the reader's tokens stay the same."""

import json
from pathlib import Path

import pytest

from blsp.manifest import AudioPart, Conversation, Message, TextPart
from blsp.model.loading import load_tokenizer
from blsp.prompts import place_audio
from blsp.rendering import Renderer
from blsp.tiny.family import interleaving
from blsp.tiny.family.interleaving import interleave, read_words

TEXT = "call anna in the kitchen"
WORDS = [(0, 0.1), (5, 0.4), (10, 0.9), (17, 1.3)]  # call, anna, "in the", kitchen


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(load_tokenizer("blsp/tiny-llm", None))


def conversation(identity: str = "u/who", question: str = "Who is named?") -> Conversation:
    part = AudioPart(audio="u.flac", duration=2.0, transcript=TEXT)
    reply = Message(role="assistant", content=(TextPart(text="anna"),))
    return Conversation(id=identity, messages=(place_audio(question, part), reply), kind="who")


@pytest.fixture
def all_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interleaving, "WHOLE_SHARE", 0.0)


@pytest.mark.usefixtures("all_cut")
def test_the_rest_of_the_words_follows_the_recording_on_its_line(renderer: Renderer) -> None:
    """Between two recorded offsets lies the second of "in the", so no cut falls there."""
    expected = {
        0.4: ("call", " anna in the kitchen"),
        0.9: ("call anna", " in the kitchen"),
        1.3: ("call anna in the", " kitchen"),
    }
    seen = set()
    for seed in range(20):
        (cut,) = interleave([conversation()], {"u": WORDS}, renderer, seed=seed)
        audio, rest, question = cut.messages[0].content
        assert isinstance(audio, AudioPart) and isinstance(rest, TextPart)
        assert (audio.transcript, rest.text) == expected[audio.duration]
        assert question == TextPart(text="\nWho is named?")
        seen.add(audio.duration)
    assert seen == set(expected)


@pytest.mark.usefixtures("all_cut")
@pytest.mark.parametrize("question", ["Who is named?", "Who is named?\n{audio}"])
def test_the_reader_sees_the_very_tokens_of_the_whole(renderer: Renderer, question: str) -> None:
    whole = conversation(question=question)
    (cut,) = interleave([whole], {"u": WORDS}, renderer)
    assert cut != whole
    views = [renderer.render(one, view="teacher") for one in (whole, cut)]
    assert views[0].ids == views[1].ids and views[0].labels == views[1].labels


@pytest.mark.usefixtures("all_cut")
def test_a_cut_that_would_change_tokens_is_not_made(renderer: Renderer) -> None:
    """The second space belongs to no word."""
    part = AudioPart(audio="u.flac", duration=2.0, transcript="call  anna")
    reply = Message(role="assistant", content=(TextPart(text="anna"),))
    odd = Conversation(id="u/who", messages=(place_audio("Who?", part), reply))
    assert list(interleave([odd], {"u": [(0, 0.1), (6, 0.4)]}, renderer)) == [odd]


def test_some_stay_whole_and_the_draw_is_that_of_the_id(renderer: Renderer) -> None:
    many = [conversation(f"u/{number}") for number in range(200)]
    first = list(interleave(many, {"u": WORDS}, renderer))
    whole = sum(len(one.messages[0].content) == 2 for one in first)
    assert 40 < whole < 80
    assert list(interleave(many[50:60], {"u": WORDS}, renderer)) == first[50:60]


def test_words_are_read_from_the_timing(tmp_path: Path) -> None:
    row = {"id": "u", "phonemes": [["k", 0.1]], "words": [[0, 0.1], [5, 0.4]]}
    path = tmp_path / "a.timing.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert read_words(path) == {"u": [(0, 0.1), (5, 0.4)]}
