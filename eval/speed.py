"""Speed and peak memory of a recipe's training steps, at real size with random weights.

    blsp bench speed qwen2.5-7b-4bit --card 24 --out docs/results/speed.json

Nothing is downloaded: random numbers take the time and memory that trained ones take. A step is as
many recordings of 10 s as the recipe's batch holds, each with a prompt, a transcript and a response
of usual length. Beside what was measured stands what `--dry-run` would have forecast.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from blsp.collator import Collator
from blsp.dataset import Example
from blsp.errors import InputError
from blsp.files import atomic_path
from blsp.hardware import describe_hardware
from blsp.memory import forecast_memory, shape_of
from blsp.model import BlspForConditionalGeneration, num_speech_tokens
from blsp.model.encoder import BlspWhisperEncoder
from blsp.preflight import run_backward
from blsp.recipe import Recipe, load_recipe
from blsp.rendering import IGNORED
from blsp.sizing import build_config, find_configs, largest_batch
from blsp.train import find_recipe, resolve

PROMPT, TRANSCRIPT, RESPONSE = 40, 40, 64
"""Tokens: of BLSP's prompt, of 10 s of speech, and at most of its responses."""
WARM_UP = 3
_SEEN = 1  # any id that is not the placeholder's


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="blsp bench speed", description="Speed and memory of a recipe, with random weights."
    )
    parser.add_argument("recipe", help="YAML file, or the name of a shipped recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="model.llm_bits=4")
    parser.add_argument("--steps", type=int, default=20, help="that are timed (default 20)")
    parser.add_argument("--card", type=float, metavar="GIB", help="allow no more than such a GPU")
    parser.add_argument("--out", type=Path, help="JSON file that gets the result appended")
    options = parser.parse_intermixed_args(argv)
    recipe = resolve(load_recipe(find_recipe(options.recipe), options.overrides)[0])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_random(recipe, device)
    if options.card is not None:
        limit_memory(device, options.card)
    row = {
        "recipe": options.recipe,
        "overrides": options.overrides,
        "card_gib": options.card,
        "hardware": describe_hardware(),
        "torch": torch.__version__,
        **measure(model, recipe, device, steps=options.steps),
    }
    print(json.dumps(row, indent=1))
    if options.out is not None:
        append(options.out, row)
    return 0


def limit_memory(device: torch.device, gib: float) -> None:
    """Make the allocator refuse what a smaller card would not have."""
    if device.type != "cuda":
        raise InputError(f"--card: expected a GPU to stand for one of {gib:g} GiB, found none")
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(
        gib * 2**30 / torch.cuda.get_device_properties(device).total_memory
    )


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a result to a JSON list."""
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps([*rows, row], indent=1) + "\n", encoding="utf-8")


# --- a model of random numbers --------------------------------------------------------------------


def build_random(recipe: Recipe, device: torch.device) -> BlspForConditionalGeneration:
    """The model of a recipe with random weights, held as the recipe says."""
    llm_config, encoder_config = find_configs(recipe)
    wanted = recipe.model
    dtype = torch.bfloat16 if recipe.training.dtype == "bf16" else torch.float32
    config = build_config(recipe, llm_config, encoder_config)
    torch.manual_seed(0)
    with device:
        llm = AutoModelForCausalLM.from_config(
            config.get_text_config(decoder=True),
            dtype=dtype,
            attn_implementation=None if device.type == "cuda" else "eager",
        )
        encoder = BlspWhisperEncoder(encoder_config)
    nn.Module.to(encoder, dtype)
    if wanted.llm_bits != 16:
        quantise(llm, wanted.llm_bits, dtype)
    return BlspForConditionalGeneration.assemble(config, llm, encoder)


def quantise(llm: Any, bits: int, dtype: torch.dtype) -> None:
    """Hold every linear layer but the head in NF4 with double quantisation, one after the other."""
    if bits != 4:
        raise InputError(f"model.llm_bits: expected 4 or 16 to be timed, found {bits}; change it")
    from bitsandbytes.nn.modules import Linear4bit, Params4bit

    head = llm.get_output_embeddings()
    layers = [(n, m) for n, m in llm.named_modules() if isinstance(m, nn.Linear) and m is not head]
    for name, linear in layers:
        device = linear.weight.device
        held = Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            compute_dtype=dtype,
            quant_type="nf4",
            device="meta",
        )
        held.support_avx512bf16_for_cpu = False
        weight = Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4")  # type: ignore[call-arg]
        held.weight, held.bias = weight, linear.bias
        llm.set_submodule(name, held.to(device))
    llm.is_loaded_in_4bit = True


# --- steps ----------------------------------------------------------------------------------------


def build_batch(model: BlspForConditionalGeneration, recipe: Recipe) -> dict[str, Any]:
    """The largest batch of a recipe, of random recordings of 10 s."""
    shape, config = largest_batch(recipe), model.config
    speech = num_speech_tokens(config.adapter, shape.frames, window_frames=config.window_frames)
    if config.adapter.decides_length:
        speech = TRANSCRIPT
    generator = torch.Generator().manual_seed(0)

    def build(index: int) -> Example:
        response = torch.full((RESPONSE,), _SEEN)
        views = {}
        for name, middle, token in (
            ("", speech, config.audio_token_id),
            ("teacher_", TRANSCRIPT, _SEEN),
        ):
            prompt = torch.full((PROMPT,), _SEEN)
            ids = torch.cat([prompt, torch.full((middle,), token), response])
            labels = torch.full_like(ids, IGNORED)
            labels[-RESPONSE:] = response
            views |= {f"{name}input_ids": ids, f"{name}labels": labels}
        mel = torch.randn(config.audio_config.num_mel_bins, shape.frames, generator=generator)  # type: ignore[union-attr]
        span = (PROMPT, PROMPT + TRANSCRIPT)
        return Example(
            id=str(index),
            features=((mel, shape.frames),),
            transcripts=(span,),
            speech_lengths=(speech,),
            emotions=(IGNORED,),
            **views,
        )

    return Collator(0)([build(index) for index in range(shape.rows)])


def measure(
    model: BlspForConditionalGeneration, recipe: Recipe, device: torch.device, *, steps: int
) -> dict[str, Any]:
    """Time steps with an optimizer, and read what they took at most."""
    batch = build_batch(model, recipe)
    shape = shape_of(batch)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    if recipe.training.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    seconds: list[float] = []
    for _ in range(WARM_UP + steps):
        begun = time.perf_counter()
        run_backward(model, batch, recipe.loss, recipe.training)  # reads the loss, which waits
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
        if len(seconds) == 1 and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()  # what building took does not count
    a_step = statistics.median(seconds[WARM_UP:])
    forecast = forecast_memory(
        model,
        shape,
        checkpointing=recipe.training.gradient_checkpointing,
        bf16=recipe.training.dtype == "bf16",
    )
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    return {
        "batch": vars(shape),
        "seconds_per_step": round(a_step, 4),
        "audio_seconds_per_second": round(shape.recordings * shape.frames / 100 / a_step, 1),
        "tokens_per_second": round(shape.rows * (shape.heard_tokens + shape.read_tokens) / a_step),
        "peak_gib": None if peak is None else round(peak / 2**30, 2),
        "forecast_gib": round(forecast.total / 2**30, 2),
    }


if __name__ == "__main__":
    sys.exit(main())
