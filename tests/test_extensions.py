"""An adapter and a loss of another package: the guide's own code, and never an import unasked."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_train import RECIPE
from training import read_log, save_models, write_conversations

from blsp.cli import main
from blsp.errors import InputError
from blsp.recipe import load_recipe


@pytest.fixture(scope="module")
def guide(checkout: Path) -> str:
    return (checkout / "docs/guides/your-own-method.md").read_text(encoding="utf-8")


@pytest.fixture
def recipe(guide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The guide's package and a recipe with the guide's keys."""
    code, yaml = (re.search(rf"```{kind}\n(.*?)```", guide, re.S)[1] for kind in ("python", "yaml"))  # type: ignore[index]
    assert len(code.splitlines()) <= 40
    (tmp_path / "my_package.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_package", raising=False)
    save_models(tmp_path)
    write_conversations(tmp_path / "data")
    text = RECIPE.format(folder=tmp_path, output=tmp_path / "run")
    adapter, loss = re.findall(r"^  adapter:.*?(?=^\S)|^loss:.*", yaml, re.S | re.M)
    text = re.sub(r"^  adapter:.*\n", lambda _: adapter, text, flags=re.M) + loss
    (tmp_path / "mine.yaml").write_text(text)
    return str(tmp_path / "mine.yaml")


def test_the_guides_adapter_and_loss_train_and_come_back(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", recipe, "training.steps=12", "training.learning_rate=1e-2"]) == 0
    losses = [row["loss"] for row in read_log(tmp_path / "run") if "loss" in row]
    assert losses[-1] < 0.9 * losses[0]
    checkpoint = str(tmp_path / "run" / "checkpoint")
    assert main(["--import", "my_package", "verify", checkpoint]) == 0
    assert "all that could be checked holds" in capsys.readouterr().out


def test_a_checkpoint_never_imports(recipe: str, tmp_path: Path) -> None:
    assert main(["train", recipe, "training.steps=1"]) == 0
    command = [sys.executable, "-m", "blsp"]
    rest = ["verify", str(tmp_path / "run" / "checkpoint")]
    done = subprocess.run([*command, *rest], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert line.endswith("if you trust the package, say --import my_package")
    assert "Traceback" not in done.stderr


def test_what_is_not_installed_is_one_line(recipe: str) -> None:
    with pytest.raises(InputError, match=r"loss\.nowhere\.f: expected an installed module"):
        run_train(recipe, "loss.nowhere.f=1")
    with pytest.raises(InputError, match=r"expected 'missing' in my_package, found no such name"):
        run_train(recipe, "loss.my_package.missing=1")
    with pytest.raises(InputError, match=r"expected a name such as my_package.MyClass"):
        run_train(recipe, "model.adapter.class=EveryNth")


def run_train(recipe: str, *changes: str) -> None:
    from blsp.train import main as train

    train([recipe, *changes])


def test_numbers_of_another_adapter_are_refused(recipe: str) -> None:
    with pytest.raises(InputError, match=r"expected the numbers of my_package\.EveryNth"):
        load_recipe(Path(recipe), ["model.adapter.stack_factor=4"])
