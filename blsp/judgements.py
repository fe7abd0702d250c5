"""Scores that come from outside a run: a judge's verdicts, or another program's numbers.

They cost money or hours, so they are kept and never asked for twice: `judgements/METRIC.jsonl` in
the run folder. Its first line says who scores and how (`Scorer`); each further one is a `Verdict`,
appended as it comes. A file has one scorer, because numbers of two would be mixed into one. A
verdict belongs to the very text of an answer: systems that say the same share it, and an answer
that is another by now has none. Verdicts enter; what `blsp.results` makes rows of leaves, without
anybody being asked again.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np

from blsp.errors import InputError
from blsp.files import atomic_path
from blsp.locking import hold
from blsp.metrics import Statistics
from blsp.metrics.statistics import proportion
from blsp.prediction_log import append_lines, read_whole_lines

FOLDER = "judgements"


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Who scores, and how a number is made of what it says."""

    metric: str
    """What its rows and its file are called."""
    signature: str
    """All that decides a verdict: model, prompt, version. Others are never mixed or compared."""
    lowest: float
    """What an answer gets of which no verdict can be read, or that nobody gave."""
    highest: float
    """Scores are divided by it, so that all values are fractions."""
    times: int = 1
    """Verdicts on each answer."""
    majority: bool = False
    """Whether more than half of the verdicts must be the highest; else their mean counts."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """For people: where it runs, its prompt, its settings, as the first call had them."""


class Key(NamedTuple):
    """What a verdict is about."""

    task: str
    condition: str
    id: str
    answer: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What was said of one answer, once."""

    task: str
    condition: str
    id: str
    answer: str
    raw: str
    """As it came."""
    score: float | None
    """None: it cannot be read."""

    @property
    def key(self) -> Key:
        """The answer it is about."""
        return Key(self.task, self.condition, self.id, self.answer)


class Judgements:
    """All verdicts of one scorer."""

    def __init__(self, path: Path) -> None:
        """Read what is there, but for a last line that is still being written.

        Raises:
            InputError: a line that is no verdict, or a first one that names no scorer.
        """
        self._path = path
        self._found: dict[Key, list[Verdict]] = {}
        for number, line in enumerate(read_whole_lines(path), start=1):
            try:
                row = json.loads(line)
                if number == 1:
                    self.scorer = Scorer(**row)
                else:
                    self._keep(Verdict(**row))
            except (ValueError, TypeError) as error:
                expected = "a verdict" if number > 1 else "who scores"
                raise InputError(
                    f"{path}:{number}: expected {expected}, found {line[:60]!r}; delete the "
                    f"{'line' if number > 1 else 'file'} and score again"
                ) from error

    def _keep(self, verdict: Verdict) -> None:
        self._found.setdefault(verdict.key, []).append(verdict)

    def append(self, verdicts: Sequence[Verdict]) -> None:
        """Write verdicts and keep them; they are on disk when this returns."""
        for verdict in verdicts:
            self._keep(verdict)
        append_lines(self._path, [asdict(verdict) for verdict in verdicts])

    def get(self, key: Key) -> list[Verdict]:
        """Return what was said of an answer so far."""
        return self._found.get(key, [])

    def count_lacking(self, key: Key) -> int:
        """How many verdicts an answer still needs."""
        return max(self.scorer.times - len(self.get(key)), 0)

    def compute(
        self, task: str, condition: str, answers: Mapping[str, str | None]
    ) -> Statistics | None:
        """Return the metric of one system; None where it is not scored, or not to the end.

        Args:
            task: what was asked.
            condition: of which test set.
            answers: id -> the answer, None where nobody gave one.
        """
        keys = _keys(task, condition, answers)
        if not any(keys) or any(self.count_lacking(key) for key in keys if key):
            return None
        scores = [self._combine(key) for key in keys]
        scorer, ids = self.scorer, tuple(answers)
        if scorer.majority:
            hits = [score == scorer.highest for score in scores]
            return proportion(scorer.metric, ids, hits, scorer.signature)
        counts = np.stack([np.array(scores) / scorer.highest, np.ones(len(scores))], axis=1)
        return Statistics(
            metric=scorer.metric,
            ids=ids,
            counts=counts,
            compute=lambda sums: sums[:, 0] / sums[:, 1],
            signature=scorer.signature,
        )

    def _combine(self, key: Key | None) -> float:
        """One score of several verdicts, of which those that cannot be read do not count."""
        scores = [one.score for one in self.get(key) if one.score is not None] if key else []
        if not scores:
            return self.scorer.lowest
        if self.scorer.majority:
            most = 2 * scores.count(self.scorer.highest) > len(scores)
            return self.scorer.highest if most else self.scorer.lowest
        return mean(scores)

    def count_unparsed(self, task: str, condition: str, answers: Mapping[str, str | None]) -> int:
        """How many verdicts on a system's answers cannot be read."""
        keys = [key for key in _keys(task, condition, answers) if key]
        return sum(one.score is None for key in keys for one in self.get(key))

    def describe(self) -> dict[str, Any]:
        """The scorer, with the numbers of verdicts and of those that cannot be read."""
        verdicts = [one for found in self._found.values() for one in found]
        return asdict(self.scorer) | {
            "verdicts": len(verdicts),
            "unparsed": sum(one.score is None for one in verdicts),
        }


def _keys(task: str, condition: str, answers: Mapping[str, str | None]) -> list[Key | None]:
    """What is judged, None where nobody answered."""
    return [
        None if text is None else Key(task, condition, identity, text)
        for identity, text in answers.items()
    ]


def read_judgements(folder: Path) -> list[Judgements]:
    """Return the judgements of a run folder by the names of their metrics.

    Raises:
        InputError: a file that holds something else.
    """
    return [Judgements(path) for path in sorted((folder / FOLDER).glob("*.jsonl"))]


@contextmanager
def open_judgements(folder: Path, scorer: Scorer) -> Iterator[Judgements]:
    """Within the block verdicts can be added; nobody else does so meanwhile.

    Args:
        folder: of the run.
        scorer: who scores; verdicts of an earlier call are gone on from.

    Raises:
        InputError: the verdicts there are another scorer's, or another process adds to them.
    """
    path = folder / FOLDER / f"{scorer.metric}.jsonl"
    with hold(path):
        if not path.exists():
            with atomic_path(path) as temporary:
                head = json.dumps(asdict(scorer), ensure_ascii=False)
                temporary.write_text(f"{head}\n", encoding="utf-8")
        judgements = Judgements(path)
        _check_same(path, judgements.scorer, scorer)
        yield judgements


def _check_same(path: Path, earlier: Scorer, now: Scorer) -> None:
    if earlier.signature != now.signature:
        raise InputError(
            f"{path}: expected verdicts of {now.signature}, found those of {earlier.signature}, "
            "which are never mixed; move the file away, or give the rubric a name of its own"
        )
