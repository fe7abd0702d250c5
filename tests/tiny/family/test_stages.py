"""The whole comparison, small: data, search, runs and the page, through processes."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from field import write_recipe

from blsp.checkpoint import is_complete
from blsp.errors import InputError
from blsp.manifest import read_conversations, read_meta
from blsp.recipe import load_recipe
from blsp.tiny.family.costs import COSTS
from blsp.tiny.family.data import Sizes, make_data
from blsp.tiny.family.entrants import RECIPES, Variant, load_entrants
from blsp.tiny.family.record import restore_record, write_record
from blsp.tiny.family.runs import Comparison, Run, build_recipe, train_run
from blsp.tiny.family.schedule import Plan, Results
from blsp.tiny.family.stages import run_stages, write_report
from blsp.train import main
from blsp.trainer import FINAL_FOLDER

SIZES = Sizes(train=60, dev=4, test=2, emotion_sentences=2)
STAGES = ("search", "run")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comparison]:
    """Where the recipes expect it: `runs/family` of the folder that the command runs in."""
    folder = tmp_path_factory.mktemp("family")
    write_recipe(folder / "recipes", "first", steps=2)
    write_recipe(folder / "recipes", "second", steps=2, begins_from="first")
    write_recipe(folder / "recipes", "alone", steps=4)
    variant = Variant(name="text", recipe="alone", changes=("model.lora={scope: all}",))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        entrants = load_entrants(
            ["second", "text"],
            folder=folder / "recipes",
            recipes=("first", "second", "alone"),
            variants=(variant,),
        )
        shared = Comparison(entrants=entrants, sizes=SIZES)
        make_data(shared.out, SIZES)
        yield shared


def make_plan(shared: Comparison) -> Plan:
    return Plan(entrants=shared.entrants, lookup=Results(shared), seeds=(0,), more_seeds=())


def run_all(shared: Comparison) -> bool:
    return run_stages(make_plan(shared), shared, STAGES, workers=2, minutes=60)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_of_the_family_trains(name: str, shared: Comparison) -> None:
    """Three steps of each stage, on the little data that is there."""
    del shared  # its folder is the current one
    short = "training.steps=3 training.eval_steps=3 training.eval_examples=4 training.save_steps=3"
    for stage in load_entrants([name]).values():
        recipe, _ = load_recipe(stage.recipe)
        result = recipe.training.output / FINAL_FOLDER
        pretraining = min(1, recipe.loss.pretraining_steps)
        if not is_complete(result):
            values = f"{short} training.eval_answers=2 loss.pretraining_steps={pretraining}"
            assert main([str(stage.recipe), *values.split()]) == 0
        assert is_complete(result)


@pytest.mark.slow
def test_conversations_name_their_author_and_none_for_a_foreign_one(shared: Comparison) -> None:
    folder = shared.out / "conversations"
    metas = {path.stem: read_meta(path) for path in folder.glob("*.jsonl")}
    authors = {name: meta.llm is not None for name, meta in metas.items() if meta}
    assert len(authors) == len(metas)
    assert {name for name, known in authors.items() if not known} == {
        "train-foreign",
        "dev-foreign",
    }
    cut = [one for one in read_conversations(folder / "train-interleaved.jsonl") if one.extra]
    assert 30 < len(cut) < 55
    make_data(shared.out, SIZES)  # finds all of it


@pytest.mark.slow
def test_from_recipes_to_the_page(shared: Comparison, tmp_path: Path) -> None:
    assert run_all(shared)
    plan = make_plan(shared)
    run = plan.final_run("second", 0)
    assert run is not None
    recipe, _ = build_recipe(shared, run, plan.before(run))
    rate = plan.best_rate("first")
    assert recipe.model.init_from == f"runs/family/first/lr-{rate:g}/seed-0/checkpoint"
    page = write_report(plan, shared, tmp_path, "second").read_text(encoding="utf-8")
    for name in ("first", "second", "text"):
        assert f"| `{name}` | 1 |" in page
    assert "Still to come" not in page and "text bound" in page
    written = sorted(path.stat().st_mtime_ns for path in shared.out.rglob("result.json"))
    assert run_all(shared)
    assert sorted(p.stat().st_mtime_ns for p in shared.out.rglob("result.json")) == written


@pytest.mark.slow
def test_who_is_needed_again_is_trained_again_and_nobody_else(
    shared: Comparison, tmp_path: Path
) -> None:
    """Of the record's runs, whose weights nobody kept."""
    assert run_all(shared)
    write_record(shared, tmp_path / "record.jsonl")
    run = make_plan(shared).final_run("second", 0)
    assert run is not None
    for name in shared.entrants:
        shutil.rmtree(shared.out / name)
    assert restore_record(shared, tmp_path / "record.jsonl") > 10
    shutil.rmtree(shared.folder(run) / "test")
    assert run_all(shared)
    trained = {path.parts[-4] for path in shared.out.glob("*/*/*/checkpoint")}
    assert trained == {"first", "second"}
    assert is_complete(shared.folder(run) / FINAL_FOLDER)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_from_its_checkpoint(shared: Comparison) -> None:
    """It ends before its evaluation at the fourth step; the second is saved."""
    run = Run(entrant="text", rate=1e-3, seed=7)
    folder = shared.folder(run)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("blsp.trainer.AlignmentTrainer.evaluate", stop)
        train_run(shared, run, None)
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-2"]
    result = train_run(shared, run, None)
    counted = json.loads((folder / COSTS).read_text(encoding="utf-8"))["operations"]
    assert list(counted) == ["1", "2", "3", "4"] and all(counted.values())
    assert result["costs"]["operations"] == sum(counted.values())
    assert not list(folder.glob("checkpoint-*"))


@pytest.mark.slow
def test_results_of_a_recipe_that_was_changed_are_refused(shared: Comparison) -> None:
    run = Run(entrant="text", rate=2e-3, seed=7)
    train_run(shared, run, None)
    path = shared.entrants["text"].recipe
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("ctc: 1.0", "ctc: 0.5"), encoding="utf-8")
    with pytest.raises(InputError, match="recipe and data as they are now"):
        train_run(shared, run, None)
    path.write_text(text, encoding="utf-8")
