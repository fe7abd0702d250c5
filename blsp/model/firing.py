"""Continuous integrate-and-fire: rows that each carry some weight become tokens of weight one.

Weights add up from row to row; whenever the sum passes a whole number a token is complete, made of
the rows in proportion to what each gave to it (CIF, arXiv 1905.11235). The line of summed
weights is cut at all rows and at all whole numbers: each piece belongs to one row and one token, so
that no loop over rows is needed, and a row may complete several tokens. Pure functions of tensors.
"""

import torch
from torch import Tensor
from torch.nn import functional

RARE = -2.2
"""Bias before the sigmoid or softplus of a row's weight: 0.1 a row at first, which is five tokens
a second of a 50 Hz encoder."""
_LEAST = 1e-6
"""A sum of weights below it says nothing of where the tokens are."""


def round_quantity(quantity: Tensor) -> Tensor:
    """(N,) sums of weights -> how many tokens they make, one at least."""
    return quantity.detach().round().long().clamp(min=1)


def scale_weights(weights: Tensor, mask: Tensor, counts: Tensor) -> Tensor:
    """Scale weights so that each recording's add up to its count.

    Args:
        weights: (B, S), 0 or more.
        mask: (B, S), true at rows that are there.
        counts: (B,).

    Returns:
        (B, S) in float64, 0 outside the mask. Where the weights add up to nothing, all rows weigh
        the same.
    """
    # In float64: sums of hundreds of weights lose the digits that a token's share consists of.
    weights = weights.double() * mask
    total = weights.sum(1, keepdim=True)
    even = mask.to(weights.dtype)
    silent = total < _LEAST
    weights = torch.where(silent, even, weights)
    total = torch.where(silent, even.sum(1, keepdim=True).clamp(min=1), total)
    return weights * (counts[:, None] / total)


def integrate_and_fire(rows: Tensor, weights: Tensor, counts: Tensor, most: int) -> Tensor:
    """Gather rows into tokens.

    Args:
        rows: (B, S, D).
        weights: (B, S), 0 or more; each recording's add up to its count (`scale_weights`).
        counts: (B,) tokens of each recording.
        most: the largest of them, N.

    Returns:
        (B, N, D); zero beyond each count.
    """
    batch, length, width = rows.shape
    narrow = rows.dtype
    rows = rows if narrow in (torch.float32, torch.float64) else rows.float()
    sums = torch.minimum(weights.double().cumsum(1), counts[:, None])  # (B, S)
    wholes = torch.arange(1, most + 1, device=rows.device)
    cuts = torch.cat([sums, torch.minimum(wholes, counts[:, None]).double()], dim=1)
    cuts = cuts.sort(dim=1).values  # (B, S + N)
    pieces = cuts.diff(dim=1, prepend=cuts.new_zeros(batch, 1))
    middle = (cuts - pieces / 2).detach()
    first = torch.arange(batch, device=rows.device)[:, None]
    row = torch.searchsorted(sums.detach(), middle).clamp(max=length - 1) + first * length
    token = middle.long().clamp(max=most - 1) + first * most
    ends = torch.searchsorted(token.flatten(), torch.arange(batch * most, device=rows.device))
    tokens = functional.embedding_bag(
        row.flatten(),
        rows.reshape(-1, width),
        ends,
        mode="sum",
        per_sample_weights=pieces.flatten().to(rows.dtype),
    )
    return tokens.view(batch, most, width).to(narrow)
