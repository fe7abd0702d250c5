"""Generation: a batch changes nothing, order is kept, and an answer says why it ended."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from blsp.errors import InputError
from blsp.generation import (
    Answer,
    GenerationConfig,
    answer_speech,
    answer_texts,
    find_stop_ids,
    stream_answer,
)
from blsp.manifest import AudioPart, Message, TextPart
from blsp.model import compose
from blsp.model.loading import load_tokenizer
from blsp.prompts import SpeechPrompt, build_speech_prompt, place_audio
from blsp.rendering import Renderer
from tests.model.conftest import make_audio, save_llm, save_whisper

SHORT = GenerationConfig(max_new_tokens=12)
AUDIO = AudioPart(audio="a.wav", duration=1.0, transcript="turn on the light")
TEXTS = ["hi", "turn on the light in the kitchen", "say it again", "a", "what is the time now"]
END = 258  # <|im_end|>


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return (
        save_llm(tmp_path_factory.mktemp("llm"), "qwen3", tie_word_embeddings=False),
        save_whisper(tmp_path_factory.mktemp("whisper")),
    )


@pytest.fixture(scope="module")
def reader(folders: tuple[Path, Path]) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(folders[0], dtype=torch.float32).eval()
    # Some makers ship habits of sampling; none of them may reach an answer.
    model.generation_config.repetition_penalty = 1.7
    model.generation_config.do_sample = True
    return model, load_tokenizer(folders[0])


@pytest.fixture(scope="module")
def hearer(folders: tuple[Path, Path]) -> tuple[Any, Any]:
    torch.manual_seed(3)
    return compose(llm=folders[0], encoder=folders[1])


def user(text: str) -> Message:
    return Message(role="user", content=(TextPart(text=text),))


def prompts_of(tokenizer: Any) -> list[list[int]]:
    renderer = Renderer(tokenizer)
    return [renderer.render_prompt([user(text)], view="teacher").ids for text in TEXTS]


def speech_prompts(hearer: tuple[Any, Any], samples: list[int]) -> list[SpeechPrompt]:
    _, processor = hearer
    renderer = Renderer(processor.tokenizer, audio_token_id=processor.audio_token_id)
    message = place_audio("Repeat this", AUDIO)
    return [
        build_speech_prompt(renderer, processor, [message], [make_audio(count, seed=index)])
        for index, count in enumerate(samples)
    ]


# --- read -----------------------------------------------------------------------------------------


def test_text_answers_are_those_of_the_library(reader: tuple[Any, Any]) -> None:
    model, tokenizer = reader
    prompts = prompts_of(tokenizer)
    ours = answer_texts(model, tokenizer, prompts, SHORT)
    for ids, answer in zip(prompts, ours, strict=True):
        out = model.generate(
            torch.tensor([ids]), do_sample=False, max_new_tokens=12, repetition_penalty=1.0
        )
        text = tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True).strip()
        assert answer.text == (text.rstrip("\ufffd") if answer.finish_reason == "length" else text)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_batch_is_its_singles_in_the_order_given(
    reader: tuple[Any, Any], batch_size: int
) -> None:
    model, tokenizer = reader
    prompts = prompts_of(tokenizer)
    counts: list[int] = []
    config = replace(SHORT, batch_size=batch_size)
    together = answer_texts(model, tokenizer, prompts, config, on_batch=counts.append)
    assert together == [answer_texts(model, tokenizer, [ids], SHORT)[0] for ids in prompts]
    assert len({answer.text for answer in together}) == len(TEXTS)
    assert sum(counts) == len(TEXTS) and max(counts) == batch_size


class Scripted:
    """A language model that writes what it is told, row by row, and shows what it was given."""

    def __init__(self, reader: tuple[Any, Any], *rows: list[int]) -> None:
        self.config, self.generation_config = reader[0].config, reader[0].generation_config
        self.get_input_embeddings = reader[0].get_input_embeddings
        self.rows, self.given = rows, {}

    def generate(self, **given: Any) -> torch.Tensor:
        self.given = given
        return torch.cat([given["input_ids"], torch.tensor(list(self.rows))], dim=1)


def test_prompts_are_padded_on_the_left_the_longest_first(reader: tuple[Any, Any]) -> None:
    llm = Scripted(reader, [END], [END])
    answer_texts(llm, reader[1], [[5, 6], [7, 8, 9]], SHORT)
    assert llm.given["input_ids"].tolist() == [[7, 8, 9], [256, 5, 6]]
    assert llm.given["attention_mask"].tolist() == [[1, 1, 1], [0, 1, 1]]


def test_an_answer_says_why_it_ended(reader: tuple[Any, Any]) -> None:
    """The first row ends itself, the second is cut; control tokens are in neither text."""
    tokenizer = reader[1]
    a, b = tokenizer("a b", add_special_tokens=False)["input_ids"][::2]
    llm = Scripted(reader, [a, b, END, 256, 256], [a, 257, a, b, b])
    answers = answer_texts(llm, tokenizer, [[1, 2], [1]], SHORT)
    assert answers == [Answer("ab", "stop", 2), Answer("aabb", "length", 5)]


def test_a_character_cut_in_two_is_left_out(reader: tuple[Any, Any]) -> None:
    whole = reader[1]("a\u00e9", add_special_tokens=False)["input_ids"]
    assert len(whole) == 3
    llm = Scripted(reader, whole[:2])
    assert answer_texts(llm, reader[1], [[1]], SHORT) == [Answer("a", "length", 2)]


def test_answers_stop_at_the_end_of_turn_and_at_the_end_of_sequence(
    reader: tuple[Any, Any],
) -> None:
    """Llama-3 and others name another end of sequence than their templates write."""
    model, tokenizer = reader
    raw = tokenizer.backend_tokenizer
    tokenizer = type(tokenizer)(tokenizer_object=raw, eos_token="<|endoftext|>")
    assert find_stop_ids(model, tokenizer) == (258, 256)
    tokenizer.chat_template = reader[1].chat_template.replace("<|im_end|>", "<|im_start|>")
    assert find_stop_ids(model, tokenizer) == (258, 256, 257)


def test_draws_repeat_with_their_seed_and_disturb_nobody(reader: tuple[Any, Any]) -> None:
    model, tokenizer = reader
    prompts = prompts_of(tokenizer)
    drawn = replace(SHORT, do_sample=True, temperature=2.0, batch_size=2, seed=1)
    state = torch.get_rng_state()
    first = answer_texts(model, tokenizer, prompts, drawn)
    assert torch.equal(state, torch.get_rng_state())
    assert first == answer_texts(model, tokenizer, prompts, drawn)
    assert first != answer_texts(model, tokenizer, prompts, replace(drawn, seed=2))


@pytest.mark.parametrize(
    ("prompts", "message"),
    [([[1], []], "found an empty one"), ([[1] * 600], "512 positions, found 600")],
)
def test_a_prompt_that_cannot_be_answered_is_refused(
    reader: tuple[Any, Any], prompts: list[list[int]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        answer_texts(*reader, prompts, SHORT)


def test_nothing_to_answer_is_no_answer(reader: tuple[Any, Any]) -> None:
    assert answer_texts(*reader, [], SHORT) == []


@pytest.mark.parametrize(
    "values", [{"max_new_tokens": 0}, {"batch_size": 0}, {"temperature": 0.0}, {"top_p": 1.5}]
)
def test_settings_that_cannot_work_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        GenerationConfig(**values)


# --- heard ----------------------------------------------------------------------------------------


def test_a_speech_prompt_has_a_placeholder_for_each_embedding(hearer: tuple[Any, Any]) -> None:
    """One second is 100 frames, 50 encoder rows and 7 embeddings of three halving convolutions."""
    [prompt] = speech_prompts(hearer, [16_000])
    assert prompt.ids.count(hearer[1].audio_token_id) == 7
    assert [(tuple(one.shape), frames) for one, frames in prompt.features] == [((80, 100), 100)]


def test_recordings_and_audio_parts_must_be_as_many(hearer: tuple[Any, Any]) -> None:
    _, processor = hearer
    renderer = Renderer(processor.tokenizer, audio_token_id=processor.audio_token_id)
    with pytest.raises(ValueError, match="1 recordings, found 0"):
        build_speech_prompt(renderer, processor, [place_audio("", AUDIO)], [])


def test_a_batch_of_speech_is_its_singles_in_the_order_given(hearer: tuple[Any, Any]) -> None:
    prompts = speech_prompts(hearer, [9_000, 40_000, 300, 21_000])
    together = answer_speech(*hearer, prompts, replace(SHORT, batch_size=3))
    assert together == [answer_speech(*hearer, [prompt], SHORT)[0] for prompt in prompts]
    assert len({answer.text for answer in together}) > 1


def test_a_recording_longer_than_any_of_training_is_told_once(
    hearer: tuple[Any, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = hearer
    prompts = speech_prompts(hearer, [8000, 16_160])  # the second has 1.01 s
    for limit, told in ((None, 0), (1.01, 0), (1.0, 1), (1.0, 1)):
        monkeypatch.setattr(model.config, "trained_max_seconds", limit)
        answer_speech(*hearer, prompts, SHORT)
        assert len(caplog.records) == told
    assert "at most 1.0 s, the longest of training" in caplog.text


def test_text_alone_is_answered_as_the_language_model_answers(hearer: tuple[Any, Any]) -> None:
    model, processor = hearer
    renderer = Renderer(processor.tokenizer, audio_token_id=processor.audio_token_id)
    prompt = build_speech_prompt(renderer, processor, [user("hello there")], [])
    [heard] = answer_speech(model, processor, [prompt], SHORT)
    read = answer_texts(model.model.language_model, processor.tokenizer, [prompt.ids], SHORT)
    assert [heard] == read


def test_a_streamed_answer_is_the_answer(hearer: tuple[Any, Any]) -> None:
    [prompt] = speech_prompts(hearer, [9_000])
    pieces: list[str] = []
    answer = stream_answer(*hearer, prompt, SHORT, on_text=pieces.append)
    assert [answer] == answer_speech(*hearer, [prompt], SHORT)
    assert "".join(pieces).strip() == answer.text
