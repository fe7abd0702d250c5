"""The results of all jobs in one file beside the page, and back from it.

With it the page can be made anew, and a recipe of one's own be put beside the others, without
training those again. Weights are not kept: a run whose result alone is there, and from which
something is still to begin, is trained again. Results of a recipe or of data that have changed
since are passed over. Folders of results enter; one file leaves, or the other way round.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from blsp.files import atomic_path
from blsp.results import write_json
from blsp.tiny.family.runs import RESULT, Comparison, Result, Run, describe_origin, read_result
from blsp.tiny.family.scoring import YARDSTICKS, describe_test

RECORD = "family.jsonl"
PLACE = "place"
"""Key of a line: the folder of the result in that of the comparison."""
PARTS = ("", "dev", "test")
"""Folders of a run's results."""
_YARDSTICKS = f"{YARDSTICKS}/test"


def write_record(shared: Comparison, out: Path) -> int:
    """Write all results of the entrants, one a line; returns how many."""
    folders = [shared.out / _YARDSTICKS, *_find_folders(shared)]
    lines = []
    for folder in folders:
        if (found := read_result(folder)) is not None:
            row = {PLACE: folder.relative_to(shared.out).as_posix(), **found}
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    with atomic_path(out) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
    return len(lines)


def _find_folders(shared: Comparison) -> Iterator[Path]:
    for name in shared.entrants:
        for run in sorted((shared.out / name).glob("lr-*/seed-*")):
            yield from (run / part for part in PARTS)


def restore_record(shared: Comparison, record: Path) -> int:
    """Put results where their jobs would leave them, unless something is there; returns how many.

    A run's results are taken if its recipe, the data and the questions are what they were made
    from.
    """
    if not record.is_file():
        return 0
    rows = map(json.loads, record.read_text(encoding="utf-8").splitlines())
    results: dict[str, Result] = {row.pop(PLACE): row for row in rows}
    yardsticks = results.get(_YARDSTICKS)
    if yardsticks is None or yardsticks["made_from"] != describe_test(shared):
        return 0  # other questions, or other recordings
    places = [_YARDSTICKS, *_places_of(shared, results)]
    missing = [each for each in places if not (shared.out / each / RESULT).exists()]
    for place in missing:
        (shared.out / place).mkdir(parents=True, exist_ok=True)
        write_json(shared.out / place / RESULT, results[place])
    return len(missing)


def _read_runs(shared: Comparison, results: dict[str, Result]) -> Iterator[Run]:
    for row in results.values():
        if row.get("entrant") in shared.entrants:
            yield Run(entrant=row["entrant"], rate=row["learning_rate"], seed=row["seed"])


def _places_of(shared: Comparison, results: dict[str, Result]) -> Iterator[str]:
    """Yield the places of runs that would come out the same today, and that nobody began anew."""
    known = set(_read_runs(shared, results))
    for run in sorted(known, key=lambda run: run.place):
        name = shared.entrants[run.entrant].begins_from
        earlier = [one for one in known if (one.entrant, one.seed) == (name, run.seed)]
        origins = [describe_origin(shared, run, before) for before in earlier or [None]]
        is_new = not shared.folder(run).exists()
        if is_new and results[run.place]["made_from"] in origins:
            places = [f"{run.place}/{part}".rstrip("/") for part in PARTS]
            yield from (place for place in places if place in results)
