"""What a long run has finished so far, so that killing it loses one batch and doubles nothing.

`OUT.journal` lies beside the output until that is whole. Its first line is the plan: all that
decides the rows, by name. Every further line is one finished batch; a line cut short by a kill is
dropped, and its batch is done again. A run with another plan is refused, because its rows would not
belong together, and so is a second run on the same output. Processes that share the work have a
journal each (`OUT.journal.1`, ...) and read those of all, so that a run may go on with more of them
or fewer; the last one to end writes the output. Batches enter, the rows of all of them leave;
meanwhile only their places are in memory.
"""

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from glob import escape
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from blsp.errors import InputError
from blsp.hardware import find_ranks
from blsp.locking import HeldError, hold
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


def find_journals(out: Path) -> list[Path]:
    """The journals of all processes that worked on an output."""
    first = journal_path(out)
    others = sorted(first.parent.glob(f"{escape(first.name)}.*"))
    return [path for path in (first, *others) if path.is_file()]


def find_finished(out: Path, plan: Plan) -> Meta | None:
    """Return the side file of an output that is whole already; None where there is work to do.

    Raises:
        InputError: there is an output of another plan, or of nobody knows which.
    """
    if not out.exists() or find_journals(out):
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
    """The batches that are done. A context manager: within it nobody else writes this journal.

    Args:
        out: the output to be.
        plan: all that decides its rows.
        writer: which of the processes that share the work this is.

    Raises:
        InputError: there is a journal of another plan, another run on this output, or no place to
            write.
    """

    def __init__(self, out: Path, plan: Plan, *, writer: int = 0) -> None:
        self.out, self.plan = out, plan
        self.path = journal_path(out) if writer == 0 else Path(f"{journal_path(out)}.{writer}")
        self.done: dict[int, tuple[Path, int]] = {}
        """Batch -> the journal it is in, and at which byte."""
        self._seen: dict[Path, int] = {}
        self._open = ExitStack()

    def __enter__(self) -> "Journal":
        with ExitStack() as opened:
            opened.enter_context(hold(self.path))
            self.refresh()
            try:
                self._file = opened.enter_context(self.path.open("ab"))
            except OSError as error:
                raise InputError(
                    f"{self.path}: expected a place to write, found: {error.strerror}; choose "
                    "another --out"
                ) from error
            # What follows a last line that was never finished would be lost with it.
            self._file.truncate(self._seen.get(self.path, 0))
            self._file.seek(0, os.SEEK_END)
            if not self._seen.get(self.path):
                self._append({"plan": dict(self.plan)})
            self._open = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, batch: int, rows: list[Any]) -> None:
        """Record a finished batch; it is on disk when this returns."""
        self.done[batch] = (self.path, self._append({"batch": batch, "rows": rows}))

    def read(self, batch: int) -> list[Any]:
        """Return the rows of a finished batch."""
        path, offset = self.done[batch]
        with path.open("rb") as file:
            file.seek(offset)
            return json.loads(file.readline())["rows"]

    def refresh(self) -> None:
        """Look at what all processes have finished by now.

        Raises:
            InputError: a journal of another plan, or something else in its place.
        """
        for path in find_journals(self.out):
            # One that is gone by now was of a process that has written the output since.
            with suppress(FileNotFoundError), path.open("rb") as file:
                offset = file.seek(self._seen.get(path, 0))
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._take(path, offset, line)
                    offset += len(line)
                self._seen[path] = offset

    def remove(self) -> None:
        """Delete the journals of all, once the output is whole."""
        for path in find_journals(self.out):
            path.unlink(missing_ok=True)

    def _take(self, path: Path, offset: int, line: bytes) -> None:
        try:
            row = json.loads(line)
            if offset:
                self.done.setdefault(row["batch"], (path, offset))
                return
            found = row["plan"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: expected the journal of an interrupted run, found {line[:40]!r}; delete "
                "it to begin again"
            ) from error
        _check_plan(path, found, self.plan)

    def _append(self, line: dict[str, Any]) -> int:
        """Write a line to disk; returns the byte at which it begins."""
        offset = self._file.tell()
        self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._seen[self.path] = self._file.tell()
        return offset


def _check_plan(path: Path, found: Any, wanted: Plan) -> None:
    """Refuse to go on with a run of another plan, and name what differs."""
    found = found if isinstance(found, dict) else {}
    for name, value in wanted.items():
        if found.get(name) != value:
            raise InputError(
                f"{path}: expected an interrupted run of the same {name} ({value}), found "
                f"{found.get(name)}; delete the file to begin again, or choose another --out"
            )


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be done, all of it planned before the first answer."""

    plan: Plan
    """All that decides the rows of the output."""
    sifting: Collection[str] = ()
    """What of the plan only decides which results are written: an interrupted run may go on with
    something else there."""
    batches: Sequence[Sequence[int]]
    """The numbers of the items that are worked on together; each from 0 on in one of them."""
    at_once: int = 1
    """Batches, in threads."""
    unit: str
    """What an item is called."""


def finish_output(
    out: Path,
    work: Work,
    do: Callable[[Sequence[int]], list[Any]],
    write: Callable[[Iterator[Any]], object],
    *,
    announce: Callable[[int], object] = lambda _: None,
) -> Meta | None:
    """Do what is not done yet of an output's items, and write it when all of them are.

    Under `accelerate launch` each process does its part of the batches, and the last one to end
    writes.

    Args:
        out: the output; one that is whole already is left as it is.
        work: what is to be done.
        do: a batch -> what becomes of each of its items, as JSON.
        write: writes output and side file, given what became of all items in their order.
        announce: told how many items are to be done, before the first.

    Returns:
        The side file of the output; None where other processes have items to come.

    Raises:
        InputError: another run is on `out`, or it (whole or interrupted) is of another plan.
    """
    finished = find_finished(out, work.plan)
    if finished is not None:
        return finished
    ranks, batches = find_ranks(), work.batches
    plan = {name: value for name, value in work.plan.items() if name not in work.sifting}
    with Journal(out, plan, writer=ranks.rank) as journal:
        total = sum(map(len, batches))
        done = sum(len(batches[number]) for number in journal.done)
        announce(total - done)
        quiet = True if ranks.rank else None  # None: only on a terminal
        with tqdm(initial=done, total=total, unit=f" {work.unit}", disable=quiet) as progress:

            def finish(number: int, rows: list[Any]) -> None:
                journal.add(number, rows)
                progress.update(len(rows))

            mine = range(ranks.rank, len(batches), ranks.count)
            todo = [number for number in mine if number not in journal.done]
            do_at_once(todo, lambda number: do(batches[number]), finish, work.at_once)
        journal.refresh()
        if len(journal.done) < len(batches):
            return None
        try:
            with hold(out):
                if find_journals(out):  # else another process was as late, and has just written it
                    write(_read_in_order(journal, batches))
                    journal.remove()
        except HeldError:  # one that was as late is writing it
            return None
    return read_meta(out)


def _read_in_order(journal: Journal, batches: Sequence[Sequence[int]]) -> Iterator[Any]:
    """Yield what became of each item; of many millions only their places are held."""
    place = np.empty((sum(map(len, batches)), 2), dtype=np.int64)
    for number, batch in enumerate(batches):
        place[batch] = [(number, at) for at in range(len(batch))]
    for number, at in place.tolist():
        yield journal.read(number)[at]


def do_at_once(
    numbers: Sequence[int],
    work: Callable[[int], list[Any]],
    finish: Callable[[int, list[Any]], None],
    workers: int,
) -> None:
    """Do so many at once; where one fails, what the others under way come to is kept.

    Args:
        numbers: of the batches.
        work: the number of a batch -> what becomes of its items; called in threads.
        finish: keeps that; called in this thread, in the order in which they end.
        workers: threads; one: this thread alone.
    """
    if workers == 1:  # in this thread, whose settings a model's operations follow
        for number in numbers:
            finish(number, work(number))
        return
    remaining, running = iter(numbers), dict[Future[list[Any]], int]()
    with ThreadPoolExecutor(workers) as threads:
        try:
            while True:
                for number in islice(remaining, 2 * workers - len(running)):
                    running[threads.submit(work, number)] = number
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    finish(running[future], future.result())
                    del running[future]
        except BaseException:
            for future, number in running.items():
                if not future.cancel() and future.exception() is None:
                    finish(number, future.result())
            raise
