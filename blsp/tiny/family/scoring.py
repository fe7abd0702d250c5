"""What a run of the comparison answers: right or wrong, utterance by utterance.

Questions are the kinds of the text world: those that training may align, those it never asks, and,
on the test alone, the sealed ones. They go through the functions of `blsp eval`; what is kept of
an answer is one digit, 1 for right, because intervals over seeds need every utterance and nothing
else. A checkpoint and a split enter; a `result.json` leaves.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch

from blsp.behaviours import load_behaviours
from blsp.benchmark import Benchmark
from blsp.generation import GenerationConfig, answer_speech
from blsp.journal import digest
from blsp.model import (
    BlspForConditionalGeneration,
    BlspProcessor,
    LlmOptions,
    compose,
    load_checkpoint,
)
from blsp.prediction_log import Prediction, PredictionLog
from blsp.prompts import SpeechPrompt, build_renderer
from blsp.results import CASCADE, SHUFFLED_AUDIO, SHUFFLED_TEXT, SPEECH, TEXT_BOUND
from blsp.running import run
from blsp.systems import Models, build_models, find_whisper
from blsp.tasks import Task, build_messages
from blsp.testsets import TestSet, load_test_set
from blsp.tiny.family.data import (
    CLEAN,
    EMOTIONS,
    NOISY,
    Sizes,
    find_manifests,
    fingerprint,
    sentences_of,
)
from blsp.tiny.family.entrants import DEFAULT
from blsp.tiny.family.rewording import take_off_manner
from blsp.tiny.family.runs import Comparison, Result, Run, do_once
from blsp.tiny.questions import EMOTIONAL, LLM, WHISPER, add_answers, place_everywhere
from blsp.tiny.world import instructions, kinds
from blsp.trainer import FINAL_FOLDER

YARDSTICKS = "yardsticks"
"""Folder of what does not depend on a recipe."""
COMMAND = "python -m blsp.tiny.family"

Split = Literal["dev", "test"]
Group = Literal["aligned", "held_out", "sealed", "emotion", "emotional_answers"]

EMOTION = "emotion"
MOVED = {f"emotional_{kind}": kind for kind in EMOTIONAL}
"""Task of the recordings with feeling -> the kind that is asked."""

_GENERATION = GenerationConfig(max_new_tokens=96, batch_size=128)


# --- what is asked --------------------------------------------------------------------------------


def group_tasks() -> dict[Group, list[str]]:
    """Tasks by what training may know of them."""
    behaviours = load_behaviours("tiny")
    return {
        "aligned": [one.kind for one in behaviours.behaviours],
        "held_out": [one.kind for one in behaviours.held_out],
        "sealed": kinds(sealed=True),
        "emotion": [EMOTION],
        "emotional_answers": list(MOVED),
    }


def build_tasks(split: Split) -> tuple[Task, ...]:
    """The questions of a split; development has no sealed ones."""
    groups = group_tasks()
    asked = [*groups["aligned"], *groups["held_out"]]
    asked += groups["sealed"] if split == "test" else []
    words = [
        Task(
            name=kind,
            prompts=_prompts_of(kind),
            reference=f"answers.{kind}",
            metrics=("exact_match",),
            held_out=kind not in groups["aligned"],
            conditions=(CLEAN, NOISY),
        )
        for kind in asked
    ]
    feelings = [
        Task(
            name=name,
            prompts=_prompts_of(kind),
            reference=f"emotional_answers.{kind}",
            metrics=("exact_match",),
            conditions=(EMOTIONS,),
        )
        for name, kind in MOVED.items()
    ]
    emotion = Task(
        name=EMOTION,
        prompts=_prompts_of(EMOTION),
        reference="emotion",
        metrics=("exact_match",),
        held_out=True,
        conditions=(EMOTIONS,),
    )
    return (*words, *feelings, emotion)


def _prompts_of(kind: str) -> tuple[str, ...]:
    return place_everywhere(instructions()["kinds"][kind])


def load_sets(out: Path, split: Split, sizes: Sizes) -> tuple[TestSet, ...]:
    """The recordings of a split with what is right to answer."""
    sentences, asked = sentences_of(sizes, split), kinds(sealed=None if split == "test" else False)
    sets = []
    for condition, manifest in find_manifests(out, split).items():
        plain = load_test_set(manifest, condition)
        known = [add_answers(one, sentences[one.id], asked) for one in plain.utterances]
        sets.append(replace(plain, utterances=tuple(known)))
    return tuple(sets)


# --- who answers ----------------------------------------------------------------------------------


def score_run(shared: Comparison, run_: Run, split: Split) -> Result:
    """Let a trained run answer the recordings of a split."""
    systems = (SPEECH,)
    if split == "test" and run_.entrant == DEFAULT and run_.seed == 0:
        systems = (SPEECH, SHUFFLED_AUDIO)
    folder = shared.folder(run_)

    def work() -> Result:
        model, processor = load_checkpoint(folder / FINAL_FOLDER, options=_options(shared))
        result = _score(shared, split, systems, (model.eval(), processor), folder / split)
        if split == "test" and model.config.lora.scope == "all":
            result["text_kept"] = compare_texts(shared, model, processor)
        return result

    return do_once(folder / split, _made_from(shared, split, folder), work)


def score_yardsticks(shared: Comparison) -> Result:
    """Let the language model answer the words, Whisper's words, and words of other recordings."""
    folder = shared.out / YARDSTICKS / "test"

    def work() -> Result:
        model, processor = compose(llm=LLM, encoder=WHISPER, options=_options(shared))
        systems = (TEXT_BOUND, CASCADE, SHUFFLED_TEXT)
        return _score(shared, "test", systems, (model.eval(), processor), folder)

    return do_once(folder, describe_test(shared), work)


def describe_test(shared: Comparison) -> str:
    """A hash of the recordings of the test and of what is asked about them."""
    return _made_from(shared, "test", None)


def _options(shared: Comparison) -> LlmOptions:
    return LlmOptions(dtype=torch.bfloat16 if shared.dtype == "bf16" else torch.float32)


def _made_from(shared: Comparison, split: Split, run_folder: Path | None) -> str:
    """A hash of what answers and of what is asked."""
    files = list(find_manifests(shared.out, split).values())
    if run_folder is not None:
        files.append(run_folder / FINAL_FOLDER / "delta.safetensors")
    tasks = [task.to_dict() for task in build_tasks(split)]
    return digest([fingerprint(files), tasks, shared.dtype])


def _score(
    shared: Comparison,
    split: Split,
    systems: tuple[str, ...],
    loaded: tuple[BlspForConditionalGeneration, BlspProcessor],
    folder: Path,
) -> Result:
    benchmark = Benchmark(
        tasks=build_tasks(split),
        sets=load_sets(shared.out, split, shared.sizes),
        systems=systems,
        command=COMMAND,
    )
    run(benchmark, _build_models(*loaded), folder)
    log = PredictionLog(folder)
    return {system: read_hits(log, system, benchmark) for system in systems}


def _build_models(model: BlspForConditionalGeneration, processor: BlspProcessor) -> Models:
    name = {"checkpoint": COMMAND}
    return build_models(model, processor, _GENERATION, whisper=find_whisper(model), name=name)


# --- what is kept ---------------------------------------------------------------------------------


def read_hits(log: PredictionLog, system: str, benchmark: Benchmark) -> dict[str, Any]:
    """Condition -> task -> a digit for each utterance in the order of their ids, 1 where right.

    `exact` is word for word, `in_any_manner` passes over opening, capitals and full stop.
    """
    rules: dict[str, Callable[[str], str]] = {"exact": str.strip, "in_any_manner": take_off_manner}
    found: dict[str, Any] = {rule: {} for rule in rules}
    for test_set, task in product(benchmark.sets, benchmark.tasks):
        if test_set.condition in task.conditions:
            rows = log.get((system, task.name, test_set.condition)).values()
            for rule, plain in rules.items():
                cells = found[rule].setdefault(test_set.condition, {})
                cells[task.name] = mark(list(rows), plain)
    return found


def mark(rows: Sequence[Prediction], plain: Callable[[str], str]) -> str:
    """A digit for each prediction."""
    return "".join("01"[plain(row.prediction) == plain(row.reference)] for row in rows)


def compare_texts(
    shared: Comparison, model: BlspForConditionalGeneration, processor: BlspProcessor
) -> dict[str, str]:
    """Task -> a digit for each clean utterance, 1 where the model, reading it, still answers as the
    language model did before training."""
    (clean, *_), tasks = load_sets(shared.out, "test", shared.sizes), build_tasks("test")
    before = PredictionLog(shared.out / YARDSTICKS / "test")
    renderer = build_renderer(model, processor)
    utterances = sorted(clean.utterances, key=lambda one: one.id)
    kept = {}
    for task in [one for one in tasks if CLEAN in one.conditions]:
        chats = [build_messages(task.prompt_for(u.id), u, u.text or "") for u in utterances]
        ids = [renderer.render_prompt(chat, view="teacher").ids for chat in chats]
        prompts = [SpeechPrompt(each, ()) for each in ids]
        answers = answer_speech(model, processor, prompts, _GENERATION)
        rows = before.get((TEXT_BOUND, task.name, CLEAN))
        kept[task.name] = "".join(
            "01"[answer.text == rows[one.id].prediction]
            for one, answer in zip(utterances, answers, strict=True)
        )
    return kept


def compute_dev_score(result: Result) -> float:
    """The share of all development questions that were answered word for word."""
    cells = [marks for tasks in result[SPEECH]["exact"].values() for marks in tasks.values()]
    return "".join(cells).count("1") / sum(map(len, cells))
