"""Muon for matrices and AdamW for the rest, as one optimizer.

The features of a speech encoder are far from evenly scaled: in the tiny Whisper a few directions
carry a thousand times the variance of those that tell words apart, and AdamW, which scales each
weight by itself, learns the latter late. Muon (Jordan et al. 2024) makes all directions of an
update equally large. torch has one, for two dimensions and in bf16 alone; here the matrices of a
convolution count too, which are those that meet the encoder, and the precision is the run's own,
because bf16 is many times slower where a CPU only imitates it. Trained parameters enter; it behaves
as any torch optimizer.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

MOMENTUM = 0.9
"""Less than the usual 0.95: the runs here are of hundreds of steps."""

COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Of the quintic that brings singular values near one, by Jordan."""

ITERATIONS = 4
"""Of the quintic: singular values of a fiftieth of the norm and more end between 0.6 and 1.3. The
usual five tell smaller ones apart, for which products of 16 bits are too coarse here."""


class MuonAdamW(Optimizer):
    """One set of groups and one state, stepped by two optimizers.

    Args:
        parameters: what is trained; those of two dimensions or more are Muon's.
        learning_rate: of both; Muon's update is scaled to the size that AdamW's has.
        weight_decay: of what is Muon's.
        dtype: of Muon's multiplications.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        learning_rate: float,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        trained = list(parameters)
        matrices = [p for p in trained if p.ndim > 1]
        small = [p for p in trained if p.ndim < 2]
        self._parts: list[Optimizer] = []
        if matrices:
            rate = {"lr": learning_rate, "weight_decay": weight_decay}
            self._parts.append(_Muon(matrices, rate, dtype))
        if small:
            self._parts.append(AdamW(small, lr=learning_rate, weight_decay=0.0))
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let the parts see this optimizer's groups, whose rates a schedule changes, and state."""
        start = 0
        for part in self._parts:
            end = start + len(part.param_groups)
            part.param_groups, part.state = self.param_groups[start:end], self.state
            start = end

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Change every parameter that has a gradient."""
        loss = None if closure is None else closure()
        for part in self._parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from ``state_dict()``."""
        super().load_state_dict(state_dict)
        self._share()


class _Muon(Optimizer):
    """Nesterov momentum, made orthogonal matrix by matrix.

    A change is scaled by ``0.2 sqrt(max(rows, columns))`` ("Muon is Scalable for LLM Training",
    arXiv 2502.16982), whose root mean square is then AdamW's usual one.
    """

    def __init__(
        self, parameters: list[Tensor], defaults: dict[str, Any], dtype: torch.dtype
    ) -> None:
        super().__init__(parameters, defaults)
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Change every parameter that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                momentum.lerp_(weight.grad, 1 - MOMENTUM)
                change = orthogonalize(weight.grad.lerp(momentum, MOMENTUM), self._dtype)
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                longer = max(weight.shape[1], weight.numel() // weight.shape[1])
                rate = group["lr"] * 0.2 * longer**0.5
                weight.add_(change.to(weight.dtype), alpha=-rate)


def orthogonalize(update: Tensor, dtype: torch.dtype) -> Tensor:
    """Bring all singular values near one, by Newton-Schulz iterations.

    ``X <- X p(X^T X)`` with ``p(G) = a + b G + c G^2``, from X of norm one. Every X is the first
    times a polynomial of its Gram matrix G, so that only matrices of the shorter side are iterated,
    which are far smaller where a convolution is the matrix.

    Args:
        update: (R, C), or (R, C, ...) of a convolution, which is a matrix from its C channels to
            each of the R at each place of the kernel.
        dtype: of the multiplications.

    Returns:
        In the same shape, in ``dtype``.
    """
    a, b, c = COEFFICIENTS
    rows = update.to(dtype).movedim(1, -1)  # -> (R, ..., C)
    matrix = rows.flatten(0, -2)
    wide = matrix.shape[0] < matrix.shape[1]
    start = matrix.T if wide else matrix
    start = start / torch.linalg.matrix_norm(start).clamp(min=1e-7)
    gram = start.T @ start
    one = torch.eye(len(gram), dtype=dtype, device=gram.device)
    factor = one
    for _ in range(ITERATIONS):
        step = a * one + b * gram + c * (gram @ gram)
        factor = factor @ step
        gram = gram @ (step @ step)
    found = start @ factor
    return (found.T if wide else found).reshape(rows.shape).movedim(-1, 1)
