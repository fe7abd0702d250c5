"""Make the tiny foundation models from nothing, or check the shipped ones against their gates.

    python -m blsp.tiny.build            speech, Whisper, LLM, weights, build.json, curves.png
    python -m blsp.tiny.build --check    print the gates; exit code 1 where one is missed

A build takes hours on two cores and may be killed at any moment: speech, features and training
state are kept in ``--folder`` and the same command goes on from there. The weights in the package
are replaced as a whole, after both models are trained.
"""

import argparse
import importlib.metadata
import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import WhisperFeatureExtractor, WhisperProcessor

from blsp.arguments import choose_device
from blsp.errors import InputError
from blsp.files import explained_writes
from blsp.tiny.fitting import Progress
from blsp.tiny.gates import Gate, check_all
from blsp.tiny.llm import train_llm
from blsp.tiny.speech import make_speech, plan_emotions, plan_utterances
from blsp.tiny.whisper import train_whisper, write_normalizer

WEIGHTS = Path(__file__).parent / "weights"


def main(argv: Sequence[str] | None = None) -> int:
    """Build or check; returns the exit code."""
    arguments = _parse(argv)
    try:
        if not arguments.check:
            build(arguments)
        return check(arguments.weights)
    except InputError as error:
        print(f"blsp: {error}", file=sys.stderr)
        return 2


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m blsp.tiny.build", description="Build or check the tiny foundation models."
    )
    parser.add_argument(
        "--check", action="store_true", help="only check the weights that are there"
    )
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="where they lie or will lie")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/tiny-build"), help="speech and training state"
    )
    parser.add_argument(
        "--init-from", type=Path, help="earlier tiny weights to go on from, at a lower rate"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--utterances", type=int, default=64_000, help="of training speech")
    parser.add_argument("--whisper-steps", type=int, default=4_000)
    parser.add_argument("--llm-steps", type=int, default=7_000)
    parser.add_argument("--note", action="append", default=[], help="a remark for build.json")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args(argv)


def build(arguments: argparse.Namespace) -> None:
    """Speech, both models, weights, ``build.json`` and ``curves.png``."""
    torch.set_num_threads(arguments.threads)
    device, _ = choose_device()
    speech, seed = arguments.folder / "speech", arguments.seed
    make_speech(plan_utterances(seed, "dev", 400), speech, "dev-clean")
    make_speech(plan_utterances(seed, "dev", 400, snr_db=5.0), speech, "dev-noisy")
    make_speech(plan_emotions(seed, "dev", 60), speech, "dev-emotion")
    make_speech(plan_utterances(seed, "train", arguments.utterances), speech, "train")
    whisper, whisper_tokenizer, heard = train_whisper(
        arguments.folder / "whisper",
        speech,
        seed=seed,
        steps=arguments.whisper_steps,
        device=device,
        init_from=arguments.init_from and arguments.init_from / "whisper",
    )
    llm, tokenizer, read = train_llm(
        arguments.folder / "llm",
        seed=seed,
        steps=arguments.llm_steps,
        device=device,
        init_from=arguments.init_from and arguments.init_from / "llm",
    )
    fresh = arguments.weights.with_name("weights.new")
    shutil.rmtree(fresh, ignore_errors=True)
    with explained_writes(fresh):
        # bfloat16 halves the download; the gates are measured on exactly these rounded weights.
        whisper.cpu().bfloat16().save_pretrained(fresh / "whisper")
        extractor = WhisperFeatureExtractor(feature_size=80)
        WhisperProcessor(extractor, whisper_tokenizer).save_pretrained(fresh / "whisper")
        # The library reads this file beside the tokenizer but does not write it.
        write_normalizer(fresh / "whisper")
        llm.cpu().bfloat16().save_pretrained(fresh / "llm")
        tokenizer.save_pretrained(fresh / "llm")
    progress = {"whisper": heard, "llm": read}
    _write_report(fresh, arguments, device, progress)
    draw_curves(progress, fresh / "curves.png")
    _replace_folder(arguments.weights, fresh)


def _replace_folder(old: Path, fresh: Path) -> None:
    """Put ``fresh`` in the place of ``old``; killed between the renames, both are still there."""
    aside = old.with_name(f"{old.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if old.exists():
        old.rename(aside)
    fresh.rename(old)
    shutil.rmtree(aside, ignore_errors=True)


def _write_report(
    folder: Path, arguments: argparse.Namespace, device: torch.device, progress: dict[str, Progress]
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        gates = check_all(folder, Path(scratch))
    packages = ("torch", "transformers", "tokenizers", "espeakng-loader", "soxr", "soundfile")
    report = {
        "command": "python -m blsp.tiny.build "
        f"--seed {arguments.seed} --utterances {arguments.utterances} "
        f"--whisper-steps {arguments.whisper_steps} --llm-steps {arguments.llm_steps}",
        "notes": arguments.note,
        "seed": arguments.seed,
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "hardware": f"{platform.machine()} {device.type}, {arguments.threads} threads",
        "hours": {name: round(fit.seconds / 3600, 2) for name, fit in progress.items()},
        "gates": [asdict(gate) | {"passed": gate.passed} for gate in gates],
        "curves": {name: fit.curve for name, fit in progress.items()},
    }
    if arguments.init_from:
        earlier = json.loads((arguments.init_from / "build.json").read_text(encoding="utf-8"))
        report["command"] += f" --init-from {arguments.init_from}"
        report["init_from"] = {
            key: earlier[key]
            for key in ("command", "notes", "hours", "curves", "init_from")
            if key in earlier
        }
    (folder / "build.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def draw_curves(progress: dict[str, Progress], path: Path) -> None:
    """Dev scores over steps, one panel a model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), dpi=110, layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, (name, fit) in zip(panels, progress.items(), strict=True):
        steps = [point["step"] for point in fit.curve]
        scores = [key for key in fit.curve[0] if key.startswith(("wer", "dev_right"))]
        for key in scores:
            values = [point[key] for point in fit.curve]
            panel.plot(steps, values, marker="o", markersize=3, label=f"{key} {values[-1]:.3f}")
        panel.set(title=f"tiny {name}, dev split", xlabel="step", ylim=(0, 1))
        panel.grid(alpha=0.3)
        panel.legend()
    figure.savefig(path)


def check(weights: Path) -> int:
    """Print every gate with its number; 0 if all are reached, else 1."""
    if not (weights / "llm" / "config.json").exists():
        raise InputError(
            f"expected the tiny weights in {weights}, found none; run python -m blsp.tiny.build"
        )
    with tempfile.TemporaryDirectory() as scratch:
        gates = check_all(weights, Path(scratch))
    return _print(gates)


def _print(gates: list[Gate]) -> int:
    for gate in gates:
        print(gate.line())
    missed = [gate.name for gate in gates if not gate.passed]
    print(f"{len(gates) - len(missed)} gates reached, {len(missed)} missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
