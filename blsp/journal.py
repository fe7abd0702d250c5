"""What a long run has finished so far, so that killing it loses one batch and doubles nothing.

`OUT.journal` lies beside the output until that is whole. Its first line is the plan: all that
decides the rows, by name. Every further line is one finished batch; a line cut short by a kill is
dropped, and its batch is done again. A run with another plan is refused, because its rows would not
belong together. Batches enter, the rows of all of them leave.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from blsp.errors import InputError
from blsp.manifest import Meta, read_meta

Plan = Mapping[str, str]
"""What decides the rows -> its value or a digest of it."""


def digest(values: Iterable[Any]) -> str:
    """A hash of JSON values in order."""
    total = hashlib.sha256()
    for value in values:
        total.update(json.dumps(value, sort_keys=True, default=str).encode() + b"\n")
    return total.hexdigest()[:16]


def journal_path(out: Path) -> Path:
    """Where the journal of an output lies."""
    return out.with_name(f"{out.name}.journal")


def find_finished(out: Path, plan: Plan) -> Meta | None:
    """Return the side file of an output that is whole already; None where there is work to do.

    Raises:
        InputError: there is an output of another plan, or of nobody knows which.
    """
    if not out.exists() or journal_path(out).exists():
        return None
    meta = read_meta(out)
    if meta is None or meta.plan != digest([plan]):
        made = f"one made by {meta.command!r}" if meta else "one without a side file"
        raise InputError(
            f"{out}: expected no file yet, or that of the same run, found {made}; delete it or "
            "choose another --out"
        )
    return meta


class Journal:
    """The batches that are done; `done` is batch number -> its rows.

    Raises:
        InputError: there is a journal of another plan, or no place to write.
    """

    def __init__(self, out: Path, plan: Plan) -> None:
        self.path = journal_path(out)
        self.done: dict[int, list[Any]] = {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lines = self._read_whole_lines()
            self._file = self.path.open("a", encoding="utf-8", newline="\n")
        except OSError as error:
            raise InputError(
                f"{self.path}: expected a place to write, found: {error.strerror}; choose another "
                "--out"
            ) from error
        if not lines:
            self._append({"plan": dict(plan)})
            return
        _check_plan(self.path, lines[0].get("plan"), plan)
        self.done = {line["batch"]: line["rows"] for line in lines[1:]}

    def add(self, batch: int, rows: list[Any]) -> None:
        """Record a finished batch; it is on disk when this returns."""
        self._append({"batch": batch, "rows": rows})
        self.done[batch] = rows

    @property
    def row_count(self) -> int:
        """Rows of all finished batches."""
        return sum(map(len, self.done.values()))

    def close(self) -> None:
        """Stop writing; the file stays."""
        self._file.close()

    def remove(self) -> None:
        """Delete the file, once the output is whole."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _append(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read_whole_lines(self) -> list[dict[str, Any]]:
        """Read the journal and cut off a last line that was never finished."""
        if not self.path.exists():
            return []
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))
        try:
            return [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise InputError(
                f"{self.path}: expected the journal of an interrupted run, found {error}; delete "
                "it to begin again"
            ) from error


def _check_plan(path: Path, found: Any, wanted: Plan) -> None:
    """Refuse to go on with a run of another plan, and name what differs."""
    found = found if isinstance(found, dict) else {}
    for name, value in wanted.items():
        if found.get(name) != value:
            raise InputError(
                f"{path}: expected an interrupted run of the same {name} ({value}), found "
                f"{found.get(name)}; delete the file to begin again, or choose another --out"
            )


def run_batches(
    journal: Journal,
    batches: Sequence[Any],
    work: Callable[[int, Any], list[Any]],
    on_batch: Callable[[int], object],
) -> list[Any]:
    """Do the batches that are not done yet; returns the rows of all, in the order of batches.

    Args:
        journal: of the run.
        batches: all of them, as planned.
        work: batch number and batch -> its rows.
        on_batch: told the size of each batch done now.
    """
    for number, batch in enumerate(batches):
        if number not in journal.done:
            journal.add(number, work(number, batch))
            on_batch(len(batch))
    return [row for number in range(len(batches)) for row in journal.done[number]]
