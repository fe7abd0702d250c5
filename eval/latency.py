"""Latency: seconds to the first token, tokens a second and real-time factor, speech and cascade.

    blsp bench latency CHECKPOINT --manifest test.jsonl --limit 50

One recording at a time, as in a conversation; samples are in memory when the clock starts. Both
systems take turns, so that a machine that slows down slows both. The first token of an answer is
timed by asking for one token, the rest by asking for all. Nothing is cached between the two.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from blsp.arguments import add_bits_option, add_checkpoint_options, load_on_device
from blsp.audio import SAMPLING_RATE, load_audio
from blsp.errors import InputError
from blsp.evaluate import write_command
from blsp.generation import Answer, GenerationConfig, answer_speech, answer_texts
from blsp.hardware import describe_hardware
from blsp.hearing import Hearing, load_whisper, transcribe
from blsp.manifest import AudioPart, Message, find_root, read_manifest
from blsp.prompts import build_renderer, build_speech_prompt, place_audio, read_prompt
from blsp.results import CASCADE, SPEECH, write_json
from blsp.systems import find_whisper

WARM_UP = 2
UNITS = {"first_token": "s", "tokens_per_second": "1/s", "whole": "s", "real_time_factor": ""}
"""What is measured -> its unit: seconds to the first token, tokens after it a second, seconds to
the end of the answer, and these by the seconds of the recording."""

AnswerAloud = Callable[[np.ndarray, GenerationConfig], Answer]
"""A recording -> its answer."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One answer."""

    seconds: float
    """Of the recording."""
    first: float
    """Seconds to the first token."""
    whole: float
    """Seconds to the end."""
    steps: int
    """Tokens that were written, the one that ends the answer counted."""

    def numbers(self) -> dict[str, float]:
        """What is reported; no rate where nothing followed the first token."""
        after, seconds = self.steps - 1, self.whole - self.first
        rate = {"tokens_per_second": after / seconds} if after and seconds else {}
        factor = self.whole / self.seconds
        return {"first_token": self.first, **rate, "whole": self.whole, "real_time_factor": factor}


def time_answer(
    answer: AnswerAloud,
    audio: np.ndarray,
    config: GenerationConfig,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Ask twice: for one token, and for all."""
    began = clock()
    answer(audio, replace(config, max_new_tokens=1))
    first = clock()
    found = answer(audio, config)
    ended = clock()
    # Noise may make the whole answer faster than its first token alone.
    whole = max(ended - first, first - began)
    steps = found.tokens + (found.finish_reason == "stop")
    seconds = len(audio) / SAMPLING_RATE
    return Timing(seconds=seconds, first=first - began, whole=whole, steps=steps)


def summarise(timings: Sequence[Timing]) -> dict[str, dict[str, float]]:
    """Median and 90th percentile (of rates the 10th, the slow end) of every number."""
    found: dict[str, list[float]] = {}
    for one in timings:
        for name, value in one.numbers().items():
            found.setdefault(name, []).append(value)
    return {
        name: {
            "median": float(np.median(values)),
            "p90": float(np.quantile(values, 0.1 if name == "tokens_per_second" else 0.9)),
            "n": len(values),
        }
        for name, values in found.items()
    }


def build_systems(options: argparse.Namespace) -> dict[str, AnswerAloud]:
    """Load the checkpoint and the cascade's Whisper; return both as functions of a recording."""
    model, processor = load_on_device(
        options.checkpoint, llm=options.llm, encoder=options.encoder, bits=options.bits
    )
    renderer = build_renderer(model, processor)
    tower = model.model.audio_tower
    whisper, ears = load_whisper(find_whisper(model, options.whisper), dtype=tower.dtype)
    whisper = whisper.to(tower.device)  # type: ignore[arg-type]
    padding: Any = model.config.audio_padding
    hearing = Hearing(audio_padding=padding)

    def ask(audio: np.ndarray, words: str) -> list[Message]:
        seconds = len(audio) / SAMPLING_RATE
        recording = AudioPart(audio="recording", duration=seconds, transcript=words)
        return [place_audio(options.instruction, recording)]

    def hear(audio: np.ndarray, config: GenerationConfig) -> Answer:
        prompt = build_speech_prompt(renderer, processor, ask(audio, ""), [audio])
        return answer_speech(model, processor, [prompt], config)[0]

    def read(audio: np.ndarray, config: GenerationConfig) -> Answer:
        writing = replace(config, max_new_tokens=options.max_new_tokens)
        (words,) = transcribe(whisper, ears, [audio], config=writing, hearing=hearing)
        ids = renderer.render_prompt(ask(audio, words), view="teacher").ids
        with model.model.without_lora():
            return answer_texts(model.model.language_model, renderer.tokenizer, [ids], config)[0]

    return {SPEECH: hear, CASCADE: read}


def time_systems(
    systems: dict[str, AnswerAloud], audios: Sequence[np.ndarray], max_new_tokens: int
) -> dict[str, list[Timing]]:
    """Time all systems on each recording in turn, after a warm-up on the first."""
    config = GenerationConfig(max_new_tokens=max_new_tokens, batch_size=1)
    timings: dict[str, list[Timing]] = {name: [] for name in systems}
    for number, audio in enumerate([*[audios[0]] * WARM_UP, *audios]):
        for name, answer in systems.items():
            found = time_answer(answer, audio, config)
            if number >= WARM_UP:
                timings[name].append(found)
    return timings


def load_audios(manifest: Path, limit: int) -> list[np.ndarray]:
    """The first recordings of a manifest.

    Raises:
        InputError: one that cannot be read.
    """
    root = find_root(manifest)
    rows = list(read_manifest(manifest))[:limit]
    return [
        load_audio(one.audio, start=one.start, duration=one.duration, root=root) for one in rows
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure a checkpoint; returns the exit code."""
    options = _parse(argv)
    if options.limit < 1:
        raise InputError(f"expected --limit of at least 1, found {options.limit}; give more")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    audios = load_audios(options.manifest, options.limit)
    timings = time_systems(build_systems(options), audios, options.max_new_tokens)
    result = {
        "command": write_command("latency", argv),
        "hardware": describe_hardware(),
        "torch": torch.__version__,
        "recordings": len(audios),
        "audio_seconds": sum(len(audio) for audio in audios) / SAMPLING_RATE,
        "systems": {name: summarise(found) for name, found in timings.items()},
    }
    print(format_result(result))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, result)
        print(f"\nwritten: {options.out}")
    return 0


def format_result(result: dict[str, Any]) -> str:
    """Return the numbers as a table of text."""
    lines = [f"{'':<20}" + "".join(f"{name:>18}" for name in result["systems"])]
    for number, unit in UNITS.items():
        cells = [
            f"{found[number]['median']:.3g} ({found[number]['p90']:.3g})"
            if number in found
            else "-"
            for found in result["systems"].values()
        ]
        name = number.replace("_", " ") + (f", {unit}" if unit else "")
        lines.append(f"{name:<20}" + "".join(f"{cell:>18}" for cell in cells))
    note = f"median (90th percentile, of rates the 10th) of {result['recordings']} recordings"
    return "\n".join([*lines, f"{note}, {result['hardware']}"])


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="blsp bench latency",
        description=(__doc__ or "").partition("\n")[0],
        allow_abbrev=False,
    )
    add_checkpoint_options(parser)
    add_bits_option(parser)
    parser.add_argument("--manifest", type=Path, required=True, help="recordings to answer")
    parser.add_argument("--limit", type=int, default=50, help="first so many (default 50)")
    parser.add_argument(
        "--instruction",
        type=read_prompt,
        default="{audio}",
        help="asked of each, {audio} on a line of its own; by default the recording itself asks",
    )
    parser.add_argument("--max-new-tokens", type=int, default=64, help="(default 64)")
    parser.add_argument("--whisper", help="the cascade's Whisper (default: the encoder's own)")
    parser.add_argument("--out", type=Path, help="JSON file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
