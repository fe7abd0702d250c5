"""Several runs on the same test: scores side by side, and which differences are more than chance.

Runs are compared where they answered the same questions about the same utterances, and refused
where they differ in what is right. Every pair of entrants is tested on the metric that stands for a
task, and on scores from outside (a judge's, COMET's) where all are the same scorer's, by the paired
bootstrap, and the p values are corrected for their number (Holm). Run folders enter; one JSON
object leaves (`comparison.json`):

- `runs`: `name, folder, command` of each; `rows`: `run, system, task, condition, metric, value,
  ci_low, ci_high, n`.
- `differences`: `first` minus `second`, which are entrants, with `task, condition, metric,
  difference, ci_low, ci_high, p_value, p_holm, n, better` (an entrant, or null where the two are
  not told apart) and `words`, the same as a sentence.
- `notes`: what was left out or differs, in words.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

from blsp.errors import InputError
from blsp.judgements import Judgements, read_judgements
from blsp.metrics import Statistics, compare, holm
from blsp.prediction_log import PredictionLog
from blsp.results import (
    FORMAT_VERSION,
    MAIN,
    SPEECH,
    Scores,
    asked,
    compute_judged,
    compute_scores,
    foreign_of,
    predictions_of,
    recompute,
    references_of,
)
from blsp.tasks import LOWER_IS_BETTER, Task

LEVEL = 0.05
"""Differences whose corrected p value is below it are told apart."""
RESAMPLES = 10_000
"""More than for a single comparison: no p value below 1 / RESAMPLES can be seen, and Holm
multiplies it by the number of differences."""

Cell = tuple[str, str]
"""Task and condition."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder, read."""

    name: str
    folder: Path
    results: Mapping[str, Any]
    tasks: Mapping[Cell, Task]
    log: PredictionLog
    judged: Sequence[Judgements]
    """Scores from outside."""


def compare_runs(folders: Sequence[Path], *, against: Path | None = None) -> dict[str, Any]:
    """Return what a comparison of run folders finds; see the module.

    Args:
        folders: of the runs.
        against: the one of them that the others are compared with; None compares every pair.

    Raises:
        InputError: a folder that is no run, no question that all were asked, or the same question
            with other utterances, references, labels or metrics; `against` is none of them.
    """
    if against is not None and against not in folders:
        raise InputError(f"expected one of the runs to compare against, found {against}; name it")
    loaded = _load_runs(folders)
    unlike = _find_unlike(loaded)
    runs = [_without(run, unlike) for run in loaded]
    shared = [cell for cell in runs[0].tasks if all(cell in run.tasks for run in runs)]
    if not shared:
        raise InputError(
            "expected a task that all runs were asked, found none in "
            f"{', '.join(map(str, folders))}; score them with the same benchmark and conditions"
        )
    for run in runs[1:]:
        for cell in shared:
            _check_alike(runs[0], run, cell)
    baseline = None if against is None else runs[folders.index(against)]
    differences = [one for cell in shared for one in _differences(runs, cell, baseline)]
    corrected = holm([one["p_value"] for one in differences])
    return {
        "format_version": FORMAT_VERSION,
        "runs": [
            {"name": run.name, "folder": str(run.folder), "command": run.results.get("command", "")}
            for run in runs
        ],
        "tasks": [runs[0].tasks[cell].to_dict() for cell in _first_of_tasks(shared)],
        "rows": [row for run in runs for row in _rows(run, shared)],
        "differences": [_judge(one, p) for one, p in zip(differences, corrected, strict=True)],
        "notes": [*_left_out(runs, shared), *_prompts(runs, shared), *_scorers(unlike)],
    }


def _load_runs(folders: Sequence[Path]) -> list[Run]:
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    if len(set(names)) < len(names):
        raise InputError(f"expected different run folders, found {names}; name each once")
    runs = []
    for name, folder in zip(names, folders, strict=True):
        results, log = recompute(folder), PredictionLog(folder)
        answered = {(row["task"], row["condition"]) for row in results["rows"]}
        tasks = {(t.name, c): t for t, c in asked(results) if (t.name, c) in answered}
        tasks = {cell: t for cell, t in tasks.items() if _systems(log, cell)}
        judged = read_judgements(folder)
        runs.append(
            Run(name=name, folder=folder, results=results, tasks=tasks, log=log, judged=judged)
        )
    return runs


def _find_unlike(runs: Sequence[Run]) -> dict[str, dict[str, list[str]]]:
    """Metric from outside -> signature -> runs, of those that were not scored alike in all."""
    found: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        for one in run.judged:
            by_signature = found.setdefault(one.scorer.metric, {})
            by_signature.setdefault(one.scorer.signature, []).append(run.name)
    return {metric: signatures for metric, signatures in found.items() if len(signatures) > 1}


def _without(run: Run, metrics: Collection[str]) -> Run:
    """A run as if it had not been scored by some metrics from outside."""
    rows = [row for row in run.results["rows"] if row["metric"] not in metrics]
    judged = [one for one in run.judged if one.scorer.metric not in metrics]
    return replace(run, results={**run.results, "rows": rows}, judged=judged)


def _systems(log: PredictionLog, cell: Cell) -> list[str]:
    """The main systems and those from elsewhere that answered."""
    found = predictions_of(log, *cell)
    return [name for name in found if name in MAIN or foreign_of([name])]


def _entrants(run: Run, cell: Cell) -> dict[str, str]:
    """Name -> system, of what a run is about: speech and systems from elsewhere, or else all."""
    found = _systems(run.log, cell)
    about = [name for name in found if name == SPEECH or foreign_of([name])] or found
    return {name_entrant(run.name, system): system for system in about}


def name_entrant(run: str, system: str) -> str:
    """How a system of a run is called beside those of others."""
    return run if system == SPEECH else f"{run}: {system}"


def _check_alike(one: Run, other: Run, cell: Cell) -> None:
    where = f"{one.folder} and {other.folder}: expected the same"
    asked_of = f"in task {cell[0]!r}, condition {cell[1]!r}"
    for key in ("metrics", "labels", "reference", "language"):
        first, second = (getattr(run.tasks[cell], key) for run in (one, other))
        if first != second:
            raise InputError(
                f"{where} {key} {asked_of}, found {str(first)[:60]} and {str(second)[:60]}; score "
                "both alike"
            )
    first, second = (references_of(predictions_of(run.log, *cell)) for run in (one, other))
    unlike = sorted(i for i in first.keys() | second.keys() if first.get(i) != second.get(i))
    if unlike:
        raise InputError(
            f"{where} utterances {asked_of}, found {len(unlike)} that differ or that one lacks "
            f"(the first is {unlike[0]!r}); score both on the same manifest"
        )


def _first_of_tasks(cells: Sequence[Cell]) -> list[Cell]:
    return list({task: (task, condition) for task, condition in reversed(cells)}.values())[::-1]


def _rows(run: Run, shared: Sequence[Cell]) -> Iterator[dict[str, Any]]:
    keys = ("system", "task", "condition", "metric", "value", "ci_low", "ci_high", "n")
    for row in run.results["rows"]:
        known = row["system"] in MAIN or foreign_of([row["system"]])
        if known and (row["task"], row["condition"]) in shared:
            yield {"run": run.name, **{key: row[key] for key in keys}}


def _differences(runs: Sequence[Run], cell: Cell, baseline: Run | None) -> Iterator[dict[str, Any]]:
    """Every pair of entrants of a task in a condition, on each metric that stands for it; with a
    baseline, the others minus its own."""
    task, condition = cell
    found: dict[str, dict[str, Statistics]] = {}
    for run in runs:
        for metric, by_system in _leading_scores(run, cell).items():
            entrants = _entrants(run, cell).items()
            scored = {name: by_system[system] for name, system in entrants if system in by_system}
            found.setdefault(metric, {}).update(scored)
    yardsticks = _entrants(baseline, cell) if baseline else {}
    for statistics in found.values():
        known = [name for name in yardsticks if name in statistics]
        if baseline and not known:
            continue  # a judge was not asked about it
        for first, second in _pair_up(statistics, known):
            try:
                one = compare(statistics[first], statistics[second], resamples=RESAMPLES)
            except InputError as error:
                raise InputError(f"{first} and {second}, task {task!r}: {error}") from error
            yield {"first": first, "second": second, "task": task, "condition": condition} | {
                key: getattr(one, key)
                for key in ("metric", "difference", "ci_low", "ci_high", "p_value", "n")
            }


def _leading_scores(run: Run, cell: Cell) -> Scores:
    """The statistics of what stands for a task."""
    task, answers = run.tasks[cell], predictions_of(run.log, *cell)
    own = compute_scores(task, answers, run.folder)
    judged = compute_judged(run.judged, task, cell[1], answers)
    return {task.metrics[0]: own[task.metrics[0]]} | judged


def _pair_up(names: Iterable[str], baseline: Collection[str]) -> Iterator[tuple[str, str]]:
    """Every pair of names; with names of a baseline, every other one before each of those."""
    if not baseline:
        return combinations(names, 2)
    return product([name for name in names if name not in baseline], baseline)


def _judge(found: dict[str, Any], corrected: float) -> dict[str, Any]:
    """Add what a difference means after the correction."""
    first_is_lower = found["difference"] < 0
    first_is_better = first_is_lower == (found["metric"] in LOWER_IS_BETTER)
    apart = corrected < LEVEL and found["difference"] != 0
    ahead, behind = found["first"], found["second"]
    if not first_is_better:
        ahead, behind = behind, ahead
    low, middle, high = (100 * found[key] for key in ("ci_low", "difference", "ci_high"))
    said = f"is better than {behind}" if apart else f"is not told apart from {behind}"
    words = (
        f"On {found['task']} ({found['metric']}, {found['condition']}), {ahead} {said}: "
        f"{found['first']} - {found['second']} is {middle:+.1f} points ({low:+.1f} to "
        f"{high:+.1f}), p {corrected:.4f} after Holm."
    )
    return {**found, "p_holm": corrected, "better": ahead if apart else None, "words": words}


def _left_out(runs: Sequence[Run], shared: Sequence[Cell]) -> Iterator[str]:
    for cell in dict.fromkeys(cell for run in runs for cell in run.tasks):
        if cell not in shared:
            lacking = ", ".join(run.name for run in runs if cell not in run.tasks)
            yield f"Left out: {cell[0]} in {cell[1]}, which was not asked in {lacking}."


def _prompts(runs: Sequence[Run], shared: Sequence[Cell]) -> Iterator[str]:
    for cell in _first_of_tasks(shared):
        if len({run.tasks[cell].prompts for run in runs}) > 1:
            yield f"The prompts of {cell[0]} are not the same in all runs."


def _scorers(unlike: Mapping[str, Mapping[str, Sequence[str]]]) -> Iterator[str]:
    for metric, by_signature in unlike.items():
        said = "; ".join(f"{', '.join(names)}: {which}" for which, names in by_signature.items())
        yield f"Left out: {metric}, which was not scored alike in all runs ({said})."
