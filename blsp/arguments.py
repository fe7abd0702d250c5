"""Command-line options that several commands share, and what is made of them.

A parser or its options enter; a `GenerationConfig`, template variables or an opened checkpoint
leave. On a GPU weights stay as stored, on a CPU they become bfloat16 where a probe shows that to be
much faster, else float32.
"""

import json
import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from blsp.errors import InputError
from blsp.generation import GenerationConfig
from blsp.hardware import choose_cpu_dtype, find_ranks
from blsp.model import BlspForConditionalGeneration, BlspProcessor, LlmOptions, load_checkpoint
from blsp.model.foundations import quantization_options
from blsp.prompts import build_renderer
from blsp.rendering import Renderer


def add_generation_options(parser: ArgumentParser) -> None:
    """Add what shapes an answer."""
    defaults = GenerationConfig()
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=defaults.max_new_tokens,
        help=f"cut longer answers (default {defaults.max_new_tokens})",
    )
    parser.add_argument(
        "--sample", action="store_true", help="draw tokens instead of taking the likeliest"
    )
    parser.add_argument("--temperature", type=float, default=defaults.temperature)
    parser.add_argument("--top-p", type=float, default=defaults.top_p)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size)


def read_generation(options: Namespace) -> GenerationConfig:
    """Build the configuration from the options."""
    return GenerationConfig(
        max_new_tokens=options.max_new_tokens,
        do_sample=options.sample,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
        batch_size=options.batch_size,
    )


def read_variables(settings: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` of a chat template; a value that reads as JSON (true, 3) is one."""
    variables: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not key or not equals:
            raise InputError(f"--template-variable: expected KEY=VALUE, found {setting!r}")
        try:
            variables[key] = json.loads(value)
        except ValueError:
            variables[key] = value
    return variables


def join_command(name: str, argv: Sequence[str]) -> str:
    """The command line as it can be typed again."""
    return shlex.join(["blsp", name, *argv])


def choose_device() -> tuple[torch.device, LlmOptions]:
    """Where models go and how they are held."""
    if torch.cuda.is_available():
        return torch.device("cuda", find_ranks().local), LlmOptions()
    return torch.device("cpu"), LlmOptions(dtype=choose_cpu_dtype())


def add_base_options(parser: ArgumentParser) -> None:
    """Add where the base models of a checkpoint are."""
    parser.add_argument("--llm", help="the language model, if not where the checkpoint says")
    parser.add_argument("--encoder", help="the same for the Whisper")


def add_checkpoint_options(parser: ArgumentParser, *, required: bool = True) -> None:
    """Add which checkpoint to open, and where its base models are."""
    count = None if required else "?"
    parser.add_argument("checkpoint", type=Path, nargs=count, help="folder that blsp train wrote")
    add_base_options(parser)


def add_bits_option(parser: ArgumentParser) -> None:
    """Add in how many bits the language model of a checkpoint is held."""
    parser.add_argument(
        "--bits",
        type=int,
        choices=(4, 8, 16),
        help="hold the language model's weights in so many (default: as the adapter was trained)",
    )


def choose_bits(options: LlmOptions, bits: int | None, device: torch.device) -> LlmOptions:
    """Return options that hold a language model in so many bits; None leaves what they say."""
    if bits is None:
        return options
    if bits == 16:
        return replace(options, quantization_config=False)
    dtype: Any = torch.bfloat16 if options.dtype == "auto" else options.dtype
    return replace(
        options, quantization_config=quantization_options(bits, dtype), device_map={"": device}
    )


def load_on_device(
    checkpoint: str | Path,
    *,
    llm: str | None = None,
    encoder: str | None = None,
    bits: int | None = None,
) -> tuple[BlspForConditionalGeneration, BlspProcessor]:
    """Load a checkpoint where `choose_device` says, ready to answer.

    Args:
        checkpoint: folder or hub id.
        llm: where the language model is, if not where the checkpoint says.
        encoder: the same for the encoder.
        bits: 16, 8 or 4, in which the language model is held; None is as the adapter was trained.

    Raises:
        InputError: see `load_checkpoint`.
    """
    device, options = choose_device()
    options = choose_bits(options, bits, device)
    model, processor = load_checkpoint(checkpoint, llm=llm, encoder=encoder, options=options)
    torch.nn.Module.to(model, device)  # the library's own refuses a 4-bit model
    return model.eval(), processor


def open_checkpoint(
    options: Namespace,
) -> tuple[BlspForConditionalGeneration, BlspProcessor, Renderer]:
    """Load the model, its processor and its renderer."""
    if not options.checkpoint.is_dir():
        raise InputError(
            f"{options.checkpoint}: expected a checkpoint folder, found none; blsp quickstart or "
            "blsp train writes one"
        )
    model, processor = load_on_device(
        options.checkpoint, llm=options.llm, encoder=options.encoder, bits=options.bits
    )
    return model, processor, build_renderer(model, processor)
