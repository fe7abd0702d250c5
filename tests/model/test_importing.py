"""Published checkpoints: true names and shapes in, and an independent forward to compare with."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import gelu, layer_norm, linear, pad, silu
from transformers import AutoModelForCausalLM, WhisperConfig, WhisperForConditionalGeneration

from blsp.errors import InputError
from blsp.model import load_checkpoint
from blsp.model.importing import import_checkpoint
from tests.model.conftest import build_tokenizer, make_audio, save_llm

Weights = dict[str, torch.Tensor]
GREEDY = {"do_sample": False, "max_new_tokens": 8, "min_new_tokens": 8}
ENCODER: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 128,
    "num_mel_bins": 80,
    "max_source_positions": 1500,
    "vocab_size": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 3,
    "init_std": 0.2,
}


def whisper_weights(seed: int) -> Weights:
    torch.manual_seed(seed)
    model = WhisperForConditionalGeneration(WhisperConfig(**ENCODER))
    return {name: tensor.clone() for name, tensor in model.model.encoder.state_dict().items()}


# --- an independent forward pass ------------------------------------------------------------------


def encode(weights: Weights, features: torch.Tensor) -> torch.Tensor:
    """Whisper's encoder from its formulas: (M, F) -> (S, 32)."""

    def part(hidden: torch.Tensor, name: str) -> torch.Tensor:
        return linear(hidden, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def norm(hidden: torch.Tensor, name: str) -> torch.Tensor:
        return layer_norm(hidden, (32,), weights[f"{name}.weight"], weights[f"{name}.bias"])

    conv = torch.nn.functional.conv1d
    hidden = gelu(conv(features, weights["conv1.weight"], weights["conv1.bias"], padding=1))
    hidden = gelu(conv(hidden, weights["conv2.weight"], weights["conv2.bias"], 2, padding=1)).T
    hidden = hidden + weights["embed_positions.weight"][: len(hidden)]
    for layer in ("layers.0", "layers.1"):
        normed = norm(hidden, f"{layer}.self_attn_layer_norm")
        query, key, value = (
            part(normed, f"{layer}.self_attn.{name}_proj").view(-1, 2, 16).transpose(0, 1)
            for name in "qkv"
        )
        mixed = (query @ key.transpose(1, 2) / 4).softmax(-1) @ value  # (heads, S, 16)
        mixed = mixed.transpose(0, 1).reshape(-1, 32)
        hidden = hidden + part(mixed, f"{layer}.self_attn.out_proj")
        normed = norm(hidden, f"{layer}.final_layer_norm")
        hidden = hidden + part(gelu(part(normed, f"{layer}.fc1")), f"{layer}.fc2")
    return norm(hidden, "layer_norm")


def rms(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return hidden / (hidden.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def project_ultravox(weights: Weights, rows: torch.Tensor) -> torch.Tensor:
    own = {name.removeprefix("multi_modal_projector."): tensor for name, tensor in weights.items()}
    hidden = pad(rows, (0, 0, 0, -len(rows) % 8)).reshape(-1, 8 * 32)
    hidden = linear(rms(hidden, own["ln_pre.weight"]), own["linear_1.weight"])
    hidden = hidden[:, :24] * silu(hidden[:, 24:])
    if "ln_mid.weight" in own:
        return linear(rms(hidden, own["ln_mid.weight"]), own["linear_2.weight"])
    return rms(linear(hidden, own["linear_2.weight"]), own["ln_post.weight"])


def project_blsp(weights: Weights, rows: torch.Tensor) -> torch.Tensor:
    hidden = rows.T
    for index in range(3):
        name = f"subsampler.conv_layers.{index}"
        hidden = torch.nn.functional.conv1d(
            hidden, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=2, padding=2
        )
        value, gate = hidden.chunk(2)
        hidden = value * gate.sigmoid()
    hidden = hidden.T
    inner = gelu(linear(hidden, weights["adapter.fc1.weight"]))
    hidden = hidden + linear(inner, weights["adapter.fc2.weight"])
    return layer_norm(hidden, (64,), weights["speech_ln.weight"], weights["speech_ln.bias"])


def answer(llm: Any, pieces: list[torch.Tensor]) -> list[int]:
    """Greedy tokens after embeddings put side by side by hand."""
    embeds = torch.cat(pieces)[None]
    return llm.generate(inputs_embeds=embeds, **GREEDY)[0].tolist()


# --- Ultravox -------------------------------------------------------------------------------------


def projector_weights(*, mid: bool) -> Weights:
    torch.manual_seed(5)
    norm = {"ln_mid.weight": torch.rand(24)} if mid else {"ln_post.weight": torch.rand(64)}
    weights = {
        "ln_pre.weight": torch.rand(256),
        "linear_1.weight": torch.randn(48, 256) / 8,
        "linear_2.weight": torch.randn(64, 24) / 4,
        **norm,
    }
    return {f"multi_modal_projector.{name}": tensor for name, tensor in weights.items()}


def save_ultravox(folder: Path, weights: Weights, **config: Any) -> Path:
    folder.mkdir()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    table = {"model_type": "ultravox", "hidden_size": 48, "stack_factor": 8, "norm_init": 0.4}
    table |= {"projector_act": "swiglu", "auto_map": {"AutoModel": "ultravox_model.UltravoxModel"}}
    (folder / "config.json").write_text(json.dumps(table | config))
    return folder


@pytest.mark.parametrize("release", ["0.4.1", "0.5"])
def test_ultravox_answers_as_its_formulas_do(
    release: str, llm: Path, whisper: Path, tmp_path: Path
) -> None:
    projector = projector_weights(mid=release == "0.5")
    if release == "0.5":  # its encoder was trained and is inside
        encoder = whisper_weights(seed=6)
        changed = {f"audio_tower.{name}": tensor for name, tensor in encoder.items()}
        config = {"projector_ln_mid": True, "audio_model_id": None, "audio_config": ENCODER}
    else:
        theirs = WhisperForConditionalGeneration.from_pretrained(whisper).model.encoder
        encoder, changed = theirs.state_dict(), {}
        config = {"audio_model_id": str(whisper)}
    source = save_ultravox(
        tmp_path / "ultravox", projector | changed, text_model_id=str(llm), **config
    )
    _, processor = import_checkpoint(source, tmp_path / "ours")
    model, _ = load_checkpoint(tmp_path / "ours")
    audio = make_audio(20_000)
    features, _ = processor.extract_features(audio)
    speech = project_ultravox(projector, encode(encoder, features))
    inputs = processor(text="hear: <|audio|>!", audio=[audio])
    ours = model.get_audio_features(inputs["input_features"]).pooler_output
    torch.testing.assert_close(ours, speech, rtol=0, atol=1e-4)
    base: Any = AutoModelForCausalLM.from_pretrained(llm)
    embed, tokens = base.get_input_embeddings(), processor.tokenizer
    before, after = (
        embed(tokens(text, return_tensors="pt").input_ids[0]) for text in ("hear: ", "!")
    )
    assert model.generate(**inputs, **GREEDY)[0, -8:].tolist() == answer(
        base, [before, speech, after]
    )
    stored = load_file(tmp_path / "ours/delta.safetensors")
    assert any("audio_tower" in name for name in stored) == (release == "0.5")


def test_a_partly_changed_encoder_is_laid_over_the_named_one(
    llm: Path, whisper: Path, tmp_path: Path
) -> None:
    changed = torch.randn(32, 32)
    name = "layers.1.self_attn.k_proj.weight"
    weights = projector_weights(mid=True) | {f"audio_tower.{name}": changed}
    source = save_ultravox(
        tmp_path / "ultravox", weights, projector_ln_mid=True, text_model_id="gone"
    )
    with pytest.raises(InputError, match="expected the checkpoint to hold or name its encoder"):
        import_checkpoint(source, tmp_path / "ours", llm=llm)
    import_checkpoint(source, tmp_path / "ours", llm=llm, encoder=whisper)
    model, _ = load_checkpoint(tmp_path / "ours")
    base = WhisperForConditionalGeneration.from_pretrained(whisper).model.encoder.state_dict()
    for key, tensor in model.model.audio_tower.state_dict().items():
        assert torch.equal(tensor, changed if key == name else base[key])


@pytest.mark.parametrize(
    ("extra", "config", "line"),
    [
        ({"language_model.lm_head.weight": torch.ones(2)}, {}, "found language_model.lm_head"),
        ({"audio_tower.layers.0.q.lora_A.weight": torch.ones(2)}, {}, "merge LoRA first"),
        ({"multi_modal_projector.ln_new.weight": torch.ones(2)}, {}, "ln_new.weight does not fit"),
        ({}, {"projector_act": "gelu"}, "with swiglu, found 'gelu'"),
        ({}, {"projector_ln_mid": False}, "ln_post.weight is missing"),
        ({}, {"model_type": "other"}, "an Ultravox or BLSP checkpoint, found model_type 'other'"),
    ],
)
def test_what_has_no_place_in_our_model_is_refused(
    extra: Weights, config: Any, line: str, llm: Path, whisper: Path, tmp_path: Path
) -> None:
    table = {"projector_ln_mid": True, "text_model_id": str(llm), "audio_model_id": str(whisper)}
    weights = projector_weights(mid=True) | extra
    source = save_ultravox(tmp_path / "ultravox", weights, **(table | config))
    with pytest.raises(InputError, match=line) as error:
        import_checkpoint(source, tmp_path / "ours")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ours").exists()


# --- BLSP -----------------------------------------------------------------------------------------


def adapter_weights() -> Weights:
    torch.manual_seed(7)
    shapes = [(64, 32, 5), (64, 32, 5), (128, 32, 5)]
    convs = {
        f"subsampler.conv_layers.{index}.{name}": torch.randn(
            shape if name == "weight" else shape[0]
        )
        / 8
        for index, shape in enumerate(shapes)
        for name in ("weight", "bias")
    }
    rest = {
        "adapter.fc1.weight": torch.randn(512, 64) / 8,
        "adapter.fc2.weight": torch.randn(64, 512),
    }
    return convs | rest | {"speech_ln.weight": torch.rand(64), "speech_ln.bias": torch.randn(64)}


def test_blsp_answers_as_its_formulas_do(tmp_path: Path) -> None:
    llm = save_llm(tmp_path / "llama", "llama", tie_word_embeddings=False)
    adapter, encoder, base = (
        adapter_weights(),
        whisper_weights(8),
        load_file(llm / "model.safetensors"),
    )
    source = tmp_path / "blsp"
    source.mkdir()
    stored = adapter | {f"whisper_model.{name}": tensor for name, tensor in encoder.items()}
    stored |= {f"llama_model.{name}": tensor for name, tensor in base.items()}
    stored["llama_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    torch.save(stored, source / "pytorch_model.bin")
    llama = json.loads((llm / "config.json").read_text())
    table = {"conv_kernel_sizes": "5,5,5", "adapter_inner_dim": 512, "whisper_config": ENCODER}
    (source / "config.json").write_text(json.dumps(table | {"llama_config": llama}))
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(source)

    import_checkpoint(source, tmp_path / "ours")
    model, processor = load_checkpoint(tmp_path / "ours")
    assert model.config.audio_padding == "max"
    audio = make_audio(20_000)  # 125 frames, 63 encoder rows, 8 embeddings
    features, frames = processor.extract_features(audio)
    assert (features.shape, frames) == ((80, 3000), 125)
    speech = project_blsp(adapter, encode(encoder, features)[:63])
    messages = [{"role": "user", "content": [{"type": "audio", "audio": audio}]}]
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True)
    mask = inputs["input_features_mask"]
    ours = model.get_audio_features(inputs["input_features"], mask).pooler_output
    torch.testing.assert_close(ours, speech, rtol=0, atol=1e-4)
    whole: Any = AutoModelForCausalLM.from_pretrained(llm)
    embed = whole.get_input_embeddings()
    before, after = (
        embed(tokenizer(text, return_tensors="pt").input_ids[0])
        for text in ("###[Human]:", "\n\n\n###[Assistant]:")
    )
    assert model.generate(**inputs, **GREEDY)[0, -8:].tolist() == answer(
        whole, [before, speech, after]
    )
