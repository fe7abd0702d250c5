"""Tokens drawn by a seed of the row's own, so that a sample does not depend on its batch.

The library draws all rows of a batch from one state: whoever shares the batch, or is done again
after a kill, changes everybody's tokens. Here each row has a generator, which gives one number a
token; the token is where the sum of probabilities passes it. A seed for each row enters; a logits
processor for the library's own `generate` leaves.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)


def derive_seed(seed: int, name: str) -> int:
    """A seed for what has a name, as 63 bits."""
    content = f"{seed}\n{name}".encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") >> 1


def build_sampler(seeds: Sequence[int], *, temperature: float, top_p: float) -> LogitsProcessorList:
    """What `generate` is given, with ``do_sample=False``, to draw B rows."""
    return LogitsProcessorList(
        [TemperatureLogitsWarper(temperature), TopPLogitsWarper(top_p), SeededDraw(seeds)]
    )


class SeededDraw(LogitsProcessor):
    """Draws a token for each row and leaves it as the only possible one.

    Args:
        seeds: of each row of the batch.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(B, T) and (B, V) -> (B, V), 0 at the drawn token and minus infinity elsewhere."""
        numbers = [torch.rand((), generator=each) for each in self._generators]
        sums = scores.float().softmax(-1).cumsum(-1)  # (B, V)
        total = sums[:, -1:]
        below = torch.nextafter(total, torch.zeros_like(total))  # rounding must not reach the end
        mark = torch.minimum(torch.stack(numbers).to(scores.device)[:, None] * total, below)
        drawn = (sums <= mark).sum(-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)
