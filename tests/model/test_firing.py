"""Integrate-and-fire by cumulative sums, against a loop over rows."""

import time

import pytest
import torch
from torch import Tensor

from blsp.model.firing import integrate_and_fire, round_quantity, scale_weights

ALMOST = 1 - 1e-9


def fire_one_by_one(rows: Tensor, weights: Tensor, count: int) -> Tensor:
    """(S, D) and (S,) -> (count, D), row by row as the published code does."""
    tokens, inside, token = [], weights.new_zeros(()), torch.zeros_like(rows[0])
    for row, weight in zip(rows, weights, strict=True):
        rest = weight
        while inside + rest >= ALMOST and len(tokens) < count:
            given = 1 - inside
            tokens.append(token + given * row)
            rest, inside, token = rest - given, torch.zeros_like(inside), torch.zeros_like(token)
        token, inside = token + rest * row, inside + rest
    return torch.stack([*tokens, token][:count])


def make(length: int, *, width: int, least: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows, raw weights, mask and counts of four recordings."""
    torch.manual_seed(length)
    lengths = torch.tensor([length, length // 2, length - 3, 1])
    counts = torch.tensor([length // 12, length // 5, 1, 2]).clamp(min=1)
    mask = torch.arange(length) < lengths[:, None]
    weights = (torch.rand(4, length) + least).requires_grad_(True)
    return torch.randn(4, length, width, requires_grad=True), weights, mask, counts


def run(length: int, *, width: int, loop: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Tokens of each recording, and the gradients of a sum of their squares."""
    rows, raw, mask, counts = make(length, width=width)
    weights = scale_weights(raw, mask, counts)
    if loop:
        given = zip(rows.double(), weights, counts.tolist(), strict=True)
        tokens = [fire_one_by_one(*each) for each in given]
    else:
        fired = integrate_and_fire(rows, weights, counts, int(counts.max()))
        tokens = [one[:count] for one, count in zip(fired, counts.tolist(), strict=True)]
    sum(one.square().sum() for one in tokens).backward()  # type: ignore[union-attr]
    return [one.detach().float() for one in tokens], [rows.grad, raw.grad]  # type: ignore[list-item]


@pytest.mark.parametrize("length", [4, 37, 150, 600, 1500])
def test_tokens_and_gradients_are_those_of_the_loop(length: int) -> None:
    """The last recording makes two tokens of one row: it fires twice in it."""
    ours, expected = run(length, width=8, loop=False), run(length, width=8, loop=True)
    for kind in range(2):
        for one, other in zip(ours[kind], expected[kind], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_hand_counted_example() -> None:
    """Weights .6 .6 .8 1: the first token takes .4 of the second row."""
    rows = torch.tensor([[[1.0], [10.0], [100.0], [1000.0]]])
    weights = torch.tensor([[0.6, 0.6, 0.8, 1.0]])
    tokens = integrate_and_fire(rows, weights, torch.tensor([3]), 3)
    expected = [0.6 + 4, 2 + 80, 1000]
    assert tokens[0, :, 0].tolist() == pytest.approx(expected, rel=1e-5)


def test_a_row_of_weight_three_is_three_tokens() -> None:
    rows = torch.tensor([[[2.0, 5.0]]])
    tokens = integrate_and_fire(rows, torch.tensor([[3.0]]), torch.tensor([3]), 4)
    assert tokens.tolist() == [[[2.0, 5.0]] * 3 + [[0.0, 0.0]]]


def test_weights_of_nothing_share_evenly_and_give_no_gradient() -> None:
    weights = torch.zeros(1, 4, requires_grad=True)
    mask = torch.tensor([[True, True, True, False]])
    scaled = scale_weights(weights, mask, torch.tensor([6]))
    assert scaled.tolist() == [[2.0, 2.0, 2.0, 0.0]]
    scaled.sum().backward()
    assert weights.grad is not None
    assert weights.grad.tolist() == [[0.0] * 4]


def test_a_number_is_rounded_and_one_at_least() -> None:
    assert round_quantity(torch.tensor([0.0, 0.4, 1.6, 7.5001])).tolist() == [1, 1, 2, 8]


def test_sixteen_bits_come_out_as_they_went_in() -> None:
    rows, raw, mask, counts = make(37, width=8)
    scaled = scale_weights(raw, mask, counts)
    wide = integrate_and_fire(rows, scaled, counts, 7)
    narrow = integrate_and_fire(rows.bfloat16(), scaled, counts, 7)
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float(), wide, rtol=0.05, atol=0.05)


def time_firing(length: int, *, loop: bool) -> float:
    """Seconds of forward and backward pass over a batch of eight recordings, a token ten rows."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(8, length, 256, generator=draw).requires_grad_(True)
    raw = torch.rand(8, length, generator=draw).requires_grad_(True)
    mask, counts = torch.ones(8, length, dtype=torch.bool), torch.full((8,), length // 10)
    gradient = torch.ones(length // 10, 256)
    begun = time.perf_counter()
    weights = scale_weights(raw, mask, counts)
    if loop:
        tokens = [
            fire_one_by_one(*each) for each in zip(rows, weights, counts.tolist(), strict=True)
        ]
        torch.autograd.backward(tokens, [gradient.to(one.dtype) for one in tokens])
    else:
        fired = integrate_and_fire(rows, weights, counts, length // 10)
        fired.backward(gradient.expand(8, -1, -1))
    return time.perf_counter() - begun


@pytest.mark.slow
@pytest.mark.parametrize(("length", "faster"), [(150, 20), (600, 20), (1500, 15)])
def test_it_is_many_times_as_fast_as_the_loop(length: int, faster: float) -> None:
    """In turns, the best of each."""
    best = {False: float("inf"), True: float("inf")}
    for _ in range(5):
        for loop in best:
            best[loop] = min(best[loop], time_firing(length, loop=loop))
    assert best[True] / best[False] >= faster
