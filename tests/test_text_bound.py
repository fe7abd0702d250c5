"""The text bound through the code path of speech: words in place of a recording, same answers.

A recording becomes embeddings at its placeholders. Here these are the transcript's own token
embeddings, so that the model that hears is given exactly what the one that reads is given; whatever
positions, padding, masks or caching do to speech alone would show as another token.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from blsp.dataset import expand_placeholders
from blsp.generation import GenerationConfig, _Writer, answer_speech, answer_texts
from blsp.manifest import AudioPart
from blsp.model import AdapterConfig, compose
from blsp.prompts import SpeechPrompt, place_audio
from blsp.rendering import Renderer
from tests.model.conftest import save_llm, save_whisper

SHORT = GenerationConfig(max_new_tokens=6)
WORDS = ("hi", "turn on the light in the kitchen", "say it again", "a", "what is the time")
ARCHITECTURES = {"qwen3": {}, "mistral": {"sliding_window": 24}, "gpt2": {}}
"""Rotary positions; a sliding window that is shorter than the prompts; learnt positions."""

Folders = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    whisper = save_whisper(tmp_path_factory.mktemp("whisper"))
    made = {
        kind: save_llm(tmp_path_factory.mktemp(kind), kind, **changes)
        for kind, changes in ARCHITECTURES.items()
    }
    return lambda kind: (made[kind], whisper)


def speak_by_tokens(model: Any, spoken: list[list[int]]) -> None:
    """Make recordings become token embeddings: the first feature of each is its number."""
    table = model.get_input_embeddings()

    def get_audio_features(features: torch.Tensor, mask: Any = None) -> Any:
        rows = [spoken[int(one[0, 0])] for one in features]
        ids = torch.tensor([token for row in rows for token in row])
        lengths = torch.tensor([len(row) for row in rows])
        return SimpleNamespace(pooler_output=table(ids), lengths=lengths)

    model.get_audio_features = get_audio_features


def build_prompts(
    renderer: Renderer, instruction: str, *, decides: bool
) -> tuple[list[SpeechPrompt], list[list[int]], list[list[int]]]:
    """Prompts to hear, the tokens of their words, and the same prompts to read."""
    heard, spoken, read = [], [], []
    for number, words in enumerate(WORDS):
        chat = [place_audio(instruction, AudioPart(audio="a", duration=1.0, transcript=words))]
        text = renderer.render_prompt(chat, view="teacher")
        ((start, end),) = text.transcripts
        # An adapter that decides how many embeddings there are is given one placeholder.
        count = 1 if decides else end - start
        ids, _ = expand_placeholders(renderer.render_prompt(chat, view="student"), [count])
        heard.append(SpeechPrompt(ids, ((torch.full((80, 100), float(number)), 100),)))
        spoken.append(text.ids[start:end])
        read.append(text.ids)
    return heard, spoken, read


def tokens_of(writer: Any, row: list[int]) -> list[int]:
    """A row of new tokens up to its end, in place of an answer's text."""
    end = next((i for i, token in enumerate(row) if token in writer._stops), len(row))
    return row[: end + 1]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    ("kind", "adapter"),
    [*((kind, "conv") for kind in ARCHITECTURES), ("qwen3", "cformer")],
)
def test_words_in_place_of_speech_are_answered_token_for_token_as_they_are_read(
    kind: str,
    adapter: Any,
    attention: str,
    folders: Folders,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    llm, whisper = folders(kind)
    torch.manual_seed(3)
    model, processor = compose(llm=llm, encoder=whisper, adapter=AdapterConfig(kind=adapter))
    model.eval()
    model.model.language_model.set_attn_implementation(attention)
    assert model.dtype == torch.float32
    assert model.model.language_model.config._attn_implementation == attention
    renderer = Renderer(processor.tokenizer, audio_token_id=processor.audio_token_id)
    decides = model.config.adapter.decides_length
    heard, spoken, read = build_prompts(renderer, "Repeat:\n{audio}", decides=decides)
    speak_by_tokens(model, spoken)
    monkeypatch.setattr(_Writer, "_read", tokens_of)
    by_eye: Any = answer_texts(model.model.language_model, processor.tokenizer, read, SHORT)
    for batch_size in (2, 5):  # with padding, and with more of it
        config = replace(SHORT, batch_size=batch_size)
        by_ear = answer_speech(model, processor, heard, config)
        llm_alone = model.model.language_model
        assert by_ear == answer_texts(llm_alone, processor.tokenizer, read, config) == by_eye
    assert len({tuple(row) for row in by_eye}) == len(WORDS)  # what stands there matters


def test_the_check_sees_a_single_wrong_embedding(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm, whisper = folders("qwen3")
    model, processor = compose(llm=llm, encoder=whisper)
    renderer = Renderer(processor.tokenizer, audio_token_id=processor.audio_token_id)
    heard, spoken, read = build_prompts(renderer, "Repeat:\n{audio}", decides=False)
    speak_by_tokens(model.eval(), [[*row[:-1], row[-1] + 1] for row in spoken])
    monkeypatch.setattr(_Writer, "_read", tokens_of)
    by_ear = answer_speech(model, processor, heard, SHORT)
    assert by_ear != answer_texts(model.model.language_model, processor.tokenizer, read, SHORT)
