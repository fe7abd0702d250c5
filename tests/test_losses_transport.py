"""Optimal transport, against the best of all assignments and against unrolled iterations."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from blsp.losses import optimal_transport


def transport(
    speech: Tensor,
    text: Tensor,
    lengths: list[int] | None = None,
    text_lengths: list[int] | None = None,
    *,
    regularization: float = 0.05,
    position_weight: float = 1.0,
) -> Tensor:
    return optimal_transport(
        speech,
        torch.tensor(lengths or [len(speech)]),
        text,
        torch.tensor(text_lengths or [len(text)]),
        regularization=regularization,
        iterations=1000,
        position_weight=position_weight,
    )


def draw(speech: int, text: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    rows = torch.randn(speech + text, 3, dtype=torch.float64)
    return rows[:speech].requires_grad_(), rows[speech:]


def costs(speech: Tensor, text: Tensor, position_weight: float) -> Tensor:
    unit = sum(y @ y for y in text) / len(text)
    rows = []
    for i, x in enumerate(speech):
        for j, y in enumerate(text):
            shift = i / (len(speech) - 1) - j / (len(text) - 1)
            rows.append((x - y) @ (x - y) / unit + position_weight**2 * shift**2)
    return torch.stack(rows).view(len(speech), len(text))


def best_assignment(cost: Tensor) -> float:
    """The exact optimum: rows and columns are repeated until there are as many of both, and then
    the best plan is a permutation."""
    size = math.lcm(*cost.shape)
    square = cost.repeat_interleave(size // cost.shape[0], 0)
    table = square.repeat_interleave(size // cost.shape[1], 1).tolist()
    sums = (
        sum(table[row][column] for row, column in enumerate(order))
        for order in itertools.permutations(range(size))
    )
    return min(sums) / size


@pytest.mark.parametrize("sizes", [(5, 5), (6, 3), (2, 3)])
@pytest.mark.parametrize("regularization", [0.3, 0.1, 0.03])
def test_it_is_the_best_assignment_up_to_the_entropy(
    sizes: tuple[int, int], regularization: float
) -> None:
    speech, text = draw(*sizes)
    exact = best_assignment(costs(speech, text, 1.0))
    found = transport(speech, text, regularization=regularization).item()
    # The divergence of a plan from the uniform one is at most the entropy of either side.
    assert exact - 1e-9 <= found <= exact + regularization * math.log(min(sizes))


def unrolled(cost: Tensor, regularization: float) -> Tensor:
    """Sinkhorn on scaling factors, with the gradient through all iterations."""
    uniform = torch.full_like(cost, 1 / cost.numel())
    kernel = uniform * torch.exp(-cost / regularization)
    rows, columns = torch.ones_like(cost[:, 0]), torch.ones_like(cost[0])
    for _ in range(500):
        columns = (1 / cost.shape[1]) / (kernel.T @ rows)
        rows = (1 / cost.shape[0]) / (kernel @ columns)
    plan = rows[:, None] * kernel * columns
    return (plan * cost).sum() + regularization * (plan * (plan / uniform).log()).sum()


@pytest.mark.parametrize("sizes", [(5, 5), (7, 3)])
def test_the_held_plan_has_the_gradient_of_the_unrolled_iterations(sizes: tuple[int, int]) -> None:
    speech, text = draw(*sizes)
    found = transport(speech, text, regularization=0.2)
    wanted = unrolled(costs(speech, text, 1.0), 0.2)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, speech)[0] for loss in (found, wanted)), rtol=1e-6, atol=1e-8
    )


def test_equal_sequences_are_no_distance_apart_as_the_regularization_vanishes() -> None:
    speech, _ = draw(4, 1)
    found = [transport(speech, speech, regularization=each) for each in (0.1, 0.01, 0.001)]
    assert [loss.item() for loss in found] == pytest.approx([0.1386, 0.01386, 0.001386], rel=0.02)
    assert torch.autograd.grad(found[-1], speech)[0].abs().max() < 1e-6


# Two tokens a quarter turn apart, said in the wrong order. To match what they are costs the shift
# of both, w^2; to match where they are costs the distance of both, 2.
@pytest.mark.parametrize(("position_weight", "distance"), [(0.0, 0.0), (1.0, 1.0), (2.0, 2.0)])
def test_order_counts_as_much_as_its_weight(position_weight: float, distance: float) -> None:
    text = torch.eye(2, dtype=torch.float64)
    found = transport(text.flip(0), text, regularization=0.01, position_weight=position_weight)
    assert found.item() == pytest.approx(distance, abs=0.01)


def test_the_scale_of_the_embeddings_does_not_matter() -> None:
    speech, text = draw(6, 3)
    torch.testing.assert_close(transport(speech, text), transport(40 * speech, 40 * text))


def test_a_batch_is_the_mean_of_its_recordings() -> None:
    speech, text = (rows.float() for rows in draw(11, 9))
    lengths, text_lengths = [6, 0, 3, 1, 1], [2, 1, 3, 3, 0]  # the second and last are left out
    found = transport(speech, text, lengths, text_lengths)
    said, written = speech.split(lengths), text.split(text_lengths)
    singles = [transport(said[n], written[n]) for n in (0, 2, 3)]
    torch.testing.assert_close(found, torch.stack(singles).mean(), rtol=1e-5, atol=1e-5)


def test_what_cannot_be_transported_is_refused() -> None:
    speech, text = draw(4, 3)
    with pytest.raises(ValueError, match="4 speech embeddings for 5 and 3 tokens for 3"):
        transport(speech, text, [5], [3])
    with pytest.raises(ValueError, match="found 1 for 2; take all from the same batch"):
        transport(speech, text, [2, 2], [3])
    with pytest.raises(ValueError, match="token embeddings of width 3 like the speech, found 2"):
        transport(speech, text[:, :2])
    with pytest.raises(ValueError, match=r"over 0 and at least one iteration, found 0\.0"):
        transport(speech, text, regularization=0.0)
