"""Precision: adapters trained around 16, 8 and 4 bits, each served in all three, as one table.

    blsp bench precision asr runs/sixteen runs/eight runs/four --manifest test.jsonl

The first argument names the benchmark, the others are checkpoints, which know in how many bits
their language model was held in training; whatever follows is for the benchmark. Every cell is a
run folder of its own, so an interrupted table goes on. The first checkpoint in the bits of its
training is what all other cells are compared with, paired and corrected for their number (Holm).
The text bound below is the language model alone: what the bits cost those who only read.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

from blsp.errors import InputError
from blsp.evaluate import write_command
from blsp.files import atomic_path
from blsp.model.restoring import read_trained_bits
from blsp.reporting import report_several
from blsp.results import SPEECH, TEXT_BOUND
from blsp.shipped import program_module
from blsp.systems import locate_checkpoint

BITS = (16, 8, 4)
BENCHMARKS = ("asr", "st", "slu", "ser", "sqa", "reply")
TABLE = "precision.md"

Key = tuple[str, str, str]
"""Task, condition, metric."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve every checkpoint in every precision and score it; returns the exit code."""
    options, rest = _build_parser().parse_known_args(argv)
    if "--bits" in rest:
        raise InputError("--bits: expected none, since every precision is served; leave it out")
    if "--systems" not in rest:
        rest += ["--systems", f"{SPEECH},{TEXT_BOUND}"]
    trained = find_trained(options.checkpoint)
    program = import_module(program_module("eval", options.benchmark))
    for bits, checkpoint in trained.items():
        for served in BITS:
            out = options.out / name_cell(bits, served)
            print(f"trained in {bits} bits, served in {served}", file=sys.stderr)
            call = [str(checkpoint), *rest, "--bits", str(served), "--out", str(out)]
            with redirect_stdout(StringIO()):  # a table each, which the one below repeats
                program.main(call)
    cells = [options.out / name_cell(bits, served) for bits in trained for served in BITS]
    first = next(iter(trained))
    found = report_several(cells, options.out, against=options.out / name_cell(first, first))
    table = build_table(found, list(trained))
    with atomic_path(options.out / TABLE) as temporary:
        command = write_command("precision", argv)
        temporary.write_text(f"{table}\nMade by `{command}`.\n", encoding="utf-8")
    print(f"{table}\nwritten: {options.out / TABLE}, and the report of all runs beside it")
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="blsp bench precision",
        description=(__doc__ or "").partition("\n")[0],
        epilog="All other options are the benchmark's: `blsp bench asr --help`.",
        allow_abbrev=False,
    )
    parser.add_argument("benchmark", choices=BENCHMARKS, help="what is asked")
    parser.add_argument(
        "checkpoint", type=Path, nargs="+", help="folders that blsp train wrote, each other bits"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/eval/precision"), help="(default: %(default)s)"
    )
    return parser


def find_trained(checkpoints: Sequence[Path]) -> dict[int, Path]:
    """Return the bits of the language model in training -> checkpoint.

    Raises:
        InputError: no checkpoint there, or two of the same bits.
    """
    found: dict[int, Path] = {}
    for checkpoint in checkpoints:
        bits = read_trained_bits(locate_checkpoint(checkpoint))
        if bits in found:
            raise InputError(
                f"expected checkpoints trained in different bits, found {found[bits]} and "
                f"{checkpoint} both in {bits}; name one of them"
            )
        found[bits] = checkpoint
    return found


def name_cell(trained: int, served: int) -> str:
    """The run folder of a cell."""
    return f"{trained}-bits-in-{served}"


def build_table(found: Mapping[str, Any], trained: Sequence[int]) -> str:
    """Return Markdown: a table a task and condition, trained down and served across.

    Args:
        found: the comparison of all cells.
        trained: bits, as the rows stand.
    """
    rows = {(_key(row), row["system"], row["run"]): row for row in found["rows"]}
    told = {(_key(one), one["first"]): one for one in found["differences"]}
    metrics = {(task["name"], task["metrics"][0]) for task in found["tasks"]}
    keys = dict.fromkeys(key for key, *_ in rows if (key[0], key[2]) in metrics)
    return "\n".join(_build_one(key, rows, told, trained) for key in keys)


def _build_one(
    key: Key, rows: Mapping[Any, Any], told: Mapping[Any, Any], trained: Sequence[int]
) -> str:
    task, condition, metric = key
    n = next(row["n"] for (one, *_), row in rows.items() if one == key)
    lines = [
        f"{task}, {condition}: {metric} in percent (95 %), n = {n:,}; in brackets how many points "
        "more than the first cell, * where p < 0.05 after Holm",
        "",
        f"| trained in | {' | '.join(f'served in {bits} bits' for bits in BITS)} |",
        f"|---|{'---|' * len(BITS)}",
    ]
    for bits in trained:
        names = [name_cell(bits, served) for served in BITS]
        cells = [
            _show(rows[key, SPEECH, name]) + _show_difference(told.get((key, name)))
            for name in names
        ]
        lines.append(f"| {bits} bits | {' | '.join(cells)} |")
    bound = [rows.get((key, TEXT_BOUND, name_cell(trained[0], served))) for served in BITS]
    if all(bound):
        lines.append(f"| ({TEXT_BOUND}) | {' | '.join(map(_show, bound))} |")
    return "\n".join(lines) + "\n"


def _key(row: Mapping[str, Any]) -> Key:
    return row["task"], row["condition"], row["metric"]


def _show(row: Any) -> str:
    value, low, high = (f"{100 * row[key]:.1f}" for key in ("value", "ci_low", "ci_high"))
    return f"{value} ({low} to {high})"


def _show_difference(found: Any) -> str:
    if found is None:
        return ""
    return f" [{100 * found['difference']:+.1f}{'*' if found['better'] else ''}]"


if __name__ == "__main__":
    sys.exit(main())
