"""SLURP's own scores of a file of predictions, as its authors' tool gives them.

    blsp bench slurp slurp/dataset/slurp/test.jsonl predictions.jsonl

Both files are in the corpus's formats: its `test.jsonl`, and a line `{"file", "scenario", "action",
"entities": [{"type", "filler"}]}` a recording. The authors' tool passes over recordings that nobody
predicted; beside its numbers stand those that count them as missed. Nothing is heard here: it is
the cheapest check that `blsp bench slu --slots` scores as the corpus does.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from blsp.corpora import read_lines
from blsp.errors import InputError
from blsp.metrics import Frame, measure, slurp_scores
from blsp.rows import parse_line

NAMES = ("scenario_f1", "action_f1", "intent_f1", "span_f1", "word_f1", "char_f1", "slu_f1")


def main(argv: Sequence[str] | None = None) -> int:
    """Score; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="blsp bench slurp", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("gold", type=Path, help="test.jsonl of the corpus")
    parser.add_argument("predictions", type=Path, help="a recording a line")
    options = parser.parse_args(argv)
    gold = dict(read_gold(options.gold))
    predicted = dict(read_predictions(options.predictions))
    official = slurp_scores(gold, predicted, official=True)
    strict = slurp_scores(gold, predicted)
    print(f"{'':<12}{'official':>14}{'all counted':>14}  95 % of the latter")
    for name in NAMES:
        found = measure(strict[name])
        interval = f"{100 * found.ci_low:.2f} to {100 * found.ci_high:.2f}"
        print(f"{name:<12}{official[name].value:>14.10f}{found.value:>14.10f}  {interval}")
    print(f"{len(gold):,} recordings, {len(gold.keys() - predicted.keys()):,} not predicted")
    return 0


def read_gold(path: Path) -> Iterator[tuple[str, Frame]]:
    """Yield every recording with what was meant in it; fillers are the words as they were said.

    Raises:
        InputError: a line that is no sentence of SLURP.
    """
    for where, row in _read(path):
        try:
            words = [token["surface"].lower() for token in row["tokens"]]
            slots = tuple(
                (one["type"], " ".join(words[at] for at in one["span"])) for one in row["entities"]
            )
            files = [recording["file"] for recording in row["recordings"]]
            frame = Frame(row["scenario"], row["action"], slots)
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise InputError(
                f"{where}: expected scenario, action, tokens, entities and recordings, found "
                f"{error!r}; use the corpus's own file"
            ) from error
        for file in files:
            yield file, frame


def read_predictions(path: Path) -> Iterator[tuple[str, Frame]]:
    """Yield every recording with what was predicted.

    Raises:
        InputError: a line that is no prediction.
    """
    for where, row in _read(path):
        try:
            slots = tuple((one["type"], one["filler"]) for one in row["entities"])
            yield row["file"], Frame(row["scenario"], row["action"], slots)
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{where}: expected file, scenario, action and entities with type and filler, "
                f"found {error!r}; write them"
            ) from error


def _read(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in read_lines(path):
        if line.strip():
            row, faults = parse_line(line.encode())
            if row is None:
                raise InputError(f"{path}:{number}: {faults[0]}")
            yield f"{path}:{number}", row


if __name__ == "__main__":
    sys.exit(main())
