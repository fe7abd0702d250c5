"""Muon and AdamW as one: each weight is changed as by its own optimizer, and state goes on."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon
from torch.optim.lr_scheduler import LambdaLR

from blsp.optimizers import COEFFICIENTS, ITERATIONS, MOMENTUM, MuonAdamW, orthogonalize


def build_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 4, bias=False))


def compute_loss(model: nn.Module, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return model(torch.randn(5, 6, generator=generator)).square().mean()


def train(model: nn.Module, optimizers: list, steps: range) -> None:
    for step in steps:
        compute_loss(model, step).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def test_each_weight_is_changed_by_its_own_optimizer() -> None:
    """Muon is torch's, which multiplies in bf16, with four of its iterations."""
    ours, theirs = build_model(), build_model()
    rates = {"learning_rate": 0.01, "weight_decay": 0.1}
    train(ours, [MuonAdamW(ours.parameters(), **rates, dtype=torch.float32)], range(5))
    matrices = [p for p in theirs.parameters() if p.ndim == 2]
    small = [p for p in theirs.parameters() if p.ndim < 2]
    more = {"momentum": MOMENTUM, "ns_steps": ITERATIONS, "adjust_lr_fn": "match_rms_adamw"}
    muon = Muon(matrices, lr=0.01, weight_decay=0.1, **more)
    train(theirs, [muon, AdamW(small, lr=0.01, weight_decay=0.0)], range(5))
    for mine, wanted, then in zip(
        ours.parameters(), theirs.parameters(), build_model().parameters(), strict=True
    ):
        assert (mine - wanted).norm() < 0.03 * (wanted - then).norm()


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (5, 5), (6, 4, 5), (2, 12, 5), (4, 6, 3, 3)])
def test_singular_values_follow_the_polynomial(shape: tuple[int, ...]) -> None:
    """Of channels in to channels and places out; the vectors stay those of the decomposition."""
    a, b, c = COEFFICIENTS
    update = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, values, right = torch.linalg.svd(update.movedim(1, 0).flatten(1), full_matrices=False)
    values = values / values.square().sum().sqrt()
    for _ in range(ITERATIONS):
        values = a * values + b * values**3 + c * values**5
    found = orthogonalize(update, torch.float64)
    assert found.shape == shape
    torch.testing.assert_close(found.movedim(1, 0).flatten(1), left @ values.diag() @ right)


def test_values_from_a_fiftieth_on_end_near_one() -> None:
    values = torch.logspace(-4, 0, 200, dtype=torch.float64)
    found = torch.linalg.svdvals(orthogonalize(values.diag(), torch.float64)).flip(0)
    norm = values.square().sum().sqrt()
    assert found[values >= norm / 50].min() > 0.6
    assert found.max() < 1.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_matrix_of_very_uneven_values_stays_bounded(dtype: torch.dtype) -> None:
    """Down to a hundred thousandth, where products of 16 bits say nothing true any more."""
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(320, 64, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(64, 64, generator=generator)).Q
    found = orthogonalize(left @ torch.logspace(0, -5, 64).diag() @ right, dtype).float()
    assert torch.linalg.svdvals(found).max() < 1.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_change_is_as_large_as_that_of_adamw(dtype: torch.dtype) -> None:
    """Root mean square 0.2 of the rate, whatever the shape: a rate of one serves the other."""
    for shape in ((64, 256), (256, 64), (64, 32, 5)):
        weight = nn.Parameter(torch.zeros(shape))
        optimizer = MuonAdamW([weight], learning_rate=0.01, dtype=dtype)
        weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        optimizer.step()
        assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.002, rel=0.25)


def test_a_gradient_of_zero_changes_nothing_and_of_none_is_passed_over() -> None:
    weight, other = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3, 4))
    optimizer = MuonAdamW([weight, other], learning_rate=0.1)
    weight.grad = torch.zeros(3, 4)
    optimizer.step()
    assert torch.equal(weight, torch.ones(3, 4)) and torch.equal(other, torch.ones(3, 4))


@pytest.mark.parametrize("again", [1, 2])
def test_five_steps_and_five_more_are_ten(again: int) -> None:
    whole, halves = build_model(), build_model()
    train(whole, [MuonAdamW(whole.parameters(), learning_rate=0.01)], range(10))
    first = MuonAdamW(halves.parameters(), learning_rate=0.01)
    train(halves, [first], range(5))
    second = first
    for _ in range(again):
        state = copy.deepcopy(second.state_dict())
        second = MuonAdamW(halves.parameters(), learning_rate=0.5)
        second.load_state_dict(state)
    train(halves, [second], range(5, 10))
    for mine, wanted in zip(halves.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, wanted)


def test_a_schedule_reaches_every_weight() -> None:
    model = build_model()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = MuonAdamW(model.parameters(), learning_rate=0.01)
    LambdaLR(optimizer, lambda _: 0.0)
    train(model, [optimizer], range(3))
    for now, then in zip(model.parameters(), before, strict=True):
        assert torch.equal(now, then)


def test_matrices_alone_and_none_at_all_are_fine() -> None:
    for shape in ((3, 4), (3,), (3, 4, 2)):
        weight = nn.Parameter(torch.ones(shape))
        optimizer = MuonAdamW([weight], learning_rate=0.1)
        weight.square().sum().backward()
        optimizer.step()
        assert not torch.equal(weight, torch.ones(shape))
