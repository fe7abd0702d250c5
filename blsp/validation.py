"""Looking through a whole manifest or conversations file: all that is wrong, and what is odd.

Reading stops at the first bad line; here every line is looked at, in one pass that keeps no rows. A
path enters, a `Report` leaves.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from blsp.manifest import Kind, find_kind, scan_rows
from blsp.rows import recordings_of, words_of

LONG_SECONDS = 30.0
"""What the encoder hears at once; longer audio is encoded in windows."""


@dataclass(kw_only=True)
class Report:
    """What a whole file holds and what is wrong with it."""

    kind: Kind
    rows: int = 0
    seconds: float = 0.0
    """Audio in all, of the rows without a problem."""
    problem_count: int = 0
    problems: list[str] = field(default_factory=list)
    """The first of them, each one line with file and line."""
    warnings: list[str] = field(default_factory=list)
    """What is allowed but seldom meant, one line a kind of it."""


def validate(path: str | Path, *, limit: int = 20) -> Report:
    """Check every line of a manifest or conversations file and list the first `limit` problems.

    Raises:
        InputError: the file cannot be read.
    """
    report = Report(kind=find_kind(path))
    unusual: dict[str, tuple[int, int]] = {}  # what -> (how often, first line)
    for line in scan_rows(path, report.kind):
        report.rows += 1
        report.problem_count += len(line.problems)
        room = limit - len(report.problems)
        report.problems += [f"{path}:{line.number}: {text}" for text in line.problems[:room]]
        if not line.problems:
            for recording in recordings_of(line.row):
                report.seconds += recording["duration"]
                for what in _find_unusual(recording["duration"], words_of(recording)):
                    count, first = unusual.get(what, (0, line.number))
                    unusual[what] = (count + 1, first)
    if not report.rows:
        report.problem_count = 1
        report.problems = [f"{path}: expected at least one line, found none; write some"]
    report.warnings = [
        f"{path}:{first}: {count} {what}" for what, (count, first) in unusual.items()
    ]
    return report


def _find_unusual(seconds: float, words: str | None) -> Iterator[str]:
    if seconds > LONG_SECONDS:
        yield f"longer than {LONG_SECONDS:.0f} s (encoded in windows; cut it where you can)"
    if words is None:
        yield "without a transcript (enough for generating, not for training)"
    elif not words.strip():
        yield "with an empty transcript (only right for silence)"
    elif " " in words and words.isupper():
        yield "in capitals throughout (a language model reads these poorly; lower-case them)"
