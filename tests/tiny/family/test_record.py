"""The record of all results: what it gives back, and what has changed too much for that."""

import shutil
from pathlib import Path

import pytest
from field import TRAIN, load_field, make_result, write_result

from blsp.tiny.family.data import find_manifests
from blsp.tiny.family.record import RECORD, restore_record, write_record
from blsp.tiny.family.runs import DEV, Comparison, Run, describe_origin, read_result
from blsp.tiny.family.schedule import Job, Plan, Results
from blsp.tiny.family.scoring import YARDSTICKS, describe_test

ALONE = Run(entrant="alone", rate=3e-3, seed=0)
FIRST = Run(entrant="first", rate=1e-3, seed=0)
SECOND = Run(entrant="second", rate=3e-3, seed=0)


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Comparison:
    """Three runs that are scored, one of two stages; only their record is there."""
    monkeypatch.chdir(tmp_path)
    shared = Comparison(entrants=load_field(tmp_path / "recipes"))
    dev = [shared.out / "conversations" / f"{name}.jsonl" for name in DEV]
    for path in (Path(TRAIN), *dev, *find_manifests(shared.out, "test").values()):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    yardsticks = make_result(Job(what="yardsticks"), 0.9)
    write_result(shared, Job(what="yardsticks"), yardsticks | {"made_from": describe_test(shared)})
    for run, before in ((ALONE, None), (FIRST, None), (SECOND, FIRST)):
        about = {"entrant": run.entrant, "learning_rate": run.rate, "seed": run.seed}
        about["made_from"] = describe_origin(shared, run, before)
        for what in ("fit", "test"):
            job = Job(what=what, run=run)
            write_result(shared, job, make_result(job, 0.5) | about)
    assert write_record(shared, tmp_path / RECORD) == 10
    for name in ("alone", "first", "second", YARDSTICKS):
        shutil.rmtree(shared.out / name)
    return shared


def find_restored(shared: Comparison) -> list[str]:
    restore_record(shared, Path(RECORD))
    runs = [one for one in (ALONE, FIRST, SECOND) if read_result(shared.folder(one)) is not None]
    return [one.entrant for one in runs]


def test_results_come_back_as_they_were(shared: Comparison) -> None:
    before = Path(RECORD).read_bytes()
    assert restore_record(shared, Path(RECORD)) == 10
    assert restore_record(shared, Path(RECORD)) == 0
    assert write_record(shared, Path(RECORD)) == 10
    assert Path(RECORD).read_bytes() == before
    plan = Plan(entrants=shared.entrants, lookup=Results(shared))
    assert plan.dev_score(ALONE) == pytest.approx(0.5, abs=0.1)
    assert plan.lookup(Job(what="test", run=SECOND)) is not None


def test_without_a_record_there_is_nothing(shared: Comparison) -> None:
    assert restore_record(shared, Path("no.jsonl")) == 0


def test_a_recipe_that_changed_is_passed_over(
    shared: Comparison,
) -> None:
    path = shared.entrants["alone"].recipe
    path.write_text(path.read_text().replace("ctc: 1.0", "ctc: 0.5"))
    assert find_restored(shared) == ["first", "second"]


def test_of_a_chain_whose_first_stage_is_not_recorded_nothing_is_taken(shared: Comparison) -> None:
    lines = Path(RECORD).read_text().splitlines()
    kept = [line for line in lines if not line.startswith('{"place": "first')]
    Path(RECORD).write_text("\n".join(kept))
    assert find_restored(shared) == ["alone"]


def test_other_training_data_are_noticed(shared: Comparison) -> None:
    Path(TRAIN).write_text("other")
    assert find_restored(shared) == []


def test_another_test_set_is_noticed(shared: Comparison) -> None:
    find_manifests(shared.out, "test")["clean"].write_text("other")
    assert restore_record(shared, Path(RECORD)) == 0


def test_what_was_begun_anew_is_left_alone(shared: Comparison) -> None:
    shared.folder(ALONE).mkdir(parents=True)
    assert find_restored(shared) == ["first", "second"]
