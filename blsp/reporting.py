"""What `blsp report` does, and programs that let somebody else score a run (judges, COMET).

A run folder enters; its scores are computed again, printed and written with all that is made of
them: `results.json`, `report.html`, cards. Several folders leave one comparison.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from blsp.cards import build_markdown, write_cards
from blsp.comparison import compare_runs
from blsp.comparison_page import build_comparison_page
from blsp.errors import InputError
from blsp.files import atomic_path
from blsp.questions import Subject, find_subjects
from blsp.report import REPORT, write_report
from blsp.results import SHUFFLED_AUDIO, SHUFFLED_TEXT, recompute, write_json

COMPARISON = "comparison.json"


def report_main(argv: Sequence[str]) -> int:
    """`blsp report`: score a run's predictions again and write its page; or compare several."""
    parser = argparse.ArgumentParser(
        prog="blsp report",
        description="Score a run's predictions again and write report.html; of several runs, say "
        "which differ.",
    )
    parser.add_argument("folder", type=Path, nargs="+", help="written by blsp eval")
    parser.add_argument("--training", type=Path, help="folder whose log.jsonl is shown too")
    parser.add_argument(
        "--out", type=Path, help="folder for several runs' page (default: runs/report)"
    )
    parser.add_argument(
        "--against", type=Path, help="compare with this one of several runs, not every pair"
    )
    parser.add_argument(
        "--with-audio", action="store_true", help="put the recordings of the worst answers in it"
    )
    options = parser.parse_args(argv)
    if len(options.folder) > 1:
        if options.training or options.with_audio:
            raise InputError(
                "--training, --with-audio: expected one run, found several; report each alone too"
            )
        out = options.out or Path("runs/report")
        found = report_several(options.folder, out, against=options.against)
        print(build_markdown(found))
        print(f"written: {out / COMPARISON}, {out / REPORT}")
        return 0
    (folder,) = options.folder
    if options.out or options.against:
        raise InputError(
            "--out, --against: expected several runs, found one; its page lies in its own folder"
        )
    _report_one(folder, training=options.training, with_audio=options.with_audio)
    return 0


def _report_one(folder: Path, *, training: Path | None = None, with_audio: bool = False) -> None:
    """Score a run's predictions again, print the table and write all that is made of it."""
    results = recompute(folder)
    print(format_results(results))
    write_cards(folder, results)
    print(f"\nwritten: {write_report(folder, training=training, with_audio=with_audio)}")


def score_outside(options: argparse.Namespace, score: Callable[[Sequence[Subject]], object]) -> int:
    """Let somebody else score the answers of a run, report it, return the exit code.

    Args:
        options: of `build_outside_parser`.
        score: keeps scores of subjects in the run folder.

    Raises:
        InputError: no run, task or system of these names, or what `score` finds wrong.
    """
    systems = options.systems.split(",") if options.systems else ()
    score(find_subjects(options.folder, options.task, systems))
    _report_one(options.folder)
    return 0


def build_outside_parser(name: str, description: str) -> argparse.ArgumentParser:
    """Return the arguments of every program that has a run scored by somebody else.

    Args:
        name: of the program.
        description: its docstring, of which the first line is shown.
    """
    parser = argparse.ArgumentParser(
        prog=f"blsp bench {name}", description=description.partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("folder", type=Path, help="written by blsp eval or bench")
    parser.add_argument("--task", help="which answers (default: the run's only task)")
    parser.add_argument("--systems", help="whose answers, with commas (default: all)")
    return parser


def report_several(
    folders: Sequence[Path], out: Path, *, against: Path | None = None
) -> dict[str, Any]:
    """Compare runs, write `comparison.json` and its page into a folder, return what was found.

    Raises:
        InputError: see `compare_runs`.
    """
    found = compare_runs(folders, against=against)
    write_json(out / COMPARISON, found)
    write_cards(out, found)
    with atomic_path(out / REPORT) as temporary:
        temporary.write_text(build_comparison_page(found), encoding="utf-8")
    return found


def format_results(results: dict[str, Any]) -> str:
    """Return the rows as a table of text, and what the sanity checks found wrong."""
    wide = max([12, *(len(row["condition"]) for row in results["rows"])]) + 2
    head = f"{'task':<18}{'condition':<{wide}}{'metric':<21}{'system':<16}"
    lines = [f"{head}{'%':>7}  {'95 %':<16}{'n':>6}"]
    for row in results["rows"]:
        mark = "*" if row["held_out"] else ""
        interval = f"{100 * row['ci_low']:.1f} to {100 * row['ci_high']:.1f}"
        lines.append(
            f"{row['task'] + mark:<18}{row['condition']:<{wide}}{row['metric']:<21}"
            f"{row['system']:<16}{100 * row['value']:>7.1f}  {interval:<16}{row['n']:>6}"
        )
    if any(row["held_out"] for row in results["rows"]):
        lines.append("* nothing of this kind was in the training data")
    for check in results["checks"]:
        if not check["passed"]:
            lines.append(
                f"check: {check['task']}, {check['condition']}: {SHUFFLED_AUDIO} is "
                f"{check['verdict']} than {SHUFFLED_TEXT} ({100 * check['value']:.1f}, expected "
                f"{100 * check['ci_low']:.1f} to {100 * check['ci_high']:.1f})"
            )
    return "\n".join(lines)
