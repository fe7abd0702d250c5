"""The training loop: what it computes, and that a stop anywhere changes nothing."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from blsp.errors import InputError
from blsp.tiny import fitting
from blsp.tiny.build import WEIGHTS
from blsp.tiny.fitting import FitConfig, Progress, fit, learning_rate_at, start_from
from blsp.tiny.llm import build_model, build_tokenizer


def config(**changes: float) -> FitConfig:
    values = {"steps": 10, "learning_rate": 1e-2, "warmup_steps": 3, "save_seconds": 1e9}
    return FitConfig(**(values | changes))  # type: ignore[arg-type]


class Run:
    """A tiny model whose batch is a function of the step; it can be stopped before any step."""

    def __init__(self, *, stop_at: int | None = None) -> None:
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 2))
        self.stop_at = stop_at
        self.steps: list[int] = []
        self.lines: list[str] = []

    def loss_at(self, step: int) -> tuple[Tensor, dict[str, float]]:
        if step == self.stop_at:
            raise KeyboardInterrupt
        self.steps.append(step)
        inputs = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        loss = nn.functional.mse_loss(self.model(inputs), inputs[:, :2].sin())
        return loss, {"mse": loss.item()}

    def fit(self, folder: Path, **changes: float) -> Progress:
        return fit(
            self.model,
            self.loss_at,
            config(**changes),
            folder=folder,
            evaluate=lambda step: {"score": step / 10},
            report=self.lines.append,
        )


def saved(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "state" / "state.safetensors")


def assert_bit_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


# Resuming


def test_five_steps_and_five_more_are_ten(tmp_path: Path) -> None:
    """Every step is saved, the sixth never comes, and another process goes on."""
    whole = Run()
    expected = whole.fit(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        Run(stop_at=5).fit(tmp_path / "parts", save_seconds=-1)
    rest = Run()
    nn.init.zeros_(rest.model[0].weight)  # type: ignore[arg-type] - what is loaded counts
    progress = rest.fit(tmp_path / "parts")
    assert rest.steps == [5, 6, 7, 8, 9]
    assert_bit_equal(rest.model.state_dict(), whole.model.state_dict())
    assert_bit_equal(saved(tmp_path / "parts"), saved(tmp_path / "whole"))
    assert progress.curve == expected.curve
    assert [point["step"] for point in progress.curve] == list(range(1, 11))


def test_the_state_holds_the_moments_of_adamw(tmp_path: Path) -> None:
    Run().fit(tmp_path)
    state = saved(tmp_path)
    moments = {name for name in state if name.startswith("exp_avg")}
    assert len(moments) == 2 * len(list(Run().model.parameters()))
    assert all(state[name].abs().sum() > 0 for name in moments)


def test_a_finished_fit_is_not_gone_on_with(tmp_path: Path) -> None:
    done, again = Run(), Run()
    done.fit(tmp_path)
    assert again.fit(tmp_path).step == 10
    assert again.steps == []
    assert_bit_equal(again.model.state_dict(), done.model.state_dict())


@pytest.mark.parametrize("left", ["state.old", "state.new and state.old"])
def test_a_stop_between_the_two_renames_loses_nothing(tmp_path: Path, left: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        Run(stop_at=5).fit(tmp_path, save_seconds=-1)
    (tmp_path / "state").rename(tmp_path / "state.old")
    if "state.new" in left:
        (tmp_path / "state.new").mkdir()
        (tmp_path / "state.new" / "state.safetensors").write_bytes(b"torn")
    rest = Run()
    assert rest.fit(tmp_path).step == 10
    assert rest.steps == [5, 6, 7, 8, 9]
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("renames", [0, 1])
def test_a_stop_before_either_rename_leaves_a_whole_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    """The renames of the second save are counted; the process ends before the one given."""
    with pytest.raises(KeyboardInterrupt):
        Run(stop_at=5).fit(tmp_path, save_seconds=-1)
    real, seen = Path.rename, []

    def rename(path: Path, target: Path) -> Path:
        if len(seen) == renames:
            raise KeyboardInterrupt
        seen.append(path.name)
        return real(path, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", rename)
        Run().fit(tmp_path, save_seconds=-1)
    rest = Run()
    rest.fit(tmp_path)
    assert rest.steps == [5, 6, 7, 8, 9]


def test_a_full_disk_is_one_line_and_keeps_the_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        Run(stop_at=5).fit(tmp_path, save_seconds=-1)

    def full(*_: object) -> None:
        raise RuntimeError("Error while serializing: I/O error: ... (os error 28)")

    with monkeypatch.context() as patch, pytest.raises(InputError, match=r"^disk full while"):
        patch.setattr(fitting, "save_file", full)
        Run().fit(tmp_path)
    rest = Run()
    rest.fit(tmp_path)
    assert rest.steps == [5, 6, 7, 8, 9]


# What a step does


def test_the_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    """Peak 1, 4 steps of warm-up, 104 in all, 2 % left at the end."""
    points = config(steps=104, learning_rate=1.0, warmup_steps=4, final_fraction=0.02)
    expected = {
        0: 0.25,
        1: 0.5,
        3: 1.0,
        4: 1.0,
        29: 0.02 + 0.98 * 0.5 * (1 + math.sqrt(0.5)),  # a quarter: cos 45 degrees
        54: 0.51,  # half-way
        104: 0.02,
        999: 0.02,
    }
    for step, rate in expected.items():
        assert learning_rate_at(step, points) == pytest.approx(rate, abs=1e-12)


def test_no_warm_up_starts_at_the_peak() -> None:
    assert learning_rate_at(0, config(warmup_steps=0, learning_rate=3.0)) == 3.0


def test_biases_and_norms_do_not_decay(tmp_path: Path) -> None:
    """The loss does not see the model, so that decay alone moves it."""
    run = Run()
    before = {name: value.clone() for name, value in run.model.state_dict().items()}

    def loss_at(_: int) -> tuple[Tensor, dict[str, float]]:
        return sum(p.sum() for p in run.model.parameters()) * 0.0, {}  # type: ignore[return-value]

    decay = config(steps=1, warmup_steps=0, learning_rate=0.5, weight_decay=0.1)
    fit(run.model, loss_at, decay, folder=tmp_path, report=run.lines.append)
    for name, value in run.model.state_dict().items():
        kept = 0.95 if value.ndim == 2 else 1.0  # 1 - 0.5 * 0.1
        assert value == pytest.approx(before[name] * kept), name


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_ends_the_fit(tmp_path: Path, value: float) -> None:
    run = Run()
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}

    def loss_at(_: int) -> tuple[Tensor, dict[str, float]]:
        return (run.model(torch.ones(1, 4)) * value).sum(), {}

    with pytest.raises(RuntimeError, match="gradient is nan at step 0"):
        fit(run.model, loss_at, config(), folder=tmp_path)
    assert_bit_equal(run.model.state_dict(), before)
    assert not (tmp_path / "state").exists()


def test_progress_is_plain_json(tmp_path: Path) -> None:
    Run().fit(tmp_path)
    progress = json.loads((tmp_path / "state" / "progress.json").read_text())
    assert progress["step"] == 10
    assert progress["curve"][-1].keys() == {"step", "loss", "mse", "score"}


def test_a_state_of_another_schedule_is_refused(tmp_path: Path) -> None:
    Run().fit(tmp_path, steps=2)
    with pytest.raises(InputError, match="on its way to 5 steps, found one on its way to 2"):
        Run().fit(tmp_path, steps=5)


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    Run().fit(tmp_path)
    other = Run()
    other.model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    with pytest.raises(InputError, match="the state is of another model"):
        other.fit(tmp_path)


def test_shipped_weights_are_gone_on_from() -> None:
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed=7)
    start_from(model, WEIGHTS / "llm", vocabulary=tokenizer.get_vocab())
    shipped = load_file(WEIGHTS / "llm" / "model.safetensors")
    parameters = dict(model.named_parameters())
    assert all(torch.equal(parameters[name], tensor.float()) for name, tensor in shipped.items())


def test_going_on_from_nothing_or_another_vocabulary_is_one_line(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed=7)
    with pytest.raises(InputError, match="found none"):
        start_from(model, tmp_path, vocabulary=tokenizer.get_vocab())
    with pytest.raises(InputError, match="expected the vocabulary of today's text world"):
        start_from(model, WEIGHTS / "llm", vocabulary={"other": 0})
