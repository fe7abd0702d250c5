"""What systems answered: JSON lines that a run appends to, so that a killed one goes on.

One file a system lies in `predictions/`. A line has `id, system, task, condition, reference,
prediction`, `finish_reason` where the answer was generated (`length`: cut at the limit), `group`
where answers are compared with each other, and `speaker` where the manifest knows it. Texts are
kept as they came, scores are computed from these files and from nothing else. What a
file of answers from elsewhere lacks is kept as an empty one with the `finish_reason` `missing`, so
that it counts as wrong.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from blsp.errors import InputError

FOLDER = "predictions"
MISSING = "missing"
"""In place of a `finish_reason`: nobody answered."""

Cell = tuple[str, str, str]
"""System, task, condition."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """One answer of one system about one utterance."""

    id: str
    system: str
    task: str
    condition: str
    reference: str
    prediction: str
    finish_reason: str | None = None
    group: str | None = None
    """What it is compared within."""
    speaker: str | None = None

    @property
    def cell(self) -> Cell:
        """Where it belongs."""
        return self.system, self.task, self.condition


class PredictionLog:
    """The predictions of a run folder, in memory and on disk."""

    def __init__(self, folder: Path) -> None:
        """Read what is there, without a line that a killed process left half-written.

        Raises:
            InputError: a line that is no prediction.
        """
        self.folder = folder / FOLDER
        self._cells: dict[Cell, dict[str, Prediction]] = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            for prediction in read_predictions(path):
                self._keep(prediction)

    def _keep(self, prediction: Prediction) -> None:
        self._cells.setdefault(prediction.cell, {})[prediction.id] = prediction

    def append(self, predictions: Iterable[Prediction]) -> None:
        """Write predictions and keep them; they are on disk when this returns."""
        by_system: dict[str, list[Prediction]] = {}
        for prediction in predictions:
            by_system.setdefault(prediction.system, []).append(prediction)
            self._keep(prediction)
        self.folder.mkdir(parents=True, exist_ok=True)
        for system, rows in by_system.items():
            append_lines(
                self.folder / file_name(system),
                [{k: v for k, v in asdict(row).items() if v is not None} for row in rows],
            )

    def get(self, cell: Cell) -> dict[str, Prediction]:
        """Id -> prediction of a system, task and condition, sorted by id."""
        return dict(sorted(self._cells.get(cell, {}).items()))

    def cells(self) -> list[Cell]:
        """Everything that has a prediction."""
        return list(self._cells)


def file_name(system: str) -> str:
    """`shuffled audio` -> `shuffled_audio.jsonl`; other signs than letters, digits, - become _."""
    return "".join(c if c.isalnum() or c == "-" else "_" for c in system) + ".jsonl"


def read_predictions(path: Path) -> list[Prediction]:
    """Return the predictions of a file; keys it does not know are passed over.

    Raises:
        InputError: a line that is no prediction, with file and line.
    """
    known = {each.name for each in fields(Prediction)}
    found = []
    for number, line in enumerate(read_whole_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            found.append(Prediction(**{key: row[key] for key in known if key in row}))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{path}:{number}: expected a prediction (id, system, task, condition, reference, "
                f"prediction), found {line[:60]!r}; delete the line and run again"
            ) from error
    return found


def read_whole_lines(path: Path) -> list[str]:
    """Return the lines of a file; a last one without its end may still be on its way."""
    return path.read_bytes().rpartition(b"\n")[0].decode().split("\n")


def append_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add JSON objects to a file, a line each; they are on disk when this returns.

    A line that a killed process left half-written is cut off before.
    """
    with path.open("ab") as file:
        file.truncate(_find_end(path))
        file.write("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode())
        file.flush()
        os.fsync(file.fileno())


def _find_end(path: Path) -> int:
    """Where the last whole line ends."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size and file.seek(size - 1) and file.read(1) == b"\n":
            return size
        file.seek(0)
        return file.read().rfind(b"\n") + 1
