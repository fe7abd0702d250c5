"""The order of the jobs, the choice of the learning rate, and what a kill loses."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from field import best_at, load_field, make_result, write_result

from blsp.errors import InputError
from blsp.tiny.family.entrants import Entrant
from blsp.tiny.family.runs import RESULT, Comparison, Run, do_once
from blsp.tiny.family.schedule import Job, Plan, Results, run_jobs

RATES = (1e-3, 3e-3, 9e-3)  # of every recipe of the field


class Workers:
    """Do every job at once, in this process, by writing what it would leave."""

    def __init__(self, shared: Comparison, share: Any = None) -> None:
        self.shared, self.share = shared, share or (lambda run: best_at(3e-3, run))
        self.done: list[Job] = []
        self.before: dict[Job, Run | None] = {}

    def __call__(self, job: Job, before: Run | None) -> Future[None]:
        self.done.append(job)
        self.before[job] = before
        future: Future[None] = Future()
        try:
            result = make_result(job, self.share(job.run) if job.run else 0.0)
            write_result(self.shared, job, result)
            future.set_result(None)
        except RuntimeError as error:
            future.set_exception(error)
        return future


def do(plan: Plan, work: Any, stages: Any = ("search", "run"), minutes: float = 60) -> bool:
    return run_jobs(plan, stages, work, workers=1, minutes=minutes, report=lambda line: None)


@pytest.fixture
def shared(tmp_path: Path) -> Comparison:
    return Comparison(entrants=load_field(tmp_path / "recipes"), out=tmp_path / "out")


def make_plan(shared: Comparison, **more: Any) -> Plan:
    return Plan(entrants=shared.entrants, lookup=Results(shared), **more)


def fit(name: str, rate: float, seed: int = 0) -> Job:
    return Job(what="fit", run=Run(entrant=name, rate=rate, seed=seed))


def test_the_search_tries_three_rates_and_a_stage_before_who_needs_it(shared: Comparison) -> None:
    """A variant has the rate of its recipe."""
    work = Workers(shared)
    assert do(make_plan(shared), work, ["search"])
    order = ("alone", "first", "second")
    waits = [job for job in work.done if job.run and job.run.entrant == "second"]
    assert waits == [fit("second", rate) for rate in RATES]
    assert work.done.index(waits[0]) > work.done.index(fit("first", RATES[-1]))
    assert sorted(map(str, work.done)) == sorted(str(fit(n, r)) for n in order for r in RATES)


def test_the_best_rate_on_development_data_is_taken(shared: Comparison) -> None:
    plan = make_plan(shared)
    assert plan.best_rate("alone") is None
    do(plan, Workers(shared, lambda run: best_at(9e-3, run)), ["search"])
    assert plan.best_rate("alone") == 9e-3


def test_of_equal_rates_the_lowest_is_taken(shared: Comparison) -> None:
    plan = make_plan(shared)
    do(plan, Workers(shared, lambda run: 1.0), ["search"])
    assert plan.best_rate("alone") == 1e-3


def test_a_chain_begins_from_the_same_seed_at_the_best_rate(shared: Comparison) -> None:
    work = Workers(shared, lambda run: best_at(1e-3 if run.entrant == "first" else 9e-3, run))
    do(make_plan(shared), work)
    for seed in (0, 1, 2):
        before = work.before[fit("second", 9e-3, seed)]
        assert before == Run(entrant="first", rate=1e-3, seed=seed)
    assert {work.before[fit("second", rate)] for rate in RATES} == {
        Run(entrant="first", rate=1e-3, seed=0)
    }


def test_all_seeds_are_tested_and_the_two_best_recipes_get_more(shared: Comparison) -> None:
    """`changed` is best, but no recipe; `first` is trained on where `second` needs it."""
    shares = {"alone": 0.5, "first": 0.3, "second": 0.6, "changed": 0.9}
    work = Workers(shared, lambda run: shares[run.entrant])
    do(make_plan(shared), work)
    tested: dict[str, set[int]] = {}
    for job in work.done:
        if job.what == "test" and job.run:
            tested.setdefault(job.run.entrant, set()).add(job.run.seed)
    assert tested == {
        "alone": {0, 1, 2, 3, 4},
        "second": {0, 1, 2, 3, 4},
        "first": {0, 1, 2},
        "changed": {0, 1, 2},
    }
    assert fit("first", 1e-3, 4) in work.done


def test_the_search_scores_nothing_on_the_test(shared: Comparison) -> None:
    work = Workers(shared)
    do(make_plan(shared), work, ["search"])
    assert {job.what for job in work.done} == {"fit"}


def test_what_is_finished_is_not_done_again(shared: Comparison) -> None:
    do(make_plan(shared), Workers(shared))
    again = Workers(shared)
    assert do(make_plan(shared), again) and again.done == []


def test_a_kill_loses_the_job_it_met_and_a_torn_result_is_none(shared: Comparison) -> None:
    work = Workers(shared)
    do(make_plan(shared), work)
    torn, lost = (
        fit("alone", 3e-3, 1),
        Job(what="test", run=Run(entrant="changed", rate=3e-3, seed=2)),
    )
    assert torn in work.done and lost in work.done and torn.run and lost.run
    path = shared.folder(torn.run) / "dev" / RESULT
    path.write_text(path.read_text(encoding="utf-8")[:50], encoding="utf-8")
    (shared.folder(lost.run) / "test" / RESULT).unlink()
    again = Workers(shared)
    do(make_plan(shared), again)
    assert set(again.done) == {torn, lost}


def test_no_job_is_begun_when_the_time_is_over(shared: Comparison) -> None:
    work = Workers(shared)
    assert do(make_plan(shared), work, minutes=-1) and work.done == []


def test_a_job_that_raises_stops_no_other(shared: Comparison) -> None:
    def share(run: Run) -> float:
        if run.entrant == "alone" and run.rate == 9e-3:
            raise RuntimeError("no such file")
        return 0.5

    work = Workers(shared, share)
    plan = make_plan(shared)
    assert not do(plan, work)
    assert plan.best_rate("second") == 1e-3 and plan.best_rate("alone") is None
    assert work.done.count(fit("alone", 9e-3)) == 1


def test_a_run_that_failed_is_worse_than_any_and_what_needs_it_waits(shared: Comparison) -> None:
    for name, rate in [("alone", 9e-3), *(("first", rate) for rate in RATES)]:
        write_result(shared, fit(name, rate), {"failed": "a loss of nan"})
    work, plan = Workers(shared, lambda run: 0.0), make_plan(shared)
    do(plan, work)
    assert plan.best_rate("alone") == 1e-3
    assert plan.best_rate("first") is None and plan.has_failed("second")
    assert not [job for job in work.done if job.run and job.run.entrant in ("first", "second")]
    assert plan.find_best() == ["alone"]


def test_a_result_of_another_recipe_is_refused_and_a_torn_one_made_again(tmp_path: Path) -> None:
    assert do_once(tmp_path, "a", lambda: {"value": 1})["value"] == 1
    assert do_once(tmp_path, "a", lambda: {"value": 2})["value"] == 1
    with pytest.raises(InputError, match="found one of others; remove"):
        do_once(tmp_path, "b", lambda: {"value": 3})
    (tmp_path / RESULT).write_text("{", encoding="utf-8")
    assert do_once(tmp_path, "b", lambda: {"value": 4})["value"] == 4


def test_rates_are_a_third_and_three_times_the_recipes_own(shared: Comparison) -> None:
    entrant: Entrant = shared.entrants["alone"]
    assert entrant.rate == 3e-3
    assert [run.rate for run in make_plan(shared).search_runs("alone")] == list(RATES)
    assert Run(entrant="alone", rate=1e-3, seed=2).place == "alone/lr-0.001/seed-2"
