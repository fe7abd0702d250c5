"""Muon for matrices and AdamW for the rest, as one optimizer.

The features of a speech encoder are far from evenly scaled: in the tiny Whisper a few directions
carry a thousand times the variance of those that tell words apart, and AdamW, which scales each
weight by itself, learns the latter late. Muon (Jordan et al. 2024, `torch.optim.Muon`) makes all
directions of an update equally large. Trained parameters enter; it behaves as any torch optimizer.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Muon, Optimizer


class MuonAdamW(Optimizer):
    """One set of groups and one state, stepped by torch's own two optimizers.

    Args:
        parameters: what is trained; those of two dimensions are Muon's.
        learning_rate: of both; Muon's update is scaled to the size that AdamW's has.
        weight_decay: of everything that has two dimensions or more.
    """

    def __init__(
        self, parameters: Iterable[Tensor], *, learning_rate: float, weight_decay: float = 0.0
    ) -> None:
        trained = list(parameters)
        matrices = [p for p in trained if p.ndim == 2]
        larger = [p for p in trained if p.ndim > 2]
        small = [p for p in trained if p.ndim < 2]
        self._parts: list[Optimizer] = []
        if matrices:
            muon = Muon(
                matrices,
                lr=learning_rate,
                weight_decay=weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
            self._parts.append(muon)
        groups = [{"params": larger}, {"params": small, "weight_decay": 0.0}]
        groups = [group for group in groups if group["params"]]
        if groups:
            self._parts.append(AdamW(groups, lr=learning_rate, weight_decay=weight_decay))
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
