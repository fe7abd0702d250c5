"""``blsp quickstart``: the whole pipeline on the embedded tiny world, as a user would run it.

Speech is made, the LLM answers the transcripts (told of the mood, which the words do not tell), the
modality adapter learns to make it answer the recordings alike, and the result is scored beside its
text bound and its cascade on sentences, voices, rates and pitches that no training saw. Everything
but the speech goes through the very functions behind `blsp continuations`, `blsp train`, `blsp
eval` and `blsp generate`; called again, it goes on where it stopped.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import soundfile
import torch
from transformers.utils import logging

from blsp.arguments import join_command, load_on_device
from blsp.authors import load_author
from blsp.behaviours import Behaviour, load_behaviours
from blsp.benchmark import Benchmark
from blsp.checkpoint import is_complete
from blsp.continuation import ContinuationConfig, continue_manifest
from blsp.errors import InputError
from blsp.generation import GenerationConfig, answer_speech
from blsp.manifest import AudioPart
from blsp.model import BlspForConditionalGeneration, BlspProcessor
from blsp.prompts import build_renderer, build_speech_prompt, place_audio
from blsp.recipe import load_recipe
from blsp.report import write_report
from blsp.results import CASCADE, SHUFFLED_AUDIO, SHUFFLED_TEXT, SPEECH, TEXT_BOUND
from blsp.running import run
from blsp.systems import Models, build_models, find_whisper
from blsp.tasks import Task
from blsp.testsets import TestSet, load_test_set
from blsp.tiny.questions import LLM, add_answers, group_behaviours, place_everywhere
from blsp.tiny.speech import Plan, make_sets, plan_emotions, plan_utterances, say
from blsp.tiny.voices import EMOTIONS, voices_of
from blsp.tiny.world import instructions, kinds, sample_sentences
from blsp.train import resolve, train
from blsp.trainer import FINAL_FOLDER, find_checkpoints
from blsp.trainer import RECIPE as SAVED_RECIPE

RECIPE = Path(__file__).parent / "quickstart.yaml"
SEED = 2
UTTERANCES, DEV_UTTERANCES, COUNT = 2_500, 100, 50
CANDIDATES = 8
TRAIN_SNR_DB, TEST_SNR_DB = 8.0, 5.0
ASKED = ("repeat", "diverse", "emotions")
"""What is asked about every utterance, of `group_behaviours`."""
MOODS = "moods"
"""The condition of the recordings with feeling; in the others everybody speaks plainly, because
what is right to reply follows from the mood."""
PER_MOOD = 5
"""One sentence with feeling for so many plain ones."""
SHOWN = (SPEECH, CASCADE, TEXT_BOUND, SHUFFLED_AUDIO, SHUFFLED_TEXT)
EXAMPLE = "book a table for four people at four in the afternoon"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    argv = sys.argv[2:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="blsp quickstart", description="Run the whole pipeline on the embedded tiny world."
    )
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"))
    parser.add_argument(
        "--count", type=int, default=COUNT, help=f"test sentences (default {COUNT})"
    )
    parser.add_argument(
        "--utterances",
        type=int,
        default=UTTERANCES,
        help=f"of training speech (default {UTTERANCES:,})",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the recipe")
    options = parser.parse_intermixed_args(argv)
    for name in ("count", "utterances"):
        if getattr(options, name) < 2:
            raise InputError(
                f"expected --{name} of at least 2, found {getattr(options, name)}; give more"
            )
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    started = time.monotonic()
    speak(options.out, plan_speech(options.utterances, options.count))
    write_conversations(options.out)
    checkpoint = align(options.out, options.overrides)
    model, processor = load_on_device(checkpoint)
    score(options.out, options.count, model, processor, join_command("quickstart", argv))
    show(options.out, model, processor)
    print(f"\nall of it took {time.monotonic() - started:.0f} s")
    print(f"written: {options.out / 'results.json'}, {options.out / 'report.html'}")
    print(f"talk to it: blsp chat {shlex.quote(str(checkpoint))}")
    return 0


def _step(number: int, text: str) -> None:
    print(f"\n[{number}/5] {text}", flush=True)


# --- the steps ------------------------------------------------------------------------------------


def plan_speech(utterances: int, count: int) -> dict[str, list[Plan]]:
    """Name of a manifest -> its utterances; splits share neither sentence nor voice."""
    half = utterances // 2
    return {
        "train-clean": plan_utterances(SEED, "train", half, candidates=CANDIDATES),
        "train-noisy": plan_utterances(
            SEED + 1, "train", half, snr_db=TRAIN_SNR_DB, candidates=CANDIDATES
        ),
        "dev-clean": plan_utterances(SEED, "dev", DEV_UTTERANCES),
        f"test-clean-{count}": plan_utterances(SEED, "test", count, neutral=1.0),
        f"test-noisy-{count}": plan_utterances(
            SEED, "test", count, snr_db=TEST_SNR_DB, neutral=1.0
        ),
        f"test-moods-{count}": plan_emotions(SEED, "test", max(2, count // PER_MOOD)),
    }


def speak(out: Path, plans: dict[str, list[Plan]]) -> None:
    """Make the speech of training, development and test."""
    total = sum(map(len, plans.values()))
    _step(1, f"speaking {total:,} sentences with eSpeak NG")
    make_sets(plans, out / "speech")


def write_conversations(out: Path) -> None:
    """Let the LLM answer the transcripts: each is repeated, asked one other thing, and asked what
    depends on the mood."""
    _step(2, "the language model answers the transcripts; this is what is distilled")
    author = load_author(LLM, None, {})
    config = ContinuationConfig(generation=GenerationConfig(max_new_tokens=96, batch_size=128))
    groups = group_behaviours()
    for path, manifest in list_conversations(out):
        behaviours = groups[path.stem.rpartition("-")[2]]
        path.parent.mkdir(parents=True, exist_ok=True)
        continue_manifest(manifest, path, author, behaviours, config, command="blsp quickstart")


def list_conversations(out: Path, split: str = "") -> list[tuple[Path, Path]]:
    """Conversations, and the manifest they are about."""
    return [
        (out / "conversations" / f"{name}-{what}.jsonl", out / "speech" / f"{name}.jsonl")
        for name in ("train-clean", "train-noisy", "dev-clean")
        for what in ASKED
        if name.startswith(split)
    ]


def align(out: Path, overrides: Sequence[str]) -> Path:
    """Train the modality adapter; returns the checkpoint's folder."""
    _step(3, "the adapter learns to make it answer the recordings alike")
    ours = {
        "data.train": [str(path) for path, _ in list_conversations(out, "train")],
        "data.dev": [str(path) for path, _ in list_conversations(out, "dev")],
        "training.output": str(out),
    }
    changed = [f"{key}={json.dumps(value)}" for key, value in ours.items()]
    recipe, header = load_recipe(RECIPE, [*changed, *overrides])
    output = recipe.training.output
    if not is_complete(output / FINAL_FOLDER):
        found = bool(find_checkpoints(output))
        return train(resolve(recipe), header, resume=found, report=print)
    saved, _ = load_recipe(output / FINAL_FOLDER / SAVED_RECIPE)
    # What was left to the machine is settled in the saved one.
    if replace(saved.training, dtype=recipe.training.dtype) != recipe.training or any(
        getattr(saved, part) != getattr(recipe, part) for part in ("data", "model", "loss")
    ):
        raise InputError(
            f"{output / FINAL_FOLDER}: expected the run of the same recipe, found one of another; "
            "choose another folder with --out, or remove this one"
        )
    print(f"trained already: {output / FINAL_FOLDER}")
    return output / FINAL_FOLDER


def score(
    out: Path,
    count: int,
    model: BlspForConditionalGeneration,
    processor: BlspProcessor,
    command: str,
) -> dict[str, Any]:
    """Score the model beside text bound, cascade and sanity systems; print the table."""
    _step(4, f"scoring {count} unseen sentences by unseen voices, clean, at 5 dB, with feeling")
    models = open_models(model, processor)
    results = run(
        Benchmark(tasks=build_tasks(), sets=load_sets(out, count), command=command), models, out
    )
    print(format_table(results))
    write_report(out)
    return results


def open_models(model: BlspForConditionalGeneration, processor: BlspProcessor) -> Models:
    """The model as a benchmark asks it."""
    config = GenerationConfig(max_new_tokens=96, batch_size=128)
    name = {"checkpoint": "quickstart"}
    return build_models(model, processor, config, whisper=find_whisper(model), name=name)


def load_sets(out: Path, count: int) -> tuple[TestSet, ...]:
    """The test speech, clean, at 5 dB and with feeling, with what is right to answer."""
    sentences = {each.text: each for each in sample_sentences(SEED, "test", count)}
    sets = []
    for condition, what in {"clean": "clean", "5 dB": "noisy", MOODS: "moods"}.items():
        plain = load_test_set(out / "speech" / f"test-{what}-{count}.jsonl", condition)
        known = [add_answers(one, sentences[str(one.text)], kinds()) for one in plain.utterances]
        sets.append(replace(plain, utterances=tuple(known)))
    return tuple(sets)


def build_tasks() -> tuple[Task, ...]:
    """One task for each kind of behaviour, scored on the right answer of the text world."""
    found = load_behaviours("tiny")
    reply = next(each for each in found.held_out if each.kind == "reply")
    return (
        *(_build_task(each, held_out=False) for each in found.behaviours),
        *(_build_task(each, held_out=True) for each in found.held_out),
        Task(
            name="emotion",
            prompts=place_everywhere(instructions()["kinds"]["emotion"]),
            reference="emotion",
            metrics=("accuracy", "unweighted_accuracy", "invalid_rate"),
            labels=EMOTIONS,
            conditions=(MOODS,),
        ),
        Task(
            name="reply_to_mood",
            prompts=place_everywhere(reply.prompts),
            reference="emotional_answers.reply",
            metrics=("exact_match",),
            held_out=True,
            conditions=(MOODS,),
        ),
    )


def _build_task(behaviour: Behaviour, *, held_out: bool) -> Task:
    asr = behaviour.kind == "repeat"
    return Task(
        name="asr" if asr else behaviour.kind,
        prompts=place_everywhere(behaviour.prompts),
        reference="text" if asr else f"answers.{behaviour.kind}",
        metrics=("wer", "exact_match") if asr else ("exact_match",),
        held_out=held_out,
        conditions=("clean", "5 dB"),
    )


def format_table(results: dict[str, Any]) -> str:
    """A line a task and condition: speech beside what it is measured against."""
    first = {task["name"]: task["metrics"][0] for task in results["tasks"]}
    groups: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in results["rows"]:
        if row["metric"] == first[row["task"]]:
            groups.setdefault((row["condition"], row["task"]), {})[row["system"]] = row
    lines = [f"{'%':<28}{'metric':<13}" + "".join(f"{name:>16}" for name in SHOWN)]
    for (condition, task), rows in groups.items():
        if SPEECH not in rows:  # what Whisper heard, which nobody was asked
            continue
        some = rows[SPEECH]
        cells = "".join(f"{100 * rows[name]['value']:>16.1f}" for name in SHOWN)
        mark = "*" if some["held_out"] else ""
        lines.append(f"{task + mark + ', ' + condition:<28}{some['metric']:<13}{cells}")
    lines.append("* not in the alignment data; wer: lower is better; n, intervals: report.html")
    return "\n".join(lines)


@torch.no_grad()
def show(out: Path, model: BlspForConditionalGeneration, processor: BlspProcessor) -> None:
    """Transcribe, translate and answer one WAV; draw what it hears beside the words."""
    _step(5, "one WAV before your eyes")
    audio = say(EXAMPLE, voice=voices_of("test")[0])
    path = out / "example.wav"
    soundfile.write(path, audio, 16_000)
    print(f"{path} says: {EXAMPLE}")
    renderer = build_renderer(model, processor)
    part = AudioPart(audio=path.name, duration=len(audio) / 16_000, transcript=EXAMPLE)
    asked = ("Repeat this sentence", "Translate into German", "Reply to the speaker")
    messages = [place_audio(text, part) for text in asked]
    prompts = [build_speech_prompt(renderer, processor, [each], [audio]) for each in messages]
    answers = answer_speech(model, processor, prompts, GenerationConfig(max_new_tokens=96))
    for text, given in zip(asked, answers, strict=True):
        print(f"  {text:<22} {given.text}")
