"""Muon and AdamW as one: each weight is changed as by its own optimizer, and state goes on."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon
from torch.optim.lr_scheduler import LambdaLR

from blsp.optimizers import MuonAdamW


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
    ours, theirs = build_model(), build_model()
    train(ours, [MuonAdamW(ours.parameters(), learning_rate=0.01, weight_decay=0.1)], range(5))
    matrices = [p for p in theirs.parameters() if p.ndim == 2]
    small = [p for p in theirs.parameters() if p.ndim < 2]
    muon = Muon(matrices, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    train(theirs, [muon, AdamW(small, lr=0.01, weight_decay=0.0)], range(5))
    for mine, wanted in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, wanted)
    assert not torch.equal(next(ours.parameters()), next(build_model().parameters()))


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
