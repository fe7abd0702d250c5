"""What a language model does to ``head(hidden)`` before it calls the result logits.

Losses over large vocabularies apply the head piece by piece and must do the same; the model itself
never needs this. `compose` checks it on the language model at hand.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class HeadTransform:
    """What a language model does to ``head(hidden)`` before it calls the result logits."""

    scale: float = 1.0
    softcap: float | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """softcap * tanh(scale * logits / softcap), or the scale alone."""
        logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


def head_transform(config: Any) -> HeadTransform:
    """Read scale and soft-cap from a language model's configuration."""
    scale = float(getattr(config, "logit_scale", None) or 1.0)  # cohere multiplies
    scale /= float(getattr(config, "logits_scaling", None) or 1.0)  # granite divides
    softcap = getattr(config, "final_logit_softcapping", None)
    return HeadTransform(scale=scale, softcap=float(softcap) if softcap else None)
