"""Real processes: two learn what one learns, and a killed run goes on to the bit.

To start processes takes longer than anything they do here, so two launches serve most of the tests.
"""

import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import CASES, SAVED, STEPS, changes, results_of, run_case
from safetensors.torch import load_file
from test_sft import RECIPE as TEXT_RECIPE
from test_train import RECIPE
from torch import Tensor
from training import read_log, save_models, write_conversations

from blsp.checkpoint import is_complete

TESTS = Path(__file__).parent
ACCELERATE = TESTS.parent / "recipes" / "accelerate"
MULTI_GPU, FSDP2 = ACCELERATE / "multi_gpu.yaml", ACCELERATE / "untested" / "fsdp2.yaml"
Learnt = tuple[dict[str, Tensor], dict[str, Any]]
"""Weights, and losses with an evaluation."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, eight hummed words, and the same of which four are text alone."""
    folder = tmp_path_factory.mktemp("processes")
    save_models(folder)
    path = write_conversations(folder / "data")
    half = folder / "half"
    half.mkdir()
    (half / "conversations.meta.json").write_text(
        json.dumps({"command": "test", "root": str(folder / "data")})
    )
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows[::2]:
        row["messages"][0]["content"] = f"Say: {row['id']}"
    (half / "conversations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def launch(processes: int, *command: str, config: Path = MULTI_GPU) -> subprocess.Popen[str]:
    """Start processes as a user does; they are a group of their own, to be killed together."""
    launcher = ["-m", "accelerate.commands.launch", "--num_processes", str(processes)]
    kind = ["--config_file", str(config)] if processes > 1 else []
    return subprocess.Popen(
        [sys.executable, *launcher, *kind, "--main_process_port", "0", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=TESTS.parent,
        env=os.environ | {"PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def finish(started: subprocess.Popen[str]) -> str:
    told, _ = started.communicate(timeout=300)
    assert started.returncode == 0, told
    return told


def launch_cases(processes: int, folder: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    command = (str(TESTS / "processes.py"), str(folder), str(output), *more)
    return launch(processes, *command, config=FSDP2)


# --- what several processes learn -----------------------------------------------------------------


@pytest.fixture(scope="module")
def of_two(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes learnt in every case, and in two equal runs of which one was killed."""
    output = tmp_path_factory.mktemp("two")
    recipes = [write_recipe(folder, output / name) for name in ("uninterrupted", "killed")]
    started = launch_cases(2, folder, output, *recipes)
    log = output / "killed" / "run" / "log.jsonl"
    assert kill_after(started, log, steps=4), started.communicate()[0]
    return output


@pytest.fixture(scope="module")
def of_one(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Learnt]:
    """What one process learns in a case that takes the examples one by one."""

    @functools.cache
    def learn(name: str) -> Learnt:
        output = tmp_path_factory.mktemp("one")
        trainer = run_case(folder, output, CASES[name], world=1, each=1)
        return trainer.bare_model.delta_state(), results_of(trainer)

    return learn


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["whole", "sharded"])
def test_two_processes_learn_what_one_learns(
    kind: str, name: str, of_two: Path, of_one: Callable[[str], Learnt]
) -> None:
    check_equal(of_two / kind / name, of_one(name))


@pytest.mark.slow
def test_four_processes_learn_what_one_learns(
    folder: Path, tmp_path: Path, of_one: Callable[[str], Learnt]
) -> None:
    finish(launch_cases(4, folder, tmp_path))
    for kind, name in itertools.product(("whole", "sharded"), CASES):
        check_equal(tmp_path / kind / name, of_one(name))


def check_equal(found: Path, expected: Learnt) -> None:
    """Losses to 1e-6 or so, weights, meters and the score of the answers to 1e-5."""
    weights, results = expected
    read = json.loads(found.with_suffix(".json").read_text())
    assert len(read["losses"]) == STEPS
    assert read["losses"] == pytest.approx(results["losses"], abs=2e-6)
    assert {"eval_recovered", "eval_kl", "eval_agreement", "eval_answer_wer"} < {
        *results["evaluation"]
    }
    assert read["evaluation"] == pytest.approx(results["evaluation"], abs=1e-5)
    check_weights(load_file(found.with_suffix(".safetensors")), weights)


def check_weights(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.allclose(found[key], tensor, atol=1e-5), key


def test_a_run_with_weights_in_shards_saves_them_whole_and_goes_on(of_two: Path) -> None:
    runs = of_two / "sharded"
    learnt = load_file(runs / "plora.safetensors")
    saved = load_file(runs / "plora" / f"checkpoint-{STEPS}" / "delta.safetensors")
    check_weights(saved, learnt)
    check_weights(load_file(runs / "resumed.safetensors"), learnt)
    earlier = load_file(runs / "plora" / f"checkpoint-{SAVED}" / "delta.safetensors")
    assert any(not torch.equal(earlier[key], tensor) for key, tensor in learnt.items())


# --- killed runs ----------------------------------------------------------------------------------


def write_recipe(folder: Path, output: Path) -> str:
    output.mkdir(parents=True, exist_ok=True)
    path = output / "tiny.yaml"
    path.write_text(RECIPE.format(folder=folder, output=output / "run"), encoding="utf-8")
    return str(path)


def train(processes: int, recipe: str, *options: str, optimizer: str) -> subprocess.Popen[str]:
    return launch(processes, "-m", "blsp.train", recipe, *changes(optimizer), *options)


def kill_after(started: subprocess.Popen[str], log: Path, steps: int, delay: float = 0.0) -> bool:
    """Kill all processes of a run as soon as it logged so many steps; false if it ended before."""
    while started.poll() is None:
        if log.is_file() and len(log.read_text().splitlines()) >= steps:
            time.sleep(delay)
            os.killpg(started.pid, signal.SIGKILL)
            started.communicate()
            return True
        time.sleep(0.01)
    return False


def state_of(run: Path) -> dict[str, Any]:
    """Trained weights, optimizer state and losses at the end of a run."""
    last = run / "checkpoint-8"
    optimizer = torch.load(last / "optimizer.pt", weights_only=True)["state"]
    return {
        "weights": load_file(run / "checkpoint" / "delta.safetensors"),
        "optimizer": {f"{i} {name}": v for i, s in optimizer.items() for name, v in s.items()},
        "losses": [(row["step"], row["loss"]) for row in read_log(run) if "loss" in row],
    }


def check_same(whole: Path, resumed: Path) -> None:
    first, second = state_of(whole), state_of(resumed)
    assert first["losses"] == second["losses"]
    for part in ("weights", "optimizer"):
        assert first[part].keys() == second[part].keys()
        for name, value in first[part].items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(second[part][name])), name


def test_two_killed_processes_go_on_to_the_bit(of_two: Path) -> None:
    whole, killed = of_two / "uninterrupted", of_two / "killed"
    assert not (killed / "run" / "checkpoint").exists()
    told = finish(train(2, str(killed / "tiny.yaml"), "--resume", optimizer="adamw"))
    assert "training on 2 process(es)" in told
    check_same(whole / "run", killed / "run")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_told_to_end_saves_and_goes_on(processes: int, folder: Path, tmp_path: Path) -> None:
    recipe = write_recipe(folder, tmp_path)
    run = tmp_path / "run"
    more = "training.save_steps=100", "training.steps=400", "training.eval_steps=1000"
    started = train(processes, recipe, *more, optimizer="adamw")
    while not (run / "log.jsonl").is_file():
        time.sleep(0.05)
    os.killpg(started.pid, signal.SIGTERM)
    told, _ = started.communicate(timeout=60)
    assert "which is saved; go on with --resume" in told
    (saved,) = run.glob("checkpoint-*")
    step = int(saved.name.removeprefix("checkpoint-"))
    assert is_complete(saved) and not (run / "checkpoint").exists()
    # The rate is that of 400 steps, and the run ends soon: what counts is where it goes on.
    rest = [*more[:1], f"training.steps={step + 1}", "training.eval_steps=1000"]
    finish(train(processes, recipe, *rest, "--resume", optimizer="adamw"))
    assert [row["step"] for row in read_log(run) if "loss" in row] == list(range(1, step + 2))


@pytest.mark.slow
def test_a_process_that_comes_late_is_named(folder: Path, tmp_path: Path) -> None:
    """The second process stops for good before its third step."""
    recipe = write_recipe(folder, tmp_path)
    sleeper = tmp_path / "sleeper.py"
    sleeper.write_text(
        "import os, sys, time, blsp.train, blsp.trainer as t\n"
        "note = t.AlignmentTrainer._note\n"
        "def late(self, batch):\n"
        "    if os.environ['RANK'] == '1' and self.state.global_step == 1: time.sleep(40)\n"
        "    note(self, batch)\n"
        "t.AlignmentTrainer._note = late\n"
        "sys.exit(blsp.train.main(sys.argv[1:]))\n"
    )
    options = "training.late_process_seconds=5", "training.eval_steps=1000"
    started = launch(2, str(sleeper), recipe, *changes("adamw"), *options)
    told, _ = started.communicate(timeout=120)
    assert started.returncode != 0, told
    assert "found that the others have waited 5 s for process 1; see what it prints" in told


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_killed_again_and_again_ends_as_if_nothing_had_been(
    processes: int, optimizer: str, folder: Path, tmp_path: Path
) -> None:
    """Killed after every logged row, in both epochs, at once and a moment later."""
    whole, killed = (write_recipe(folder, tmp_path / name) for name in ("whole", "killed"))
    finish(train(processes, whole, optimizer=optimizer))
    log = tmp_path / "killed" / "run" / "log.jsonl"
    kills = 0
    for steps in (3, 5, 6, 8, 9):
        resume = ["--resume"] if (tmp_path / "killed" / "run" / "checkpoint-2").exists() else []
        started = train(processes, killed, *resume, optimizer=optimizer)
        kills += kill_after(started, log, steps, delay=0.02 * (steps % 3))
    assert kills >= 3
    finish(train(processes, killed, "--resume", optimizer=optimizer))
    check_same(tmp_path / "whole" / "run", tmp_path / "killed" / "run")


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["none", "all"])
def test_two_processes_learn_from_text(scope: str, folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "text.yaml"
    data = folder / "data" / "conversations.jsonl"
    recipe.write_text(
        TEXT_RECIPE.format(data=data, llm=folder / "llm", output=tmp_path / "run"), encoding="utf-8"
    )
    changes = f"model.lora.scope={scope}", "training.steps=30", "training.eval_steps=30"
    told = finish(launch(2, "-m", "blsp.sft", str(recipe), *changes))
    assert "on 2 process(es)" in told
    right = [
        row["eval_answers_right"]
        for row in read_log(tmp_path / "run")
        if "eval_answers_right" in row
    ]
    assert right[0] == 0.0 and right[-1] > 0.5
    resumed = finish(launch(2, "-m", "blsp.sft", str(recipe), *changes, "--resume"))
    assert "finished already" in resumed
