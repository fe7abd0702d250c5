"""Scores of a run folder: `predictions/` and `run.json` in, `results.json` out, at any time again.

`run.json` says what was asked and with what (tasks, test sets, systems, models, decoding, command,
versions, time, memory); `results.json` repeats that and adds:

- `rows`: `system, task, condition, metric, value, ci_low, ci_high, n, held_out`, and how the number
  and its interval were made, `signature` and `interval`. All values are fractions. Where the
  manifest names several speakers, `by_speaker` (`n, ci_low, ci_high`) is the interval that draws
  speakers.
- `slices`: the same of parts of a test set: `by` (a key of the manifest, or `duration`) and `slice`
  (its value), with `system, task, condition, metric, value, ci_low, ci_high, n`.
- `comparisons`: the `first` system, which is the speech model or else one from elsewhere, minus the
  `second` on the same utterances, paired, with `difference, ci_low, ci_high, p_value, n`;
  `p_randomization` and, of what is right or wrong, `p_mcnemar` (else null), two tests beside the
  bootstrap's; and `ratio`, its value over the other's (null for error rates, whose ratio says
  little, and over 0).
- `checks`: whether shuffled audio scores inside the interval of shuffled transcripts; a `better`
  one means that the answer reaches the model by another way than the sound.
- `counts` a system, task and condition: `n, missing, truncated, empty`, `invalid` where a label, a
  letter or a JSON object is read out of answers, `without_words` where an error rate left out
  references, `unparsed` where verdicts of judges could not be read, `without_reference` where
  utterances could not be asked about.
- `scorers`: who gave the scores that come from outside (`blsp.judgements`), by metric; their rows
  and comparisons stand among the others.

Every key is explained in `eval/README.md`. `format_version` grows when a key changes its meaning;
readers pass over keys they do not know.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from blsp.errors import InputError
from blsp.files import atomic_path
from blsp.judgements import Judgements, read_judgements
from blsp.metrics import (
    Normalizer,
    Pairs,
    Statistics,
    build_normalizer,
    cluster,
    compare,
    mcnemar_test,
    measure,
    randomization_test,
)
from blsp.prediction_log import MISSING, Prediction, PredictionLog
from blsp.slices import read_slices, score_slices
from blsp.tasks import (
    ERROR_RATES,
    LOWER_IS_BETTER,
    NORMALIZED,
    Task,
    compute_statistics,
    count_invalid,
)

FORMAT_VERSION = 1
RUN, RESULTS, SIMILARITY = "run.json", "results.json", "similarity.json"

SPEECH, TEXT_BOUND, CASCADE, WHISPER = "speech", "text bound", "cascade", "whisper"
RANDOM, EMPTY = "random", "empty"
SHUFFLED_AUDIO, SHUFFLED_TEXT = "shuffled audio", "shuffled_text"

MAIN = (SPEECH, TEXT_BOUND, CASCADE)
SANITY = (RANDOM, EMPTY, SHUFFLED_AUDIO, SHUFFLED_TEXT)
SYSTEMS = (*MAIN, *SANITY)
"""Every system of a checkpoint, in the order they are shown; systems from elsewhere come after the
main ones. `whisper`, the transcripts that the cascade reads, comes with the cascade."""

TRANSCRIPT = "transcript"
"""The task that Whisper answers for the cascade."""

Scores = dict[str, dict[str, Statistics]]
"""Metric -> system -> statistics, of one task in one condition."""


def recompute(folder: str | Path) -> dict[str, Any]:
    """Score the predictions of a run folder again, write ``results.json`` and return it.

    Raises:
        InputError: no run there, of a newer format, or predictions that cannot be scored.
    """
    folder = Path(folder)
    run = read_run(folder)
    log = PredictionLog(folder)
    results: dict[str, Any] = {"format_version": FORMAT_VERSION}
    results |= {"rows": [], "slices": [], "comparisons": [], "checks": [], "counts": []}
    slices, judged = read_slices(folder), read_judgements(folder)
    results["scorers"] = {one.scorer.metric: one.describe() for one in judged}
    for task, condition in asked(run):
        answers = predictions_of(log, task.name, condition)
        if not any(references_of(answers).values()):
            continue  # not asked yet, or what Whisper heard where nobody wrote transcripts
        scores = compute_scores(task, answers, folder)
        scores |= compute_judged(judged, task, condition, answers)
        where = {"task": task.name, "condition": condition}
        results["rows"] += _rows(scores, where, _speakers(answers), held_out=task.held_out)
        found = score_slices(scores, slices.slices.get(condition, {}))
        results["slices"] += [{**row, **where} for row in found]
        results["comparisons"] += _comparisons(scores, where)
        results["checks"] += _checks(scores, task, where)
        unasked = run.get("without_reference", {}).get(task.name, {}).get(condition, 0)
        for row in _counts(task, answers, scores, where):
            unread = _count_unparsed(judged, row, answers)
            extra = {"unparsed": unread, "without_reference": unasked}
            results["counts"].append(row | {key: n for key, n in extra.items() if n})
    results |= {key: value for key, value in run.items() if key not in results}
    write_json(folder / RESULTS, results)
    return results


def read_run(folder: Path, name: str = RUN) -> dict[str, Any]:
    """Return what a run folder says of itself, or with `RESULTS` what was found.

    Raises:
        InputError: it is no run folder, or one of a newer format.
    """
    path = folder / name
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        version = int(run["format_version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected a JSON object of a run, found none that can be read ({error}); "
            "name a folder that `blsp eval` wrote"
        ) from error
    if version > FORMAT_VERSION:
        raise InputError(
            f"{path}: expected run format {FORMAT_VERSION} or older, found {version}; update blsp"
        )
    return run


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object whole or not at all."""
    with atomic_path(path) as temporary:
        text = json.dumps(content, indent=1, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def asked(run: Mapping[str, Any]) -> Iterator[tuple[Task, str]]:
    """Yield every task with each of its conditions, what Whisper heard last."""
    tasks = [Task(**row) for row in run["tasks"]]
    for task in tasks:
        for test_set in run["sets"]:
            if not task.conditions or test_set["condition"] in task.conditions:
                yield task, test_set["condition"]


def predictions_of(
    log: PredictionLog, task: str, condition: str
) -> dict[str, dict[str, Prediction]]:
    """Return system -> id -> prediction, systems in the order they are shown."""
    foreign = sorted(foreign_of({system for system, *_ in log.cells()}))
    order = (*MAIN, *foreign, *SANITY, WHISPER)
    found = {system: log.get((system, task, condition)) for system in order}
    return {system: answers for system, answers in found.items() if answers}


def foreign_of(systems: Iterable[str]) -> list[str]:
    """Return those of some systems that are not ours, in their order."""
    return [system for system in systems if system not in (*SYSTEMS, WHISPER)]


def compute_scores(
    task: Task, answers: Mapping[str, Mapping[str, Prediction]], folder: Path
) -> Scores:
    """Return the statistics of every metric and system of one task in one condition.

    Systems are scored on the same utterances: those that any has answered. What one of them lacks
    counts as an empty answer.
    """
    return {
        metric: {
            system: compute_statistics(task, metric, pairs, _normalizer(task, metric, folder))
            for system, pairs in _pairs(answers).items()
        }
        for metric in task.metrics
    }


def compute_judged(
    judged: Sequence[Judgements],
    task: Task,
    condition: str,
    answers: Mapping[str, Mapping[str, Prediction]],
) -> Scores:
    """Return the statistics of scores from outside, of the systems that have all of theirs.

    They are of the same utterances as those of `compute_scores`.
    """
    found: Scores = {}
    for one in judged:
        for system, rows in answers.items():
            texts = _texts(answers, rows)
            statistics = one.compute(task.name, condition, texts)
            if statistics is not None:
                found.setdefault(one.scorer.metric, {})[system] = statistics
    return found


def _texts(
    answers: Mapping[str, Mapping[str, Prediction]], rows: Mapping[str, Prediction]
) -> dict[str, str | None]:
    """Id -> what a system answered, None where it did not, of all utterances."""
    given = {i: row.prediction for i, row in rows.items() if row.finish_reason != MISSING}
    return {i: given.get(i) for i in references_of(answers)}


def leads(metric: str, metrics: Sequence[str]) -> bool:
    """Whether a metric stands for a task: its first, or one from outside, which somebody asked for.

    Args:
        metric: of a row.
        metrics: the task's own.
    """
    return metric not in metrics[1:]


def _normalizer(task: Task, metric: str, folder: Path) -> Normalizer | None:
    return build_normalizer(task.language, folder) if metric in NORMALIZED else None


def references_of(answers: Mapping[str, Mapping[str, Prediction]]) -> dict[str, str]:
    """Return id -> reference of every utterance that any system has answered, sorted by id."""
    found = {i: row.reference for rows in answers.values() for i, row in rows.items()}
    return dict(sorted(found.items()))  # sorted: an interval must not depend on who was asked when


def _pairs(answers: Mapping[str, Mapping[str, Prediction]]) -> dict[str, Pairs]:
    references = references_of(answers)
    found = {i: row.group for rows in answers.values() for i, row in rows.items() if row.group}
    groups = tuple(found.get(i, i) for i in references) if found else ()
    return {
        system: Pairs(
            ids=tuple(references),
            references=tuple(references.values()),
            predictions=tuple(rows[i].prediction if i in rows else "" for i in references),
            missing=len(references) - sum(row.finish_reason != MISSING for row in rows.values()),
            groups=groups,
        )
        for system, rows in answers.items()
    }


def _rows(
    scores: Scores, where: Mapping[str, str], speakers: Mapping[str, str], *, held_out: bool
) -> Iterator[dict[str, Any]]:
    for by_system in scores.values():
        for system, statistics in by_system.items():
            measured = asdict(measure(statistics))
            order = ("metric", "value", "ci_low", "ci_high", "n")
            yield {
                "system": system,
                **where,
                **{key: measured.pop(key) for key in order},
                "held_out": held_out,
                **measured,
                **_by_speaker(statistics, speakers),
            }


def _speakers(answers: Mapping[str, Mapping[str, Prediction]]) -> dict[str, str]:
    """Id -> who speaks, of the utterances where that is known."""
    return {i: row.speaker for rows in answers.values() for i, row in rows.items() if row.speaker}


def _by_speaker(statistics: Statistics, speakers: Mapping[str, str]) -> dict[str, Any]:
    """The interval that draws speakers, if all are known and there are several."""
    known = [speakers[each] for each in statistics.ids if each in speakers]
    all_known = statistics.unit == "utterances" and len(known) == len(statistics.ids)
    if not all_known or len(set(known)) < 2:
        return {}
    found = measure(cluster(statistics, speakers, "speakers"))
    return {"by_speaker": {"n": found.n, "ci_low": found.ci_low, "ci_high": found.ci_high}}


def _comparisons(scores: Scores, where: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The system that a run is about (speech, or else the first from elsewhere) minus others."""
    for metric, by_system in scores.items():
        foreign = foreign_of(by_system)
        about = SPEECH if SPEECH in by_system else next(iter(foreign), None)
        for other in (CASCADE, TEXT_BOUND, *foreign):
            if about and other in by_system and other != about:
                pair = by_system[about], by_system[other]
                found = compare(*pair)
                yield {
                    "first": about,
                    "second": other,
                    **where,
                    "metric": metric,
                    "difference": found.difference,
                    "ci_low": found.ci_low,
                    "ci_high": found.ci_high,
                    "p_value": found.p_value,
                    "p_randomization": randomization_test(*pair),
                    "p_mcnemar": mcnemar_test(*pair) if pair[0].proportion else None,
                    "ratio": _ratio(metric, pair[0].value, pair[1].value),
                    "n": found.n,
                }


def _ratio(metric: str, value: float, yardstick: float) -> float | None:
    return value / yardstick if metric not in LOWER_IS_BETTER and yardstick else None


def _checks(scores: Scores, task: Task, where: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for metric, by_system in scores.items():
        if not leads(metric, task.metrics) or not {SHUFFLED_AUDIO, SHUFFLED_TEXT} <= set(by_system):
            continue
        value, around = by_system[SHUFFLED_AUDIO].value, measure(by_system[SHUFFLED_TEXT])
        verdict = _place(value, around.ci_low, around.ci_high, lower=metric in LOWER_IS_BETTER)
        yield {
            "check": f"{SHUFFLED_AUDIO} inside {SHUFFLED_TEXT}",
            **where,
            "metric": metric,
            "value": value,
            "ci_low": around.ci_low,
            "ci_high": around.ci_high,
            "verdict": verdict,
            "passed": verdict == "inside",
        }


def _place(value: float, low: float, high: float, *, lower: bool) -> str:
    """`inside`, `better` or `worse` than an interval."""
    if low <= value <= high:
        return "inside"
    return "better" if (value < low) == lower else "worse"


def _counts(
    task: Task,
    answers: Mapping[str, Mapping[str, Prediction]],
    scores: Scores,
    where: Mapping[str, str],
) -> Iterator[dict[str, Any]]:
    for system, pairs in _pairs(answers).items():
        rows = answers[system].values()
        counts = {
            "n": len(pairs),
            "missing": pairs.missing,
            "truncated": sum(row.finish_reason == "length" for row in rows),
            "empty": sum(
                not row.prediction.strip() and row.finish_reason != MISSING for row in rows
            ),
        }
        if (invalid := count_invalid(task, pairs)) is not None:
            counts["invalid"] = invalid
        for metric in ERROR_RATES & set(task.metrics):
            counts["without_words"] = len(pairs) - len(scores[metric][system].ids)
        yield {"system": system, **where, **counts}


def _count_unparsed(
    judged: Sequence[Judgements],
    where: Mapping[str, Any],
    answers: Mapping[str, Mapping[str, Prediction]],
) -> int:
    """How many verdicts on a system's answers no judge's rubric can read."""
    texts = _texts(answers, answers[where["system"]])
    return sum(one.count_unparsed(where["task"], where["condition"], texts) for one in judged)
