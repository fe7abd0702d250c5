"""Speed of making data: audio to features, and transcripts to continuations, beside bare loops.

    blsp bench data_speed manifest.jsonl --llm blsp/tiny-llm --encoder blsp/tiny-whisper

Each of both is done by ours and by the shortest program that does the same with the libraries
alone, in turns within one process, so that what else the machine does hits both. Bare features are
soundfile, soxr and Whisper's own extractor on the true length, without padding to 30 s; bare
continuations are `generate` on batches sorted by length. Printed is the median of the ratios, ours
over bare: seconds of audio, and answered tokens, per second.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import soundfile
import soxr
import torch

from blsp.arguments import choose_device, read_variables
from blsp.audio import SAMPLING_RATE, load_audio
from blsp.authors import Author
from blsp.behaviours import draw_requests, load_behaviours
from blsp.continuation import ContinuationConfig, continue_manifest
from blsp.generation import Answer, GenerationConfig, answer_texts, find_stop_ids
from blsp.hardware import describe_hardware
from blsp.manifest import Meta, Utterance, find_root, read_manifest, write_rows
from blsp.model import compose
from blsp.model.foundations import load_llm
from blsp.model.loading import load_tokenizer
from blsp.rendering import Renderer

MAX_NEW_TOKENS = 48


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="blsp bench data_speed", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--llm", required=True, help="who continues the transcripts")
    parser.add_argument("--encoder", required=True, help="whose features are extracted")
    parser.add_argument("--behaviours", default="general")
    parser.add_argument("--template-variable", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--limit", type=int, default=256, help="utterances (default 256)")
    parser.add_argument("--rounds", type=int, default=5, help="of each, in turns (default 5)")
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args(argv)
    utterances = list(read_manifest(options.manifest))[: options.limit]
    results = {
        "features": compare_features(options, utterances),
        "continuations": compare_continuations(options, utterances),
        "hardware": describe_hardware(),
    }
    print(json.dumps(results, indent=1))
    return 0


def take_turns(ours: Callable[[], float], bare: Callable[[], float], rounds: int) -> dict[str, Any]:
    """Call both in turns; each returns the work it did. Ratios are of work per second."""
    rates: dict[str, list[float]] = {"ours": [], "bare": []}
    for number in range(rounds + 1):
        pair = {"ours": ours, "bare": bare}
        for name in pair if number % 2 else reversed(pair):
            begun = time.perf_counter()
            work = pair[name]()
            rates[name].append(work / (time.perf_counter() - begun))
    kept = {name: some[1:] for name, some in rates.items()}  # the first round warms up
    ratios = [ours / bare for ours, bare in zip(kept["ours"], kept["bare"], strict=True)]
    return {
        "ours_per_second": round(statistics.median(kept["ours"]), 1),
        "bare_per_second": round(statistics.median(kept["bare"]), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


# --- features -------------------------------------------------------------------------------------


def compare_features(
    options: argparse.Namespace, utterances: Sequence[Utterance]
) -> dict[str, Any]:
    """Seconds of audio per second, decoded, resampled and turned into log-mel."""
    root = find_root(options.manifest)
    _, processor = compose(llm=options.llm, encoder=options.encoder)
    extractor: Any = processor.feature_extractor
    seconds = sum(one.duration for one in utterances)

    def ours() -> float:
        for one in utterances:
            audio = load_audio(one.audio, start=one.start, duration=one.duration, root=root)
            processor.extract_features(audio)
        return seconds

    def bare() -> float:
        for one in utterances:
            with soundfile.SoundFile(root / one.audio) as file:
                rate = file.samplerate
                file.seek(round(one.start * rate))
                audio = file.read(round(one.duration * rate), dtype="float32", always_2d=True)
            audio = soxr.resample(audio.mean(axis=1), rate, SAMPLING_RATE)
            extractor(audio, sampling_rate=SAMPLING_RATE, padding=False, return_tensors="pt")
        return seconds

    return take_turns(ours, bare, options.rounds)


# --- continuations --------------------------------------------------------------------------------


def compare_continuations(
    options: argparse.Namespace, utterances: Sequence[Utterance]
) -> dict[str, Any]:
    """Answered tokens per second; both answer the very same prompts greedily."""
    device, llm_options = choose_device()
    model, base = load_llm(options.llm, options=llm_options)
    model, tokenizer = model.to(device).eval(), load_tokenizer(options.llm, None)  # type: ignore[arg-type]
    config = GenerationConfig(max_new_tokens=MAX_NEW_TOKENS, batch_size=options.batch_size)
    behaviours = load_behaviours(options.behaviours)

    def write(
        prompts: Sequence[list[int]], names: Sequence[str], config: GenerationConfig
    ) -> list[Answer]:
        return answer_texts(model, tokenizer, prompts, config, names=names)

    renderer = Renderer(tokenizer, read_variables(options.template_variable))
    author = Author(base=base, renderer=renderer, write=write, engine="measured")
    requests, _ = draw_requests(list(utterances), behaviours, per_utterance=1, seed=config.seed)
    prompts = [renderer.render_prompt([one.question()], view="teacher").ids for one in requests]
    tokens = generate_bare(model, tokenizer, prompts, config)

    def bare() -> float:
        return generate_bare(model, tokenizer, prompts, config)

    def ours() -> float:
        with tempfile.TemporaryDirectory() as folder:
            some, out = Path(folder) / "m.jsonl", Path(folder) / "c.jsonl"
            write_rows(some, utterances, Meta(command="blsp bench data_speed"))
            settings = ContinuationConfig(generation=config)
            continue_manifest(some, out, author, behaviours, settings, command="")
        return tokens

    return take_turns(ours, bare, options.rounds)


@torch.no_grad()
def generate_bare(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], config: GenerationConfig
) -> float:
    """Answer prompts in batches sorted by length; returns how many tokens were written."""
    stops = list(find_stop_ids(model, tokenizer))
    pad, count = stops[0], 0
    ordered = sorted(prompts, key=len, reverse=True)
    for start in range(0, len(ordered), config.batch_size):
        batch = ordered[start : start + config.batch_size]
        width = len(batch[0])
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in batch])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch])
        out = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=config.max_new_tokens,
            do_sample=False,
            eos_token_id=stops,
            pad_token_id=pad,
        )[:, width:]
        tokenizer.batch_decode(out, skip_special_tokens=True)
        ended = torch.isin(out, torch.tensor(stops, device=out.device)).cumsum(1) > 0
        count += int((~ended).sum())
    return float(count)


if __name__ == "__main__":
    sys.exit(main())
