"""How large a recipe's model is, from the configurations of its base models alone.

Everything is built on torch's meta device, where tensors have shapes and no numbers, so a model of
any size is measured in seconds before anything is downloaded. Quantised weights are counted by how
they are stored. A recipe and two configurations enter; a model without numbers and a `Forecast`
leave.
"""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, WhisperConfig

from blsp.dataset import FRAMES_PER_SECOND
from blsp.memory import BatchShape, Forecast, forecast_memory, held_bytes
from blsp.model import BlspConfig, BlspForConditionalGeneration
from blsp.model.encoder import BlspWhisperEncoder
from blsp.model.foundations import read_llm_config, read_whisper_config, resolve_folder
from blsp.model.lora import is_lora
from blsp.recipe import Recipe

SECONDS = 10.0
"""Of a recording, where no data says how long they are."""
TOKENS_PER_SECOND = 5.0
"""Of a transcript, where an adapter makes an embedding of each; fast speech of a language that the
tokenizer knows."""
_WINDOW = 3000
"""Frames that Whisper pads to."""
_NF4 = 4

_LLM = "vocab_size", "hidden_size", "intermediate_size"
_LLM += "num_hidden_layers", "num_attention_heads", "num_key_value_heads"
LLMS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "Qwen/Qwen2.5-0.5B-Instruct": (
        "qwen2",
        (151936, 896, 4864, 24, 14, 2),
        {"tie_word_embeddings": True},
    ),
    "Qwen/Qwen2.5-1.5B-Instruct": (
        "qwen2",
        (151936, 1536, 8960, 28, 12, 2),
        {"tie_word_embeddings": True},
    ),
    "Qwen/Qwen2.5-7B-Instruct": ("qwen2", (152064, 3584, 18944, 28, 28, 4), {}),
    "Qwen/Qwen1.5-7B-Chat": ("qwen2", (151936, 4096, 11008, 32, 32, 32), {}),
    "Qwen/Qwen3-8B": ("qwen3", (151936, 4096, 12288, 36, 32, 8), {"head_dim": 128}),
    "meta-llama/Llama-2-7b-hf": ("llama", (32000, 4096, 11008, 32, 32, 32), {}),
    "meta-llama/Meta-Llama-3-8B-Instruct": ("llama", (128256, 4096, 14336, 32, 32, 8), {}),
    "meta-llama/Llama-3.1-8B-Instruct": ("llama", (128256, 4096, 14336, 32, 32, 8), {}),
}
"""Architecture and numbers of the models in recipes, from their own config.json."""
ENCODERS = {
    "openai/whisper-small": (768, 12, 12, 80),
    "openai/whisper-medium": (1024, 24, 16, 80),
    "openai/whisper-large-v2": (1280, 32, 20, 80),
    "openai/whisper-large-v3": (1280, 32, 20, 128),
    "openai/whisper-large-v3-turbo": (1280, 32, 20, 128),
}
"""Width, layers, heads and mel bins."""


def find_configs(recipe: Recipe) -> tuple[PreTrainedConfig, WhisperConfig]:
    """The configurations of a recipe's base models; those of shipped recipes need no download."""
    llm, encoder = recipe.model.llm, recipe.model.encoder
    if llm in LLMS:
        kind, numbers, more = LLMS[llm]
        llm_config = AutoConfig.for_model(kind, **dict(zip(_LLM, numbers, strict=True)), **more)
    else:
        llm_config = read_llm_config(resolve_folder(llm, None, what="language model"), llm)
    if encoder not in ENCODERS:
        folder = resolve_folder(encoder, None, what="Whisper")
        return llm_config, read_whisper_config(folder, encoder)
    width, layers, heads, mels = ENCODERS[encoder]
    return llm_config, WhisperConfig(
        d_model=width,
        encoder_layers=layers,
        encoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        num_mel_bins=mels,
    )


def forecast_recipe(
    recipe: Recipe, llm_config: PreTrainedConfig, encoder_config: WhisperConfig
) -> Forecast:
    """Return what a step takes on one device, on a batch as large as the recipe allows.

    Args:
        recipe: a dtype of `auto` counts as bf16, which it is on GPUs that have it.
        llm_config: of the language model.
        encoder_config: of the Whisper.
    """
    bf16 = recipe.training.dtype != "fp32"
    model = build_meta(recipe, llm_config, encoder_config)
    found = forecast_memory(
        model,
        largest_batch(recipe),
        checkpointing=recipe.training.gradient_checkpointing,
        bf16=bf16,
    )
    bits = recipe.model.llm_bits
    if bits == 16:
        return found
    llm: Any = model.model.language_model
    whole = held_bytes(parameter for name, parameter in llm.named_parameters() if not is_lora(name))
    held, largest = count_quantised(llm, bits)
    return replace(found, weights=found.weights - whole + held, passing=found.passing + 2 * largest)


def build_config(
    recipe: Recipe, llm_config: PreTrainedConfig, encoder_config: WhisperConfig
) -> BlspConfig:
    """The configuration of a recipe's model; token 0 stands for audio."""
    wanted = recipe.model
    return BlspConfig(
        audio_config=encoder_config,
        text_config=deepcopy(llm_config),
        audio_token_id=0,
        adapter_config=wanted.adapter.to_dict(),
        lora_config=wanted.lora.to_dict(),
        audio_padding=wanted.audio_padding,
        emotions=list(wanted.emotions) or None,
    )


def build_meta(
    recipe: Recipe, llm_config: PreTrainedConfig, encoder_config: WhisperConfig
) -> BlspForConditionalGeneration:
    """Compose the model of a recipe on the meta device, as `compose` would."""
    dtype = torch.float32 if recipe.training.dtype == "fp32" else torch.bfloat16
    config = build_config(recipe, llm_config, encoder_config)
    with torch.device("meta"):
        llm = AutoModelForCausalLM.from_config(config.get_text_config(decoder=True))
        encoder = BlspWhisperEncoder(encoder_config)
        for part in (llm, encoder):
            nn.Module.to(part, dtype)
        return BlspForConditionalGeneration.assemble(config, llm, encoder)


def largest_batch(recipe: Recipe) -> BatchShape:
    """The bounds of a recipe filled with recordings of `SECONDS`."""
    training = recipe.training
    rows = max(1, min(training.batch_examples, int(training.batch_seconds / SECONDS)))
    tokens = training.batch_tokens // rows
    return BatchShape(
        rows=rows,
        heard_tokens=tokens,
        read_tokens=tokens,
        recordings=rows,
        spoken_tokens=min(tokens, int(SECONDS * TOKENS_PER_SECOND)),
        frames=_WINDOW if recipe.model.audio_padding == "max" else int(SECONDS * FRAMES_PER_SECOND),
    )


def count_quantised(language_model: nn.Module, bits: int) -> tuple[int, int]:
    """Return bytes of a language model whose linear layers but the head are held in so many bits,
    and the weights of its largest such layer.

    NF4 with double quantisation keeps a byte for 64 weights and four for 64 x 256, LLM.int8() four
    for each output; the rest has 16 bits.
    """
    head = language_model.get_output_embeddings()  # type: ignore[operator]
    linear = {
        id(module.weight): module
        for name, module in language_model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and not is_lora(name)
    }
    total = sum(
        2 * parameter.numel()
        for name, parameter in language_model.named_parameters()
        if id(parameter) not in linear and not is_lora(name)
    )
    for module in linear.values():
        count = module.weight.numel()
        scales = count / 64 + 4 * count / (64 * 256) if bits == _NF4 else 4 * module.out_features
        total += round(count * bits / 8 + scales)
    return total, max(module.weight.numel() for module in linear.values())
