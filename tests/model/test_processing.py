"""The processor: true-length features, an audio token per embedding, chats with audio parts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoProcessor, pipeline

from blsp.dataset import expand_placeholders
from blsp.errors import InputError
from blsp.manifest import AudioPart, Message, TextPart
from blsp.model import BlspProcessor, compose, save_checkpoint
from blsp.model.loading import load_tokenizer
from blsp.rendering import Renderer
from tests.model.conftest import CHAT_TEMPLATE, build_tokenizer, make_audio, save_llm
from tests.templates import QWEN2_5, TOOLS

Pair = tuple[Any, Any]  # a model and its processor
HOP, SECOND = 160, 16_000


@pytest.mark.parametrize("samples", [1, 200, 201, 800, 12_345, 112_080, 479_700, 480_000])
def test_features_are_the_beginning_of_the_padded_ones(pair: Pair, samples: int) -> None:
    _, processor = pair
    audio = make_audio(samples)
    features, frames = processor.extract_features(audio)
    whole = processor.feature_extractor(audio, sampling_rate=SECOND, return_tensors="pt")
    expected = whole["input_features"][0, :, :frames]
    assert frames == features.shape[1] == -(-samples // HOP)
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-6)


def test_features_do_not_depend_on_batch_mates(pair: Pair) -> None:
    _, processor = pair
    recordings = [make_audio(5_000, 1), make_audio(30_000, 2)]
    batch = processor(text="<|audio|> <|audio|>", audio=recordings)
    alone = processor(text="<|audio|>", audio=recordings[:1])
    assert torch.equal(batch["input_features"][:1, :, :32], alone["input_features"])
    assert batch["input_features_mask"].sum(-1).tolist() == [32, 188]
    assert (batch["input_features"][0, :, 32:] == 0).all()


@pytest.mark.parametrize(
    ("samples", "tokens"),
    [(1, 1), (201, 1), (800, 1), (SECOND, 7), (30 * SECOND, 188), (35 * SECOND, 188 + 32)],
)
def test_a_recording_becomes_its_number_of_audio_tokens(
    pair: Pair, samples: int, tokens: int
) -> None:
    model, processor = pair
    inputs = processor(text="hear <|audio|>!", audio=[make_audio(samples)])
    assert processor.num_speech_tokens(samples) == tokens
    assert (inputs["input_ids"] == model.config.audio_token_id).sum() == tokens
    features = model.get_audio_features(inputs["input_features"], inputs["input_features_mask"])
    assert features.pooler_output.shape == (tokens, 64)  # type: ignore[union-attr]


def test_three_quarters_of_an_hour_is_never_cut(pair: Pair) -> None:
    _, processor = pair
    assert processor.num_speech_tokens(45 * 60 * SECOND) == 90 * 188
    features, frames = processor.extract_features(np.zeros(45 * 60 * SECOND, dtype=np.float32))
    assert features.shape == (80, 270_000)
    assert frames == 270_000


def test_max_padding_gives_whole_windows_and_the_true_frames(llm: Path, whisper: Path) -> None:
    _, processor = compose(llm=llm, encoder=whisper, audio_padding="max")
    inputs = processor(text="<|audio|>", audio=[make_audio(32 * SECOND)])
    assert inputs["input_features"].shape == (1, 80, 6000)
    assert inputs["input_features_mask"].sum() == 3200
    assert inputs["input_ids"].shape == (1, 188 + 13)


@pytest.mark.parametrize("shape", [(0,), (2, 100)])
def test_audio_of_the_wrong_shape_is_refused(pair: Pair, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="expected mono samples"):
        pair[1].extract_features(np.zeros(shape, dtype=np.float32))


# --- chats ----------------------------------------------------------------------------------------


def chat(audio: Any, **part: Any) -> list[dict[str, Any]]:
    spoken = {"type": "audio", "audio": audio, **part}
    return [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "repeat:\n"}, spoken]},
    ]


def test_audio_parts_become_audio_tokens_in_the_models_own_template(pair: Pair) -> None:
    model, processor = pair
    prompt = processor.apply_chat_template(chat(make_audio(800)), add_generation_prompt=True)
    assert prompt == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nrepeat:\n<|audio|><|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    inputs = processor.apply_chat_template(
        chat(make_audio(SECOND)), tokenize=True, return_dict=True
    )
    assert (inputs["input_ids"] == model.config.audio_token_id).sum() == 7


def test_a_transcript_in_an_audio_part_is_not_printed(pair: Pair) -> None:
    prompt = pair[1].apply_chat_template(chat(make_audio(800), transcript="secret", text="secret"))
    assert "secret" not in prompt


@pytest.mark.parametrize("template", ["\n  {%- if true %}", "  {% if true %}", "\n\n{% if true %}"])
def test_the_template_renders_text_as_without_us(pair: Pair, template: str) -> None:
    from blsp.model.processing import with_audio_parts

    _, processor = pair
    template = template + CHAT_TEMPLATE + "{% endif %}\n"
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    theirs = processor.tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False
    )
    ours = with_audio_parts(template, "<|audio|>")
    assert processor.apply_chat_template(messages, chat_template=ours) == theirs


def test_the_template_gets_the_variables_of_training(whisper: Path, tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE + "{{ '<think>' if thinking else '<quiet>' }}"
    folder = save_llm(tmp_path / "llm", "qwen3", tokenizer=tokenizer)
    variables = {"thinking": True}
    pair = compose(llm=folder, encoder=whisper, template_variables=variables)
    save_checkpoint(*pair, tmp_path / "checkpoint")
    for processor in (pair[1], AutoProcessor.from_pretrained(tmp_path / "checkpoint")):
        messages = [{"role": "user", "content": "hi"}]
        assert processor.apply_chat_template(messages).endswith("<think>")
        assert processor.apply_chat_template(messages, thinking=False).endswith("<quiet>")


def test_a_path_and_a_data_uri_are_heard_as_samples_are(pair: Pair, tmp_path: Path) -> None:
    import base64

    _, processor = pair
    soundfile.write(tmp_path / "a.wav", make_audio(8_000), SECOND, subtype="FLOAT")
    encoded = base64.b64encode((tmp_path / "a.wav").read_bytes()).decode()
    heard = [
        processor.apply_chat_template(chat(audio), tokenize=True, return_dict=True)
        for audio in (
            make_audio(8_000),
            str(tmp_path / "a.wav"),
            f"data:audio/wav;base64,{encoded}",
        )
    ]
    for other in heard[1:]:
        assert torch.equal(heard[0]["input_features"], other["input_features"])


def test_typed_audio_tokens_stay_text_when_sanitised_and_are_refused_otherwise(pair: Pair) -> None:
    model, processor = pair
    messages = chat(make_audio(SECOND))
    messages[1]["content"][0]["text"] = "<|audio|><|im_end|>\n"
    inputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, sanitize_control_tokens=True
    )
    assert (inputs["input_ids"] == model.config.audio_token_id).sum() == 7
    with pytest.raises(ValueError, match="audio"):
        processor.apply_chat_template(messages, tokenize=True, return_dict=True)


def test_assistant_masks_cover_the_answers_after_the_audio(pair: Pair) -> None:
    _, processor = pair
    inputs = processor.apply_chat_template(
        [*chat(make_audio(SECOND)), {"role": "assistant", "content": "yes"}],
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    masked = inputs["input_ids"][0][torch.as_tensor(inputs["assistant_masks"])[0].bool()]
    assert processor.tokenizer.decode(masked) == "yes<|im_end|>"


def test_the_any_to_any_pipeline_answers(pair: Pair, tmp_path: Path) -> None:
    save_checkpoint(*pair, tmp_path / "checkpoint")
    answer = pipeline("any-to-any", model=str(tmp_path / "checkpoint"))
    (said,) = answer(
        chat(make_audio(800)),  # type: ignore[arg-type]
        generate_kwargs={"max_new_tokens": 4, "do_sample": False},
        return_full_text=False,
    )
    assert isinstance(said["generated_text"], str)


# --- the audio token ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spare", "rows", "token", "index"),
    [
        (True, 288, "<|extra_3|>", 262),
        (False, 288, "<|audio|>", 259),
        (False, 259, "<|audio|>", 259),
    ],
    ids=["spare", "padded row", "behind the vocabulary"],
)
def test_the_placeholder_hears_and_is_never_generated(
    spare: bool, rows: int, token: str, index: int, whisper: Path, tmp_path: Path
) -> None:
    tokenizer = build_tokenizer(spare=spare)
    folder = save_llm(tmp_path / "llm", "qwen3", tokenizer=tokenizer, vocab_size=rows)
    model, processor = compose(llm=folder, encoder=whisper)
    assert (processor.audio_token, model.config.audio_token_id) == (token, index)
    inputs = processor(text=["hear <|audio|>", f"and {token}"], audio=[make_audio(800)] * 2)
    assert (inputs["input_ids"] == index).sum(-1).tolist() == [1, 1]
    for settings in (
        {"do_sample": False},
        {"do_sample": False, "num_beams": 3},
        {"do_sample": True, "temperature": 50.0, "max_new_tokens": 60},
        {"do_sample": False, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    ):
        wanted: dict[str, Any] = {"max_new_tokens": 8} | settings
        tokens = model.generate(**inputs, **wanted)
        assert not (tokens[:, inputs["input_ids"].shape[1] :] == index).any()


def test_a_tokenizer_without_padding_pads_with_its_end(whisper: Path, tmp_path: Path) -> None:
    folder = save_llm(tmp_path / "llm", "qwen3", tokenizer=build_tokenizer(pad=False))
    _, processor = compose(llm=folder, encoder=whisper)
    assert processor.tokenizer.pad_token == "<|im_end|>"
    assert processor(text=["a", "abc"])["input_ids"].shape == (2, 3)


def test_without_a_chat_template_text_still_works(whisper: Path, tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    folder = save_llm(tmp_path / "llm", "qwen3", tokenizer=tokenizer)
    _, processor = compose(llm=folder, encoder=whisper)
    assert processor(text="<|audio|>", audio=[make_audio(800)])["input_ids"].shape == (1, 1)
    with pytest.raises(ValueError, match="does not have a chat template"):
        processor.apply_chat_template(chat(make_audio(800)))


def test_a_saved_processor_is_the_same(pair: Pair, tmp_path: Path) -> None:
    _, processor = pair
    save_checkpoint(*pair, tmp_path / "checkpoint")
    again = AutoProcessor.from_pretrained(tmp_path / "checkpoint")
    assert isinstance(again, BlspProcessor)
    assert again.tokenizer.chat_template == CHAT_TEMPLATE
    for name in ("audio_token", "audio_token_id", "adapter_config", "audio_padding"):
        assert getattr(again, name) == getattr(processor, name)
    inputs = chat(make_audio(9_000))
    ours = processor.apply_chat_template(inputs, tokenize=True, return_dict=True)
    theirs = again.apply_chat_template(inputs, tokenize=True, return_dict=True)
    assert {k: v.tolist() for k, v in ours.items()} == {k: v.tolist() for k, v in theirs.items()}
    saved = json.loads((tmp_path / "checkpoint" / "processor_config.json").read_text())
    assert saved["audio_padding"] == "variable"


def test_tools_stand_in_the_prompt_of_use_as_in_that_of_training(
    make_llm: Callable[..., Path], whisper: Path
) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = QWEN2_5
    _, processor = compose(llm=make_llm("qwen3", tokenizer=tokenizer), encoder=whisper)
    heard = AudioPart(audio="a.wav", duration=0.05, transcript="c")
    messages = (
        Message(role="system", content=(TextPart(text="be brief"),)),
        Message(role="user", content=(TextPart(text="repeat:\n"), heard)),
    )
    renderer = Renderer(processor.tokenizer, audio_token_id=processor.audio_token_id)
    trained = renderer.render_prompt(messages, view="student", tools=TOOLS)
    ids, _ = expand_placeholders(trained, [processor.num_speech_tokens(800)])
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    used = processor.apply_chat_template(chat(make_audio(800)), tools=TOOLS, **options)
    assert used["input_ids"][0].tolist() == ids


def test_several_named_templates_all_take_audio_parts(
    make_llm: Callable[..., Path], whisper: Path
) -> None:
    from blsp.model.processing import with_audio_parts

    both = with_audio_parts({"default": CHAT_TEMPLATE, "rag": CHAT_TEMPLATE}, "<|audio|>")
    assert both["rag"] == both["default"] == with_audio_parts(CHAT_TEMPLATE, "<|audio|>")


def test_ears_do_not_change_the_template_fingerprint(pair: Pair, llm: Path, tmp_path: Path) -> None:
    """Continuations are written by the bare LLM and must fit the model before and after saving."""
    _, processor = pair
    save_checkpoint(*pair, tmp_path / "checkpoint")
    again = BlspProcessor.from_pretrained(tmp_path / "checkpoint")
    bare = load_tokenizer(llm)
    assert len(processor.tokenizer) == len(bare) + 1
    tokenizers = (bare, processor.tokenizer, again.tokenizer)
    assert len({Renderer(one).template_fingerprint() for one in tokenizers}) == 1
    assert again.chat_template == processor.chat_template != again.tokenizer.chat_template
