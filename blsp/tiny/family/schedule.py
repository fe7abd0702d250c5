"""Which runs the comparison takes, in which order, and who does them.

First each recipe is trained at three learning rates and scored on development data; the best one
(for a variant that of its recipe) is then trained with every seed and scored on the test; the two
recipes that are best on development data get more seeds. What is done stands on disk and nowhere
else, so a session may end at any time and the next goes on. Results enter a pure plan; jobs leave,
and workers take them one by one.
"""

import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import mean
from typing import Literal

from blsp.caching import share_caches
from blsp.checkpoint import is_complete
from blsp.locking import hold
from blsp.results import SPEECH
from blsp.tiny.family.entrants import Entrants
from blsp.tiny.family.runs import Comparison, Result, Run, begin_process, read_result, train_run
from blsp.tiny.family.scoring import YARDSTICKS, compute_dev_score, score_run, score_yardsticks
from blsp.trainer import FINAL_FOLDER

RATE_FACTORS = (1 / 3, 1.0, 3.0)
"""Of a recipe's own learning rate."""
SEEDS = (0, 1, 2)
MORE_SEEDS = (3, 4)
"""Of the two best."""
ENCODER_CACHE_GB = 2.0
"""A process, for all its runs."""

FAILED = -1.0
"""The development score of a run that stopped."""

Stage = Literal["search", "run"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker does at once: train a run and score it on dev, score it on the test, or the
    yardsticks, which are of no run."""

    what: Literal["fit", "test", "yardsticks"]
    run: Run | None = None

    def __str__(self) -> str:
        return f"{self.what} {self.run.place}" if self.run else self.what


Lookup = Callable[[Job], Result | None]
"""What a job has left; of a recipe's `fit` the development scores, too."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be done, as far as the results so far tell.

    ``lookup`` is asked again and again: results come while jobs are done.
    """

    entrants: Entrants
    lookup: Lookup
    seeds: tuple[int, ...] = SEEDS
    more_seeds: tuple[int, ...] = MORE_SEEDS

    # --- what is known ----------------------------------------------------------------------------

    def search_runs(self, name: str) -> list[Run]:
        """One run a learning rate; a variant has no search of its own."""
        if self.entrants[name].varies:
            return []
        rates = [float(f"{factor * self.entrants[name].rate:.3g}") for factor in RATE_FACTORS]
        return [Run(entrant=name, rate=rate, seed=0) for rate in rates]

    def dev_score(self, run: Run) -> float | None:
        """None where the run is to come; a run that failed is worse than any."""
        result = self.lookup(Job(what="fit", run=run))
        if result is None:
            return None
        return FAILED if "failed" in result else compute_dev_score(result)

    def best_rate(self, name: str) -> float | None:
        """The learning rate with the best development score, of equal ones the lowest; None while
        the search goes on, or where all of it failed."""
        if recipe := self.entrants[name].varies:
            return self.best_rate(recipe)
        runs = self.search_runs(name)
        scores = [score for run in runs if (score := self.dev_score(run)) is not None]
        if len(scores) < len(runs) or max(scores) == FAILED:
            return None
        return runs[scores.index(max(scores))].rate

    def final_run(self, name: str, seed: int) -> Run | None:
        """The run of a seed at the best rate."""
        rate = self.best_rate(name)
        return None if rate is None else Run(entrant=name, rate=rate, seed=seed)

    def find_best(self, count: int = 2) -> list[str]:
        """The recipes that are best on development data over the first seeds; none while any of
        those is to come."""
        found: dict[str, float] = {}
        for name, one in self.entrants.items():
            if not one.is_recipe or self.has_failed(name):
                continue
            runs = [self.final_run(name, seed) for seed in self.seeds]
            scores = [self.dev_score(run) if run else None for run in runs]
            known = [score for score in scores if score is not None]
            if len(known) < len(scores):
                return []
            found[name] = mean(known)
        return sorted(found, key=lambda name: -found[name])[:count]

    def has_failed(self, name: str) -> bool:
        """Whether no learning rate trained it, or an earlier stage of it."""
        before = self.entrants[name].begins_from
        if before and self.has_failed(before):
            return True
        if recipe := self.entrants[name].varies:
            return self.has_failed(recipe)
        return all(self.dev_score(run) == FAILED for run in self.search_runs(name))

    def before(self, run: Run) -> Run | None:
        """The earlier stage of a run: the same seed at that stage's best rate."""
        name = self.entrants[run.entrant].begins_from
        return self.final_run(name, run.seed) if name else None

    # --- what is to be done -----------------------------------------------------------------------

    def wanted(self, stages: Sequence[Stage]) -> list[Job]:
        """Every job that is known by now, done or not, those of earlier stages first."""
        jobs: dict[Job, None] = {}
        if "search" in stages:
            for name in self.entrants:
                jobs |= dict.fromkeys(Job(what="fit", run=run) for run in self.search_runs(name))
        if "run" in stages:
            jobs[Job(what="yardsticks")] = None
            best = self.find_best()
            for seed in (*self.seeds, *self.more_seeds):
                names = self.entrants if seed in self.seeds else best
                for name in names:
                    jobs |= dict.fromkeys(self._final_jobs(name, seed))
        return list(jobs)

    def _final_jobs(self, name: str, seed: int) -> Iterator[Job]:
        run = self.final_run(name, seed)
        if run is None:
            return
        if before := self.before(run):
            yield Job(what="fit", run=before)
        yield Job(what="fit", run=run)
        yield Job(what="test", run=run)

    def ready(self, stages: Sequence[Stage]) -> list[Job]:
        """What is not done and can begin."""
        return [job for job in self.wanted(stages) if not self.lookup(job) and self._can(job)]

    def _can(self, job: Job) -> bool:
        if job.run is None:
            return True
        if job.what == "test":
            fitted = self.lookup(Job(what="fit", run=job.run))
            yardsticks = self.lookup(Job(what="yardsticks"))
            return fitted is not None and "failed" not in fitted and yardsticks is not None
        if self.entrants[job.run.entrant].begins_from is None:
            return True
        before = self.before(job.run)
        fitted = self.lookup(Job(what="fit", run=before)) if before else None
        return fitted is not None and "failed" not in fitted


# --- on disk --------------------------------------------------------------------------------------


class Results:
    """What jobs have left on disk; a finished one is read once, since it never changes."""

    def __init__(self, shared: Comparison) -> None:
        self.shared = shared
        self._known: dict[Job, Result] = {}

    def __call__(self, job: Job) -> Result | None:
        """See `Lookup`."""
        if job not in self._known and (found := self._read(job)) is not None:
            self._known[job] = found
        return self._known.get(job)

    def _read(self, job: Job) -> Result | None:
        if job.run is None:
            return read_result(self.shared.out / YARDSTICKS / "test")
        folder = self.shared.folder(job.run)
        if job.what == "test":
            return read_result(folder / "test")
        trained = read_result(folder)
        if trained is None or not needs_dev_score(self.shared, job.run, trained):
            return trained
        answered = read_result(folder / "dev")
        return None if answered is None else {**trained, SPEECH: answered[SPEECH]}


def do_job(shared: Comparison, job: Job, before: Run | None) -> None:
    """Do a job; what is done of it already is passed over."""
    if job.run is None:
        score_yardsticks(shared)
    elif job.what == "test":
        _need_checkpoint(shared, job.run, before)
        score_run(shared, job.run, "test")
    else:
        _fit(shared, job.run, before)


def _need_checkpoint(shared: Comparison, run: Run, before: Run | None) -> None:
    """Train a run again of which the record alone is there."""
    folder = shared.folder(run)
    with hold(folder):
        if not is_complete(folder / FINAL_FOLDER):
            shutil.rmtree(folder)
            _fit(shared, run, before)


def _fit(shared: Comparison, run: Run, before: Run | None) -> None:
    if before is not None:
        _need_checkpoint(shared, before, None)
    if needs_dev_score(shared, run, train_run(shared, run, before)):
        score_run(shared, run, "dev")


def needs_dev_score(shared: Comparison, run: Run, trained: Result) -> bool:
    """Whether something is chosen by it: a rate, or the best recipe."""
    return "failed" not in trained and shared.entrants[run.entrant].is_recipe


# --- who does it ----------------------------------------------------------------------------------

Work = Callable[[Job, Run | None], Future[None]]
"""Begins a job, given the earlier stage of its run."""


def run_jobs(
    plan: Plan,
    stages: Sequence[Stage],
    work: Work,
    *,
    workers: int,
    minutes: float,
    report: Callable[[str], None],
) -> bool:
    """Do all jobs, so many at once; false where one raised.

    Args:
        plan: asked for more whenever a job ends.
        stages: which jobs.
        work: begins a job.
        workers: jobs at once.
        minutes: after which none is begun.
        report: is told of every job that ends.
    """
    began, running, raised = time.monotonic(), {}, set()
    while True:
        for job in plan.ready(stages):
            if len(running) >= workers or time.monotonic() - began > 60 * minutes:
                break
            if job not in running.values() and job not in raised:
                before = plan.before(job.run) if job.run else None
                running[work(job, before)] = job
        if not running:
            return not raised
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            job, error = running.pop(future), future.exception()
            spent = (time.monotonic() - began) / 60
            if error is not None:
                raised.add(job)
            said = f"stopped: {error}" if error else "done"
            report(f"{spent:6.1f} min  {job}: {said}")


@contextmanager
def open_workers(shared: Comparison, workers: int) -> Iterator[Work]:
    """Processes of one thread each; yields how to give them a job."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_begin_worker) as pool:
        yield lambda job, before: pool.submit(do_job, shared, job, before)


def _begin_worker() -> None:
    begin_process()
    # Open as long as the process lives: all its runs hear the same recordings.
    _life.enter_context(share_caches(ENCODER_CACHE_GB))


_life = ExitStack()
