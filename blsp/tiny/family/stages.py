"""``python -m blsp.tiny.family``: methods of the BLSP family and their rivals, compared fairly.

Four stages, each going on where it stopped: `data` makes speech and conversations, `search` finds
every recipe's learning rate on development data, `run` trains and scores all seeds, `report`
writes `docs/results/family.md`. All that is done lies under `runs/family`, so sessions may end at
any time; the report keeps the results in `docs/results/family.jsonl`, from which a fresh clone goes
on.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from transformers.utils import logging

from blsp.errors import InputError
from blsp.files import atomic_path
from blsp.hardware import choose_cpu_dtype
from blsp.results import write_json
from blsp.tiny.family.data import make_data
from blsp.tiny.family.entrants import DEFAULT, FOLDER, load_entrants
from blsp.tiny.family.figure import draw_figure
from blsp.tiny.family.record import RECORD, restore_record, write_record
from blsp.tiny.family.report import COMMAND, FIGURE, collect, format_page
from blsp.tiny.family.runs import Comparison
from blsp.tiny.family.schedule import (
    MORE_SEEDS,
    SEEDS,
    Plan,
    Results,
    Stage,
    open_workers,
    run_jobs,
)

STAGES = ("data", "search", "run", "report")
SETTINGS = "settings.json"
REPORTS, PAGE = Path("docs/results"), "family.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Do the stages; 1 where a job stopped with an error."""
    options = _parse(argv)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    names = options.recipes.split(",") if options.recipes else None
    shared = Comparison(entrants=load_entrants(names), dtype=settle_dtype(FOLDER))
    if "data" in options.stages:
        print(f"data: {shared.sizes.train:,} training utterances, in {shared.out}", flush=True)
        make_data(shared.out, shared.sizes)
        if restored := restore_record(shared, REPORTS / RECORD):
            print(f"{REPORTS / RECORD}: {restored} results of earlier runs", flush=True)
    plan = Plan(
        entrants=shared.entrants,
        lookup=Results(shared),
        seeds=_read_seeds(options.seeds) or SEEDS,
        more_seeds=() if options.seeds else MORE_SEEDS,
    )
    stages: list[Stage] = [one for one in ("search", "run") if one in options.stages]
    whole = run_stages(plan, shared, stages, workers=options.workers, minutes=options.minutes)
    if "report" in options.stages:
        print(f"written: {write_report(plan, shared, REPORTS, options.default)}")
        write_record(shared, REPORTS / RECORD)
    return 0 if whole else 1


def run_stages(
    plan: Plan, shared: Comparison, stages: Sequence[Stage], *, workers: int, minutes: float
) -> bool:
    """Do the jobs of some stages in processes; false where one stopped with an error."""
    if not plan.ready(stages):
        return True
    with open_workers(shared, workers) as work:
        return run_jobs(plan, stages, work, workers=workers, minutes=minutes, report=_tell)


def write_report(plan: Plan, shared: Comparison, folder: Path, default: str) -> Path:
    """Write page and figure; return the page.

    Raises:
        InputError: nothing is scored yet.
    """
    standing = collect(plan, shared.sizes, default)
    if not standing.rows:
        raise InputError(
            f"{shared.out}: expected runs that are scored on the test, found none; `{COMMAND}` "
            "makes them"
        )
    with atomic_path(folder / PAGE) as temporary:
        temporary.write_text(format_page(standing), encoding="utf-8")
    with atomic_path(folder / FIGURE) as temporary:
        draw_figure(standing, temporary)
    return folder / PAGE


def _tell(line: str) -> None:
    print(line, flush=True)


def settle_dtype(out: Path) -> Literal["bf16", "fp32"]:
    """The type of multiplications: probed once and kept, because runs of two are not compared."""
    path = out / SETTINGS
    if not path.is_file():
        found = "bf16" if "bfloat16" in str(choose_cpu_dtype()) else "fp32"
        write_json(path, {"dtype": found})
    return json.loads(path.read_text(encoding="utf-8"))["dtype"]


def _read_seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(each) for each in text.split(",") if each)
    except ValueError as error:
        raise InputError(f"--seeds: expected numbers such as 0,1,2, found {text!r}") from error


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m blsp.tiny.family", description="Compare the recipes of the family."
    )
    parser.add_argument(
        "stages", nargs="*", metavar="stage", help=f"some of {', '.join(STAGES)}; all by default"
    )
    parser.add_argument("--recipes", default="", help="some recipes or variants, such as blsp,cif")
    parser.add_argument("--seeds", default="", help="such as 0,1, of every recipe alike")
    parser.add_argument("--default", default=DEFAULT, help="what the others are compared with")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="begin no job after so many"
    )
    options = parser.parse_intermixed_args(argv)
    for stage in options.stages:
        if stage not in STAGES:
            raise InputError(f"expected stages among {', '.join(STAGES)}, found {stage!r}")
    options.stages = options.stages or STAGES
    return options
