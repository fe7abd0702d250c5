"""COMET of a run's translations, by `comet-score` of an environment of its own.

    blsp bench comet runs/eval/st --program "uvx --from unbabel-comet==2.2.7 comet-score"
    python -m eval.comet runs/eval/st --program /opt/comet/bin/comet-score --systems speech,cascade

COMET (Rei et al., EMNLP 2020) is a network that reads source, translation and reference. Its
package wants an older transformers than ours, so that it cannot be installed beside us: it is
called on three files, the words that were said, what was answered, and the reference. Its scores
are kept in the run folder (`judgements/comet.jsonl`) as they come, about 0 to 1, and stand as rows
`comet` among the others. More options of its own go into `--program`, such as `--gpus 0`. On first
use it loads its model from the hub (2.3 GB).
"""

import argparse
import json
import math
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blsp.errors import InputError
from blsp.judgements import Scorer, Verdict, open_judgements
from blsp.questions import Subject
from blsp.reporting import build_outside_parser, score_outside

COMMAND, PACKAGE = "comet-score", "unbabel-comet"
MODEL = "Unbabel/wmt22-comet-da"
_VERSION = f"from importlib.metadata import version; print(version({PACKAGE!r}))"


def main(argv: Sequence[str] | None = None) -> int:
    """Score a run's translations; returns the exit code."""
    parser = build_outside_parser("comet", __doc__ or "")
    parser.add_argument(
        "--program", default=COMMAND, help=f"how it is called here (default {COMMAND})"
    )
    parser.add_argument("--model", default=MODEL, help=f"(default {MODEL})")
    options = parser.parse_args(argv)
    return score_outside(options, lambda subjects: score(options, subjects))


def score(options: argparse.Namespace, subjects: Sequence[Subject]) -> None:
    """Score the translations that have no score yet.

    Raises:
        InputError: the program is missing, fails or writes something else, or the scores there are
            of another model or version.
    """
    program = shlex.split(options.program)
    if not program or shutil.which(program[0]) is None:
        raise InputError(
            f"--program: expected {COMMAND} or how it is called here, found no program "
            f"{options.program!r}; install {PACKAGE} into an environment of its own, or name it as "
            f'--program "uvx --from {PACKAGE} {COMMAND}"'
        )
    with open_judgements(options.folder, build_scorer(options.model, program)) as judgements:
        todo = [one for one in subjects if judgements.count_lacking(one.key)]
        if todo:
            print(f"scoring {len(todo):,} translations with {options.program}", file=sys.stderr)
            scores = run_program(program, options.model, todo)
            judgements.append(
                [
                    Verdict(**one.key._asdict(), raw=repr(value), score=value)
                    for one, value in zip(todo, scores, strict=True)
                ]
            )


def build_scorer(model: str, program: Sequence[str]) -> Scorer:
    """Return who scores; a translation that nobody gave counts as 0."""
    version = find_version(program)
    return Scorer(
        metric="comet",
        signature=f"comet:{model}|version:{version}",
        lowest=0.0,
        highest=1.0,
        about={"program": shlex.join(program), "model": model, "version": version},
    )


def find_version(program: Sequence[str]) -> str:
    """Return the version of the package behind a call, by the Python that would run it.

    `comet-score` has no option that says it. `unknown` where no such Python is found.
    """
    place = [Path(word).name for word in program].index(COMMAND) if _calls(program) else -1
    if place > 0:  # `uvx --from unbabel-comet comet-score`: the same with `python`
        python = [*program[:place], "python"]
    elif place == 0:
        python = [str(Path(shutil.which(program[0]) or COMMAND).resolve().with_name("python"))]
    else:
        return "unknown"
    try:
        done = subprocess.run([*python, "-c", _VERSION], capture_output=True, text=True)
    except OSError:
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else "unknown"


def _calls(program: Sequence[str]) -> bool:
    return any(Path(word).name == COMMAND for word in program)


def run_program(program: Sequence[str], model: str, subjects: Sequence[Subject]) -> list[float]:
    """Return a score for each translation, in their order.

    Raises:
        InputError: the program ended with an error, or wrote no score for each.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out = folder / "scores.json"
        texts = {
            "-s": [one.words for one in subjects],
            "-t": [one.key.answer for one in subjects],
            "-r": [one.references[0] for one in subjects],
        }
        words = list(program)
        for option, lines in texts.items():
            path = folder / f"{option[1:]}.txt"
            # A line each, whatever breaks lines inside of a text.
            joined = "".join(" ".join(line.split()) + "\n" for line in lines)
            path.write_text(joined, encoding="utf-8")
            words += [option, str(path)]
        words += ["--model", model, "--to_json", str(out), "--quiet"]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
            raise InputError(
                f"{shlex.join(program)}: expected scores, found exit status {done.returncode} "
                f"({said[:160]}); call it by hand to see more"
            )
        return read_scores(out, len(subjects), shlex.join(program))


def read_scores(path: Path, count: int, program: str) -> list[float]:
    """Read what `--to_json` wrote: `{FILE: [{"src", "mt", "ref", "COMET": score}, ...]}`.

    Raises:
        InputError: it is no such file, or has not so many scores.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        (rows,) = found.values()
        scores = [float(row["COMET"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{program}: expected a JSON file with a score of each translation, found none that "
            f"can be read ({error}); name {COMMAND} of {PACKAGE} 2"
        ) from error
    if len(scores) != count or not all(map(math.isfinite, scores)):
        raise InputError(
            f"{program}: expected {count} scores that are numbers, found {len(scores)}, of which "
            f"{sum(map(math.isfinite, scores))} are; name {COMMAND} of {PACKAGE} 2"
        )
    return scores


if __name__ == "__main__":
    sys.exit(main())
