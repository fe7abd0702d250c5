"""Tiny random foundation models on disk: hidden size 64, two layers, a byte-level tokenizer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from blsp.model import BlspForConditionalGeneration, BlspProcessor, compose

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['role'] == 'assistant' %}"
    "{% generation %}{{- message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{%- else %}{{- message['content'] + '<|im_end|>' }}{%- endif %}{{- '\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
SIZES = {
    "vocab_size": 288,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 258,
    "pad_token_id": 256,
    "initializer_range": 0.2,
}
SOME = {
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "falcon": {"head_dim": "unset", "num_key_value_heads": "unset"},
    "gemma2": {"query_pre_attn_scalar": 16, "final_logit_softcapping": 3.0, "sliding_window": 8},
    "gemma3_text": {"query_pre_attn_scalar": 16, "sliding_window": 8},
    "granite": {"logits_scaling": 4.0, "embedding_multiplier": 3.0},
    "cohere": {"logit_scale": 0.25},
    "mistral": {"sliding_window": 8},
    "gpt_neox": {"rotary_pct": 0.5},
    "mpt": {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 512},
}


def build_tokenizer(*, spare: bool = False, pad: bool = True) -> PreTrainedTokenizerFast:
    """256 bytes, three control tokens, and spare ones if asked for."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    if spare:
        raw.add_special_tokens([f"<|extra_{index}|>" for index in range(4)])
    padding = {"pad_token": "<|endoftext|>"} if pad else {}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", **padding)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_llm(
    folder: Path,
    kind: str,
    *,
    tokenizer: PreTrainedTokenizerFast | None = None,
    **changes: Any,
) -> Path:
    """A random language model of any architecture, with a tokenizer."""
    torch.manual_seed(1)
    sizes = SIZES | SOME.get(kind, {}) | changes
    config = AutoConfig.for_model(kind, **{k: v for k, v in sizes.items() if v != "unset"})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    (tokenizer or build_tokenizer()).save_pretrained(folder)
    return folder


def save_whisper(folder: Path, **changes: Any) -> Path:
    """A random Whisper with its decoder and feature extractor."""
    torch.manual_seed(2)
    sizes: dict[str, Any] = {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "vocab_size": 64,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 3,
        "init_std": 0.2,
    }
    config = WhisperConfig(**(sizes | changes))
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(folder)
    return folder


def save_ultravox(folder: Path, *, llm: Path, encoder: Path) -> Path:
    """The projector of a release of Ultravox 0.5 for two models on disk, random."""
    d_encoder = AutoConfig.from_pretrained(encoder).d_model
    d_llm = AutoConfig.from_pretrained(llm).hidden_size
    weights = {
        "ln_pre.weight": torch.rand(8 * d_encoder),
        "linear_1.weight": torch.randn(48, 8 * d_encoder),
        "ln_mid.weight": torch.rand(24),
        "linear_2.weight": torch.randn(d_llm, 24),
    }
    folder.mkdir(parents=True)
    named = {f"multi_modal_projector.{name}": tensor for name, tensor in weights.items()}
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "model_type": "ultravox",
        "hidden_size": 48,
        "stack_factor": 8,
        "projector_act": "swiglu",
        "projector_ln_mid": True,
        "text_model_id": str(llm),
        "audio_model_id": str(encoder),
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def make_audio(samples: int, seed: int = 0) -> NDArray[np.float32]:
    """A hum with some noise in it, never twice the same."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / 16_000
    hum = np.sin(2 * np.pi * (90 + 40 * seed) * time) * (1 + np.sin(2 * np.pi * 3 * time))
    return (0.2 * hum + 0.05 * rng.standard_normal(samples)).astype(np.float32)


@pytest.fixture(scope="session")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Whisper folder."""
    return save_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="session")
def make_llm(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Build a tiny language model folder once for each set of arguments."""
    made: dict[str, Path] = {}

    def make(kind: str, **changes: Any) -> Path:
        key = f"{kind}{sorted(changes.items())}"
        if key not in made:
            made[key] = save_llm(tmp_path_factory.mktemp(kind), kind, **changes)
        return made[key]

    return make


@pytest.fixture(scope="session")
def llm(make_llm: Callable[..., Path]) -> Path:
    """A tiny Qwen3 folder."""
    return make_llm("qwen3", tie_word_embeddings=False)


@pytest.fixture
def pair(llm: Path, whisper: Path) -> tuple[BlspForConditionalGeneration, BlspProcessor]:
    """A composed model and its processor, fresh for each test."""
    torch.manual_seed(3)
    return compose(llm=llm, encoder=whisper)
