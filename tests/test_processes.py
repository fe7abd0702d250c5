"""Real processes: two learn what one learns, and a killed run goes on to the bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import CASES, STEPS, losses_of, run_case
from safetensors.torch import load_file
from test_train import RECIPE
from training import read_log, save_models, write_conversations

from blsp.checkpoint import is_complete

TESTS = Path(__file__).parent
RUN = """\
training.steps=8 training.save_steps=2 training.eval_steps=4 training.batch_examples=1
training.keep_checkpoints=9 training.optimizer={optimizer}
model.lora.scope=speech model.lora.rank=4 model.lora.dropout=0.2
"""


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


def launch(processes: int, *command: str) -> subprocess.Popen[str]:
    """Start processes as a user does; they are a group of their own, to be killed together."""
    launcher = ["-m", "accelerate.commands.launch", "--num_processes", str(processes)]
    kind = ["--multi_gpu"] if processes > 1 else []
    rest = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    port = ["--main_process_port", "0"]
    return subprocess.Popen(
        [sys.executable, *launcher, *kind, *rest, *port, *command],
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


# --- what several processes learn -----------------------------------------------------------------


@pytest.fixture(scope="module")
def of_two(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes learnt in every case."""
    output = tmp_path_factory.mktemp("two")
    finish(launch(2, str(TESTS / "processes.py"), str(folder), str(output)))
    return output


@pytest.mark.parametrize("name", CASES)
def test_two_processes_learn_what_one_learns(
    name: str, folder: Path, of_two: Path, tmp_path: Path
) -> None:
    check_equal(name, folder, of_two, tmp_path)


@pytest.mark.slow
def test_four_processes_learn_what_one_learns(folder: Path, tmp_path: Path) -> None:
    finish(launch(4, str(TESTS / "processes.py"), str(folder), str(tmp_path / "four")))
    for name in CASES:
        check_equal(name, folder, tmp_path / "four", tmp_path / name)


def check_equal(name: str, folder: Path, found: Path, output: Path) -> None:
    """Losses to 1e-6 and weights to 1e-5 of one process that takes the examples one by one."""
    trainer = run_case(folder, output, CASES[name], world=1, each=1)
    losses = json.loads((found / f"{name}.json").read_text())
    assert len(losses) == STEPS
    assert losses == pytest.approx(losses_of(trainer), abs=1e-6)
    weights = load_file(found / f"{name}.safetensors")
    for key, tensor in trainer.bare_model.delta_state().items():
        assert torch.allclose(weights[key], tensor, atol=1e-5), key


# --- killed runs ----------------------------------------------------------------------------------


def write_recipe(folder: Path, output: Path) -> str:
    output.mkdir(parents=True, exist_ok=True)
    path = output / "tiny.yaml"
    path.write_text(RECIPE.format(folder=folder, output=output / "run"), encoding="utf-8")
    return str(path)


def train(processes: int, recipe: str, *options: str, optimizer: str) -> subprocess.Popen[str]:
    changes = RUN.format(optimizer=optimizer).split()
    return launch(processes, "-m", "blsp.train", recipe, *changes, *options)


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


def test_two_killed_processes_go_on_to_the_bit(folder: Path, tmp_path: Path) -> None:
    whole, killed = (write_recipe(folder, tmp_path / name) for name in ("whole", "killed"))
    told = finish(train(2, whole, optimizer="adamw"))
    assert "training on 2 process(es)" in told
    log = tmp_path / "killed" / "run" / "log.jsonl"
    assert kill_after(train(2, killed, optimizer="adamw"), log, steps=4)
    finish(train(2, killed, "--resume", optimizer="adamw"))
    check_same(tmp_path / "whole" / "run", tmp_path / "killed" / "run")


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
    started = launch(2, str(sleeper), recipe, *RUN.format(optimizer="adamw").split(), *options)
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
