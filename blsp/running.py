"""One run, many systems: the same questions put to a model that hears and to those that read.

Prompts, decoding, batch and encoder are shared, each clip is transcribed once. A `Benchmark` and
models enter; predictions are appended as they come, `results.json` leaves, and a run that was
killed goes on.
"""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blsp.asking import Progress, ask_all
from blsp.benchmark import Benchmark
from blsp.errors import InputError
from blsp.hardware import describe_hardware, peak_memory_mb
from blsp.manifest import Meta
from blsp.metrics import build_normalizer
from blsp.prediction_log import PredictionLog
from blsp.questions import write_questions
from blsp.results import FORMAT_VERSION, RUN, SIMILARITY, SPEECH, read_run, recompute, write_json
from blsp.slices import read_slices, write_slices
from blsp.systems import Audio, Models
from blsp.tasks import NORMALIZED
from blsp.testsets import TestSet


def run(
    benchmark: Benchmark, models: Models, out: str | Path, *, on_progress: Progress | None = None
) -> dict[str, Any]:
    """Ask every system what is not answered yet, score everything, return ``results.json``.

    Args:
        benchmark: what to ask.
        models: who is asked.
        out: folder of the run; one that holds an earlier part of the same run is continued.
        on_progress: told after each write.

    Raises:
        InputError: the folder holds another run, a task without references, unreadable audio.
    """
    started, out = time.monotonic(), Path(out)
    record = _begin(benchmark, models, out)
    _copy_spellings(benchmark, models, out)
    write_questions(
        out, ((s.condition, t, one) for s in benchmark.sets for t, one, _ in benchmark.questions(s))
    )
    if benchmark.by:
        _write_slices(benchmark, models, out)
    ask_all(benchmark, models, PredictionLog(out), on_progress or _silent)
    if models.map_sentence is not None and SPEECH in benchmark.systems:
        _map_one(benchmark.sets[0], models.map_sentence, out)
    record["seconds"] = round(record["seconds"] + time.monotonic() - started, 1)
    record["peak_memory_mb"] = max(record["peak_memory_mb"], peak_memory_mb())
    write_json(out / RUN, record | {"finished": True})
    return recompute(out)


def _write_slices(benchmark: Benchmark, models: Models, out: Path) -> None:
    """Cut durations at the longest of training, also where an earlier part of the run knew it."""
    longest = models.trained_max_seconds
    if longest is None:
        longest = read_slices(out).trained_max_seconds
    write_slices(out, benchmark.slice(longest))


def _map_one(
    test_set: TestSet, map_sentence: Callable[[Audio, str], dict[str, Any]], out: Path
) -> None:
    """Keep the similarity map of the first utterance that has words, for the report."""
    for one in test_set.utterances:
        if one.text:
            audio = test_set.load(one)
            write_json(out / SIMILARITY, map_sentence(audio, one.text))
            return


def _silent(label: str, done: int, total: int) -> None:
    """Say nothing."""


# --- what a run says of itself --------------------------------------------------------------------


def _begin(benchmark: Benchmark, models: Models, out: Path) -> dict[str, Any]:
    """Write ``run.json``, joined with that of an earlier part of the same run."""
    record: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "command": benchmark.command,
        "versions": dict(Meta(command=benchmark.command).versions),
        "hardware": describe_hardware(),
        "seconds": 0.0,
        "peak_memory_mb": 0.0,
        "finished": False,
        "seed": benchmark.seed,
        "models": dict(models.description),
        "systems": list(benchmark.systems),
        "foreign": {one.name: dict(one.description) for one in benchmark.foreign},
        "sets": [one.describe() for one in benchmark.sets],
        "tasks": [task.to_dict() for task in benchmark.scored],
        "without_reference": {
            task.name: {
                one.condition: len(one.utterances) - len(list(benchmark.questions_of(task, one)))
                for one in benchmark.sets
                if not task.conditions or one.condition in task.conditions
            }
            for task in benchmark.tasks
        },
    }
    if (out / RUN).exists():
        record = _continue(read_run(out), record, out)
    write_json(out / RUN, record)
    return record


def _continue(earlier: dict[str, Any], record: dict[str, Any], out: Path) -> dict[str, Any]:
    """Return the record of both runs together.

    Raises:
        InputError: they differ in what their answers depend on.
    """
    # As JSON gives it back, so that a tuple equals the list it became.
    record = json.loads(json.dumps(record))
    _check_same(earlier["seed"], record["seed"], what="seed", out=out)
    if earlier["models"] and record["models"]:  # none: only systems from elsewhere were asked
        _check_same(earlier["models"], record["models"], what="models", out=out)
    joined = record | {key: earlier[key] for key in ("seconds", "peak_memory_mb")}
    joined["models"] = record["models"] or earlier["models"]
    joined["foreign"] = earlier.get("foreign", {}) | record["foreign"]
    known = earlier.get("without_reference", {})
    joined["without_reference"] = known | {
        task: known.get(task, {}) | found for task, found in record["without_reference"].items()
    }
    for name, found in earlier.get("foreign", {}).items():
        _check_same(found, joined["foreign"][name], what=f"system {name!r}", out=out)
    joined["systems"] = list(dict.fromkeys(earlier["systems"] + record["systems"]))
    for key, name in (("sets", "condition"), ("tasks", "name")):
        known = {row[name]: row for row in earlier[key]}
        for row in record[key]:
            _check_same(known.get(row[name], row), row, what=f"{name} {row[name]!r}", out=out)
        joined[key] = list((known | {row[name]: row for row in record[key]}).values())
    return joined


def _check_same(earlier: Any, now: Any, *, what: str, out: Path) -> None:
    if earlier == now:
        return
    detail = ""
    if isinstance(earlier, dict) and isinstance(now, dict):
        keys = earlier.keys() | now.keys()
        key = sorted(key for key in keys if earlier.get(key) != now.get(key))[0]
        detail, earlier, now = f" in {key!r}", earlier.get(key), now.get(key)
    raise InputError(
        f"{out}: expected to continue a run with the same {what}, found it differ{detail}: "
        f"{str(earlier)[:80]} then, {str(now)[:80]} now; choose another folder"
    )


def _copy_spellings(benchmark: Benchmark, models: Models, out: Path) -> None:
    """Keep the normaliser's table with the predictions, so that scores can always be made again."""
    for task in benchmark.scored:
        if NORMALIZED & set(task.metrics):
            build_normalizer(task.language, models.whisper)  # refuses before hours are spent
            table = models.whisper / "normalizer.json"
            if table.is_file() and models.whisper != out:
                shutil.copyfile(table, out / table.name)
