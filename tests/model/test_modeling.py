"""The model: batch = single, windows, what is refused, gradients, heads, generation."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from transformers.generation.utils import MULTIMODAL_INPUTS_TO_DROP_OUTSIDE_PREFILL

from blsp.model import (
    AdapterConfig,
    BlspConfig,
    BlspForConditionalGeneration,
    compose,
)
from blsp.model.encoder import split_windows
from blsp.model.foundations import LlmOptions
from tests.model.conftest import make_audio

Pair = tuple[Any, Any]  # a model and its processor
SECOND, END = 16_000, 258
GREEDY = {"do_sample": False, "max_new_tokens": 8, "min_new_tokens": 8}
LENGTHS = [400, 801, 5_000, 12_345, 16_000, 30_007, 31_999, 48_000]


@pytest.mark.parametrize("padding", ["variable", "max"])
@pytest.mark.parametrize("kind", ["conv", "stack"])
def test_a_batch_of_eight_lengths_equals_eight_singles(
    kind: Any, padding: Any, llm: Path, whisper: Path
) -> None:
    torch.manual_seed(4)
    adapter = AdapterConfig(kind=kind)
    model, processor = compose(llm=llm, encoder=whisper, adapter=adapter, audio_padding=padding)
    recordings = [make_audio(samples, seed) for seed, samples in enumerate(LENGTHS)]
    prompts = [f"{'say ' * (row % 3)}<|audio|> again:" for row in range(8)]
    batch = processor(text=prompts, audio=recordings)
    tokens, logits = model.generate(**batch, **GREEDY), model(**batch).logits
    for row in range(8):
        alone = processor(text=prompts[row], audio=[recordings[row]])
        length = alone["input_ids"].shape[1]
        assert torch.equal(tokens[row, -8:], model.generate(**alone, **GREEDY)[0, -8:])
        assert (logits[row, -length:] - model(**alone).logits[0]).abs().max() < 1e-4


def test_long_audio_is_the_sum_of_its_windows(pair: Pair) -> None:
    model, processor = pair
    audio = make_audio(65 * SECOND)
    features, frames = processor.extract_features(audio)
    whole = model.get_audio_features(features[None]).pooler_output
    pieces = [
        model.get_audio_features(
            processor.extract_features(audio[start : start + 480_000])[0][None]
        )
        for start in range(0, len(audio), 480_000)
    ]
    assert [len(piece.pooler_output) for piece in pieces] == [188, 188, 32]  # type: ignore[arg-type]
    joined = torch.cat([piece.pooler_output for piece in pieces])  # type: ignore[misc]
    assert frames == 6500
    torch.testing.assert_close(whole, joined, rtol=0, atol=1e-5)


def test_windows_keep_order_and_drop_empty_ones() -> None:
    features = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 0, 0, 0]])[:, None]
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    windows, kept = split_windows(features, mask, 2)
    assert windows[:, 0].tolist() == [[1, 2], [3, 4], [5, 0], [6, 7]]
    assert kept.tolist() == [[1, 1], [1, 1], [1, 0], [1, 1]]


# --- what is refused ------------------------------------------------------------------------------


def test_a_wrong_number_of_audio_tokens_is_refused(pair: Pair) -> None:
    model, processor = pair
    inputs = processor(text="<|audio|>", audio=[make_audio(SECOND)])
    inputs["input_ids"], inputs["attention_mask"] = inputs["input_ids"][:, 1:], None
    with pytest.raises(ValueError, match="expected 7 audio tokens for the recordings, found 6"):
        model(**inputs)


def test_audio_tokens_without_audio_are_refused(pair: Pair) -> None:
    model, processor = pair
    ids = processor(text="<|audio|>", audio=[make_audio(SECOND)])["input_ids"]
    with pytest.raises(ValueError, match="expected input_features for 7 audio tokens"):
        model(input_ids=ids)


def test_features_of_true_length_are_refused_by_a_model_of_whole_windows(
    pair: Pair, llm: Path, whisper: Path
) -> None:
    model, _ = compose(llm=llm, encoder=whisper, audio_padding="max")
    with pytest.raises(ValueError, match="expected log-mel features padded to 3000 frames"):
        model(**pair[1](text="<|audio|>", audio=[make_audio(SECOND)]))


# --- training -------------------------------------------------------------------------------------


def train_step(model: BlspForConditionalGeneration, inputs: Any) -> torch.Tensor:
    model.train()
    model.zero_grad()
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] != END, -100)
    loss = model(**inputs, labels=labels).loss
    loss.backward()
    return loss.detach()


def gradients(model: BlspForConditionalGeneration) -> dict[str, torch.Tensor]:
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_only_the_adapter_is_trained_and_all_of_it(pair: Pair) -> None:
    model, processor = pair
    train_step(model, processor(text="a <|audio|> b<|im_end|>", audio=[make_audio(SECOND)]))
    adapter = {f"model.adapter.{name}" for name, _ in model.model.adapter.named_parameters()}
    assert {name for name, grad in gradients(model).items() if grad.any()} == adapter


def test_a_batch_of_text_alone_still_touches_the_adapter(pair: Pair) -> None:
    model, processor = pair
    inputs = processor(text="no sound<|im_end|>")
    expected = model.eval()(**inputs).logits
    train_step(model, inputs)
    adapter = dict(model.model.adapter.named_parameters())
    assert all(p.grad is not None and not p.grad.any() for p in adapter.values())
    assert torch.equal(model(**inputs).logits, expected)


def test_gradient_checkpointing_changes_no_gradient(pair: Pair) -> None:
    model, processor = pair
    inputs = processor(text="a <|audio|> b<|im_end|>", audio=[make_audio(SECOND)])
    loss, plain = train_step(model, inputs), gradients(model)
    model.activation_checkpointing_enable()
    assert torch.equal(train_step(model, inputs), loss)
    checkpointed = gradients(model)
    assert plain.keys() == checkpointed.keys()
    for name in plain:
        torch.testing.assert_close(checkpointed[name], plain[name])


# --- heads and hidden states ----------------------------------------------------------------------


def test_hidden_states_through_head_and_transform_are_the_logits(pair: Pair) -> None:
    model, processor = pair
    inputs = processor(text=["<|audio|> a", "bcd"], audio=[make_audio(SECOND)])
    output = model(**inputs, skip_lm_head=True)
    assert output.logits is None
    logits = model.head_transform(model.get_output_embeddings()(output.last_hidden_state))
    assert torch.equal(logits, model(**inputs).logits)
    assert torch.equal(model.model(**inputs).last_hidden_state, output.last_hidden_state)


def test_logits_are_kept_of_the_last_positions_only(pair: Pair) -> None:
    model, processor = pair
    inputs = processor(text=["one", "three"])
    torch.testing.assert_close(
        model(**inputs, logits_to_keep=2).logits, model(**inputs).logits[:, -2:]
    )


# --- generation -----------------------------------------------------------------------------------


def test_audio_is_encoded_once_for_ten_tokens(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = pair
    assert {"input_features", "input_features_mask"} <= {*MULTIMODAL_INPUTS_TO_DROP_OUTSIDE_PREFILL}
    calls, encode = [], model.model._encode
    monkeypatch.setattr(model.model, "_encode", lambda *a: calls.append(1) or encode(*a))
    inputs = processor(text="<|audio|>", audio=[make_audio(SECOND)])
    model.generate(**inputs, max_new_tokens=10, min_new_tokens=10, do_sample=False)
    assert calls == [1]


def test_generation_is_the_same_with_and_without_a_cache(pair: Pair) -> None:
    model, processor = pair
    inputs = processor(text=["<|audio|> a", "bcd"], audio=[make_audio(SECOND)])
    cached = model.generate(**inputs, **GREEDY)
    assert torch.equal(model.generate(**inputs, **GREEDY, use_cache=False), cached)


@pytest.mark.parametrize(
    "settings", [{"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}], ids=str
)
def test_beams_hear_the_recordings_of_their_own_row(pair: Pair, settings: Any) -> None:
    model, processor = pair
    prompts = ["<|audio|> and <|audio|>", "text", "<|audio|>!"]
    recordings = [make_audio(9_000, 1), make_audio(9_000, 2), make_audio(16_000, 3)]
    batch = processor(text=prompts, audio=recordings)
    settings = GREEDY | settings | {"return_dict_in_generate": True, "output_scores": True}
    together = model.generate(**batch, **settings)
    count = settings.get("num_return_sequences", 1)
    for row, heard in enumerate([recordings[:2], None, recordings[2:]]):
        inputs = processor(text=prompts[row], audio=heard)
        mask = inputs.pop("attention_mask")
        embeds = model.model.embed(**inputs)  # of one prompt the library repeats these rightly
        alone = model.generate(inputs_embeds=embeds, attention_mask=mask, **settings)
        own = slice(row * count, (row + 1) * count)
        assert torch.equal(together.sequences[own, -8:], alone.sequences)
        scores = together.sequences_scores[own]  # tokens alone hardly depend on random ears
        torch.testing.assert_close(scores, alone.sequences_scores, rtol=0, atol=1e-5)


def test_a_static_cache_generates_the_same(pair: Pair) -> None:
    model, processor = pair
    inputs = processor(text=["<|audio|> a", "bcd"], audio=[make_audio(SECOND)])
    static = model.generate(**inputs, **GREEDY, cache_implementation="static")
    assert torch.equal(static, model.generate(**inputs, **GREEDY))


def test_a_second_turn_on_the_kept_cache_equals_the_whole_conversation(pair: Pair) -> None:
    model, processor = pair
    first, second = make_audio(SECOND, 1), make_audio(9_000, 2)
    opening = processor(text="<|audio|>?", audio=[first])
    output = model.generate(**opening, **GREEDY, return_dict_in_generate=True)
    more = processor(text="<|audio|>!", audio=[second])
    ids = torch.cat([output.sequences, more["input_ids"]], dim=1)
    features = {n: more[n] for n in ("input_features", "input_features_mask")}
    mask = torch.ones_like(ids)
    kept = model.generate(
        ids, attention_mask=mask, **features, past_key_values=output.past_key_values, **GREEDY
    )
    both = processor(text="<|audio|><|audio|>", audio=[first, second])
    features = {n: both[n] for n in ("input_features", "input_features_mask")}
    assert torch.equal(kept, model.generate(ids, attention_mask=mask, **features, **GREEDY))


def test_embeddings_in_place_of_ids_generate_the_same(pair: Pair) -> None:
    model, processor = pair
    inputs = processor(
        text="<|audio|> a", audio=[make_audio(SECOND)], return_mm_token_type_ids=True
    )
    embeds = model.model.embed(
        inputs["input_ids"], inputs["input_features"], inputs["input_features_mask"]
    )
    assert (inputs["mm_token_type_ids"] == 3).sum() == 7
    rest = {name: inputs[name] for name in ("attention_mask", "mm_token_type_ids")}
    tokens = model.generate(inputs_embeds=embeds, **rest, **GREEDY)
    assert torch.equal(tokens, model.generate(**inputs, **GREEDY)[:, -8:])


# --- transformers' habits -------------------------------------------------------------------------


def test_there_is_no_decoder_of_whisper_inside(pair: Pair) -> None:
    assert not [name for name, _ in pair[0].named_parameters() if ".decoder." in name]


def test_only_blocks_that_are_there_are_named_for_sharding(pair: Pair) -> None:
    model, _ = pair
    assert model._no_split_modules == {"WhisperEncoderLayer", "Qwen3DecoderLayer"}
    plugin = FullyShardedDataParallelPlugin(auto_wrap_policy="transformer_based_wrap")
    plugin.set_auto_wrap_policy(model)


def test_encoder_head_and_parallel_plan_are_found_from_outside(pair: Pair) -> None:
    model, _ = pair
    assert model.get_encoder(modality="audio") is model.model.audio_tower
    assert model.get_output_embeddings() is model.model.language_model.lm_head
    assert any(name.endswith("self_attn.q_proj") for name in model.tp_plan)


def test_attention_of_both_halves_can_be_chosen(pair: Pair, tmp_path: Path) -> None:
    model, processor = pair
    model.save_pretrained(tmp_path)
    choice = {"text_config": "eager", "audio_config": "sdpa"}
    other = BlspForConditionalGeneration.from_pretrained(tmp_path, attn_implementation=choice)
    assert other.model.language_model.config._attn_implementation == "eager"
    assert other.model.audio_tower.config._attn_implementation == "sdpa"
    inputs = processor(text="<|audio|> a", audio=[make_audio(SECOND)])
    torch.testing.assert_close(other(**inputs).logits, model(**inputs).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_language_model_keeps_the_attention_it_was_loaded_with(
    attention: str, llm: Path, whisper: Path
) -> None:
    model, _ = compose(llm=llm, encoder=whisper, options=LlmOptions(attn_implementation=attention))
    assert model.model.language_model.config._attn_implementation == attention
    assert model.model.audio_tower.config._attn_implementation == "sdpa"


def test_the_configuration_survives_json(pair: Pair, tmp_path: Path) -> None:
    config = pair[0].config
    config.save_pretrained(tmp_path)
    again = BlspConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert again.adapter == config.adapter
