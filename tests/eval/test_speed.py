"""`blsp bench speed`: steps of a random model are timed, as it is held in the recipe."""

import json
from pathlib import Path

import pytest
import torch
from test_train import RECIPE
from training import save_models

from blsp.cli import main
from blsp.recipe import load_recipe
from blsp.train import resolve
from eval.speed import build_random

FEW = ["--steps", "2", "training.batch_seconds=20"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("speed")
    save_models(folder)
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.format(folder=folder, output=folder / "run"), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("bits", [4, 16])
def test_steps_are_timed_and_written(
    bits: int, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "speed.json"
    call = ["bench", "speed", recipe, f"model.llm_bits={bits}", *FEW, "--out", str(out)]
    assert main(call) == 0
    assert main(call) == 0
    told = capsys.readouterr().out
    first, second = json.loads(out.read_text())
    assert first["batch"] == second["batch"]
    assert first["batch"]["rows"] == 2 and first["batch"]["frames"] == 1000
    assert first["seconds_per_step"] > 0 and first["forecast_gib"] > 0
    assert first["audio_seconds_per_second"] == pytest.approx(
        20 / first["seconds_per_step"], rel=0.1
    )
    assert f'"model.llm_bits={bits}"' in told


def test_4_bits_are_held_in_4_bits_and_trained_around(recipe: str) -> None:
    loaded = resolve(load_recipe(Path(recipe), ["model.llm_bits=4", "model.lora.scope=speech"])[0])
    model = build_random(loaded, torch.device("cpu"))
    llm = model.model.language_model
    held = {type(m).__name__ for n, m in llm.named_modules() if n.endswith("q_proj.base_layer")}
    assert held == {"Linear4bit"}
    assert {p.dtype for p in llm.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["model.llm_bits=8"], "expected 4 or 16 to be timed, found 8"),
        (["--card", "24"], "expected a GPU to stand for one of 24 GiB, found none"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    options: list[str], message: str, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available() and "--card" in options:
        pytest.skip("a GPU is here")
    assert main(["bench", "speed", recipe, *FEW, *options]) == 2
    assert message in capsys.readouterr().err
