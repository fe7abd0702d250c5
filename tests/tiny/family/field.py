"""A small field for the tests of the comparison: recipes, and results that nobody trained."""

import json
import random
from pathlib import Path
from typing import Any

from blsp.results import CASCADE, SHUFFLED_TEXT, SPEECH, TEXT_BOUND
from blsp.tiny.family.data import CLEAN, EMOTIONS, NOISY
from blsp.tiny.family.entrants import Entrant, Variant, load_entrants
from blsp.tiny.family.runs import RESULT, Comparison, Run
from blsp.tiny.family.schedule import Job
from blsp.tiny.family.scoring import YARDSTICKS, build_tasks

RECIPE = """# {name}
# needs: nothing
# command: blsp train {name}
# serves with: blsp chat
# expected: not known

data:
  train: [{train}]

model:
  llm: blsp/tiny-llm
  encoder: blsp/tiny-whisper
{init_from}
loss:
  response_kl: 1.0
  ctc: 1.0

training:
  output: runs/family/{name}
  learning_rate: {rate}
  steps: {steps}
  warmup_steps: 1
  batch_examples: 8
  save_steps: 2
  encoder_cache_gb: 0.1
"""

TRAIN = "runs/family/conversations/train-diverse.jsonl"


def write_recipe(
    folder: Path, name: str, *, steps: int = 4, begins_from: str = "", train: str = TRAIN
) -> None:
    """A recipe that begins from the result of another, or from nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    init = f"  init_from: runs/family/{begins_from}/checkpoint\n" if begins_from else ""
    values = {"name": name, "train": train, "init_from": init, "rate": 3e-3, "steps": steps}
    (folder / f"{name}.yaml").write_text(RECIPE.format(**values), encoding="utf-8")


def load_field(folder: Path, **more: Any) -> dict[str, Entrant]:
    """`alone` trains 6 steps; `second` trains 4 after the 2 of `first`; `changed` is a variant."""
    write_recipe(folder, "alone", steps=6)
    write_recipe(folder, "second", begins_from="first")
    write_recipe(folder, "first", steps=2)
    variant = Variant(name="changed", recipe="alone", changes=("loss.ctc=0.5",))
    return load_entrants(
        folder=folder, recipes=("alone", "second", "first"), variants=(variant,), **more
    )


# --- results --------------------------------------------------------------------------------------


def make_marks(split: Any, share: float, *, n: int = 20, seed: int = 0) -> dict[str, Any]:
    """Answers of which a share is right, as they are kept."""
    rng = random.Random(seed)
    cells: dict[str, Any] = {}
    for task in build_tasks(split):
        for condition in (CLEAN, NOISY, EMOTIONS):
            if condition in task.conditions:
                marks = "".join("01"[rng.random() < share] for _ in range(n))
                cells.setdefault(condition, {})[task.name] = marks
    return {"exact": cells, "in_any_manner": cells}


def make_result(job: Job, share: float) -> dict[str, Any]:
    """What a job leaves."""
    origin = {"versions": {"blsp": "0"}, "hardware": "a machine"}
    if job.run is None:
        systems = (TEXT_BOUND, CASCADE, SHUFFLED_TEXT)
        return {system: make_marks("test", 0.9) for system in systems} | origin
    if job.what == "test":
        return {SPEECH: make_marks("test", share, seed=job.run.seed)} | origin
    costs = {"seconds": 60.0, "cpu_seconds": 30.0, "operations": 1e12, "trained_weights": 7}
    meters = {"recovered": share, "agreement": 0.8, "similarity": 0.7}
    return {
        SPEECH: make_marks("dev", share, seed=job.run.seed),
        "costs": costs,
        "meters": meters,
        "trained_kinds": ["continue"],
    }


def write_result(shared: Comparison, job: Job, result: dict[str, Any]) -> None:
    """Leave a result where the job would."""
    parts: dict[Path, dict[str, Any]] = {}
    if job.run is None:
        parts[shared.out / YARDSTICKS / "test"] = result
    elif job.what == "test":
        parts[shared.folder(job.run) / "test"] = result
    else:
        parts[shared.folder(job.run)] = {k: v for k, v in result.items() if k != SPEECH}
        if SPEECH in result:
            parts[shared.folder(job.run) / "dev"] = {SPEECH: result[SPEECH]}
    for folder, content in parts.items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULT).write_text(json.dumps(content), encoding="utf-8")


def best_at(rate: float, run: Run) -> float:
    """A share of right answers that is highest at one rate."""
    return 0.8 if run.rate == rate else 0.3
