"""The wheel: it holds `blsp` alone, the sdist builds the same one, and it runs where it is put."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from training import write_conversations

from blsp.checkpoint import is_complete
from tests.data_prep.conftest import write_audio

SHIPPED = ("recipes", "data_prep", "eval")


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(source: Path, out: Path, *options: str) -> Path:
    run(
        *(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), *options),
        cwd=source,
    )
    [wheel] = out.glob("*.whl")
    return wheel


def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(checkout, tmp_path_factory.mktemp("wheel"), "--wheel")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    options = ("--no-deps", "--no-index", "--target", str(target), str(wheel))
    run(sys.executable, "-m", "pip", "install", *options, cwd=target)
    return target


def test_the_wheel_holds_every_shipped_file_and_nothing_else(wheel: Path, checkout: Path) -> None:
    files = {f"blsp/{path}" for path in files_in(checkout / "blsp")}
    for folder in SHIPPED:
        files |= {f"blsp/{folder}/{path}" for path in files_in(checkout / folder)}
    assert {name for name in names(wheel) if ".dist-info/" not in name} == files


def files_in(folder: Path) -> list[str]:
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [path.as_posix() for path in paths if "__pycache__" not in path.parts]


def test_the_source_distribution_builds_the_same_wheel(
    wheel: Path, checkout: Path, tmp_path: Path
) -> None:
    assert names(build(checkout, tmp_path)) == names(wheel)


def test_an_installation_adds_one_importable_name(installed: Path) -> None:
    added = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert added == {"blsp", "bin"}


def test_the_programs_are_importable_inside_the_package(installed: Path, tmp_path: Path) -> None:
    code = "import blsp.data_prep, blsp.eval; print(blsp.eval.__file__)"
    printed = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(installed))
    assert Path(printed.strip()) == installed / "blsp" / "eval" / "__init__.py"


@pytest.mark.parametrize(
    "command", [["--help"], ["--version"], ["doctor"], ["recipes"], ["prep"], ["bench"]]
)
def test_the_command_runs_in_an_empty_folder(
    command: list[str], installed: Path, tmp_path: Path
) -> None:
    printed = run(
        *(sys.executable, "-m", "blsp", *command), cwd=tmp_path, PYTHONPATH=str(installed)
    )
    assert printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("program", [["blsp", "prep", "folder"], ["blsp.data_prep.folder"]])
def test_a_preparation_runs_where_only_the_wheel_is(
    program: list[str], installed: Path, tmp_path: Path
) -> None:
    write_audio(tmp_path / "mine" / "a.wav")
    (tmp_path / "mine" / "a.txt").write_text("hello there")
    command = (sys.executable, "-m", *program, "mine", "--out", "manifests")
    printed = run(*command, cwd=tmp_path, PYTHONPATH=str(installed))
    assert printed == "manifests/mine.jsonl: 1 utterances, 0.00 h\n"


def test_a_recipe_trains_where_only_the_wheel_is(installed: Path, tmp_path: Path) -> None:
    tiny = installed / "blsp" / "tiny"
    write_conversations(tmp_path / "data")
    changes = {
        "data.train": "[data/conversations.jsonl]",
        "data.dev": "[data/conversations.jsonl]",
        "data.foreign": "true",
        "model.llm": tiny / "weights" / "llm",
        "model.encoder": tiny / "weights" / "whisper",
        "training.output": "run",
        "training.steps": 2,
        "training.log_steps": 1,
    }
    command = (sys.executable, "-m", "blsp", "train", str(tiny / "quickstart.yaml"))
    overrides = (f"{key}={value}" for key, value in changes.items())
    printed = run(*command, *overrides, cwd=tmp_path, PYTHONPATH=str(installed))
    assert "step 2/2  loss " in printed
    assert printed.endswith("checkpoint: run/checkpoint\n")
    assert is_complete(tmp_path / "run" / "checkpoint")


def test_the_quickstart_runs_where_only_the_wheel_is(installed: Path, tmp_path: Path) -> None:
    small = ("--utterances", "16", "--count", "2", "training.steps=2")
    command = (sys.executable, "-m", "blsp", "quickstart", *small)
    printed = run(*command, cwd=tmp_path, PYTHONPATH=str(installed))
    assert "talk to it: blsp chat runs/quickstart/checkpoint" in printed
    made = tmp_path / "runs" / "quickstart"
    assert {"results.json", "report.html", "checkpoint"} <= {path.name for path in made.iterdir()}
