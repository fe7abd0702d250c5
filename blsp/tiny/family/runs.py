"""One run of the comparison: a recipe at one learning rate and seed, trained and scored on dev.

The recipe is the shipped one with a handful of values put in: where the run lies, its rate and
seed, which earlier run it begins from, and the same development data for all, so that meters can
be compared. A finished step is a `result.json` that names what it was made from; called again it
is passed over, and one of something else is refused. A `Comparison` and a `Run` enter.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from transformers.utils import logging

from blsp.checkpoint import is_complete
from blsp.errors import InputError
from blsp.hardware import describe_hardware
from blsp.journal import digest
from blsp.manifest import Meta
from blsp.progress import LOG
from blsp.recipe import Header, Recipe, load_recipe
from blsp.results import write_json
from blsp.tiny.family.costs import CostMeter, read_costs
from blsp.tiny.family.data import SIZES, Sizes, fingerprint
from blsp.tiny.family.entrants import FOLDER, Entrant, stages_of
from blsp.train import build_parts, build_trainer
from blsp.trainer import FAILED_BATCH, FINAL_FOLDER, find_checkpoints

RESULT = "result.json"
DEV = ("dev-repeat", "dev-diverse")
"""Conversations that the meters of every run look at."""
EVAL_EXAMPLES = 200

Result = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Run:
    """An entrant at one learning rate and seed."""

    entrant: str
    rate: float
    seed: int

    @property
    def place(self) -> str:
        """Its folder in that of the comparison."""
        return f"{self.entrant}/lr-{self.rate:g}/seed-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What every job of the comparison shares."""

    entrants: dict[str, Entrant]
    out: Path = FOLDER
    sizes: Sizes = field(default_factory=lambda: SIZES)
    dtype: Literal["bf16", "fp32"] = "fp32"
    """The type of multiplications, of training and of all answers."""

    def folder(self, run: Run) -> Path:
        """Where a run lies."""
        return self.out / run.place

    def train_files(self, run: Run) -> list[Path]:
        """The conversations of a run and of its earlier stages."""
        stages = stages_of(self.entrants[run.entrant], self.entrants)
        return [path for stage in stages for path in stage.train]


def read_result(folder: Path) -> Result | None:
    """A finished step; None where there is none, or a torn one."""
    try:
        return json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def do_once(folder: Path, made_from: str, work: Callable[[], Result]) -> Result:
    """Return the result that lies in a folder, or do the work and leave its result there.

    Raises:
        InputError: there is a result that was made from something else.
    """
    found = read_result(folder)
    if found is not None and found.get("made_from") != made_from:
        raise InputError(
            f"{folder / RESULT}: expected a result of the recipe and data as they are now, found "
            f"one of others; remove {folder} and what was begun from it"
        )
    if found is None:
        meta = {"made_from": made_from, "versions": dict(Meta(command="").versions)}
        found = work() | meta | {"hardware": describe_hardware()}
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RESULT, found)
    return found


# --- training -------------------------------------------------------------------------------------


def build_recipe(shared: Comparison, run: Run, before: Run | None) -> tuple[Recipe, Header]:
    """The recipe of a run; ``before`` is the run of the earlier stage."""
    one = shared.entrants[run.entrant]
    dev = [str(shared.out / "conversations" / f"{name}.jsonl") for name in DEV]
    values: dict[str, Any] = {
        "data.dev": dev,
        "training.output": str(shared.folder(run)),
        "training.learning_rate": run.rate,
        "training.seed": run.seed,
        "training.dtype": shared.dtype,
        "training.eval_steps": one.steps,
        "training.eval_examples": EVAL_EXAMPLES,
        "training.trackers": [],
    }
    if before is not None:
        values["model.init_from"] = str(shared.folder(before) / FINAL_FOLDER)
    changed = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    return load_recipe(one.recipe, [*one.changes, *changed])


def train_run(shared: Comparison, run: Run, before: Run | None) -> Result:
    """Train a run, or go on where it was killed; return its meters and costs.

    A run that stops because its numbers are not finite is a result as well: `failed` says why.
    """
    recipe, header = build_recipe(shared, run, before)
    folder = shared.folder(run)

    def work() -> Result:
        described = {"entrant": run.entrant, "learning_rate": run.rate, "seed": run.seed}
        try:
            if not is_complete(folder / FINAL_FOLDER):
                _train(recipe, header, folder)
        except InputError as error:
            if not (folder / FAILED_BATCH).is_file():
                raise
            return described | {"failed": str(error)}
        for checkpoint in find_checkpoints(folder):
            shutil.rmtree(checkpoint)
        costs = read_costs(folder, steps=recipe.training.steps or 0)
        meters = read_meters(folder / LOG)
        kinds = sorted(find_kinds(shared.train_files(run)))
        return described | {"costs": costs, "meters": meters, "trained_kinds": kinds}

    return do_once(folder, describe_origin(shared, run, before), work)


def describe_origin(shared: Comparison, run: Run, before: Run | None) -> str:
    """A hash of all that decides what a run comes to: recipe, rate, seed, earlier stage, data."""
    one = shared.entrants[run.entrant]
    dev = [shared.out / "conversations" / f"{name}.jsonl" for name in DEV]
    place = [run.place, before and before.place, shared.dtype]
    return digest([_read_values(one), place, fingerprint((*one.train, *dev))])


def _read_values(entrant: Entrant) -> list[str]:
    """What a recipe says, without its comment, which is filled in from results; and not what it
    leaves to defaults, so that an option to come leaves results what they are."""
    lines = entrant.recipe.read_text(encoding="utf-8").splitlines()
    return [*(line for line in lines if line and not line.startswith("#")), *entrant.changes]


def _train(recipe: Recipe, header: Header, folder: Path) -> None:
    (folder / FAILED_BATCH).unlink(missing_ok=True)
    found = find_checkpoints(folder)
    parts = build_parts(recipe)
    trainer = build_trainer(recipe, header, parts, _say_nothing, [CostMeter(folder)])
    trainer.train(resume_from_checkpoint=str(found[-1]) if found else None)
    if trainer.signal.stopped:
        raise SystemExit("stopped by SIGTERM; what was trained is saved")
    trainer.save_final()


def _say_nothing(line: str) -> None:
    """Two runs at once would speak at once; `log.jsonl` has it all."""


def read_meters(log: Path) -> dict[str, float]:
    """Numbers of the last evaluation in a log."""
    rows = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    last = [row for row in rows if "eval_kl" in row][-1]
    numbers = {key.removeprefix("eval_"): last[key] for key in last if key.startswith("eval_")}
    layers = [value for key, value in numbers.items() if key.startswith("similarity/")]
    return {key: value for key, value in numbers.items() if "similarity" not in key} | {
        "similarity": sum(layers) / len(layers)
    }


def find_kinds(paths: list[Path]) -> set[str]:
    """Which behaviours conversations teach."""
    lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["kind"] for row in map(json.loads, lines) if "kind" in row}


def begin_process() -> None:
    """Settle a process that does jobs: one thread, and no voice."""
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
