"""What a training run costs: seconds, operations and trained weights, kept through interruptions.

Operations are counted by torch on a few steps spread over the run, since objectives may change on
the way, and multiplied by their number. In those steps the encoder runs as it would without a
cache: what a recipe costs must not depend on which run met a recording first. A trainer's events
enter; `costs.json` in the run's folder leaves.
"""

import json
import time
from pathlib import Path
from typing import Any

from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback

from blsp.caching import EncoderCache
from blsp.results import write_json
from blsp.trainer import spread

COSTS = "costs.json"
COUNTED_STEPS = 8


class CostMeter(TrainerCallback):
    """Measures a run; what a kill loses is done again, and measured then."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / COSTS
        self.seconds = self.cpu_seconds = 0.0
        self.operations: dict[str, int] = {}
        """Step, counted from 1 -> floating point operations."""
        self.trained_weights = 0
        self._counter: FlopCounterMode | None = None
        self._cache: EncoderCache | None = None

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        if state.global_step and self.path.is_file():
            earlier = json.loads(self.path.read_text(encoding="utf-8"))
            self.seconds, self.cpu_seconds = earlier["seconds"], earlier["cpu_seconds"]
            self.operations = earlier["operations"]
        self.trained_weights = sum(p.numel() for p in model.parameters() if p.requires_grad)
        self._begun = time.monotonic() - self.seconds, time.process_time() - self.cpu_seconds
        self._counted = set(spread(state.max_steps, COUNTED_STEPS))

    def on_step_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        if state.global_step not in self._counted:
            return
        tower = model.model.audio_tower
        if isinstance(tower.forward, EncoderCache):
            self._cache, tower.forward = tower.forward, tower.forward.forward
        self._counter = FlopCounterMode(display=False)
        self._counter.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if self._counter is None:
            return
        self._counter.__exit__(None, None, None)
        self.operations[str(state.global_step)] = self._counter.get_total_flops()
        if self._cache is not None:
            model.model.audio_tower.forward = self._cache
        self._counter = self._cache = None

    def on_save(self, *_: Any, **__: Any) -> None:
        self._write()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._write()

    def _write(self) -> None:
        self.seconds = time.monotonic() - self._begun[0]
        self.cpu_seconds = time.process_time() - self._begun[1]
        write_json(
            self.path,
            {
                "seconds": self.seconds,
                "cpu_seconds": self.cpu_seconds,
                "operations": self.operations,
                "trained_weights": self.trained_weights,
            },
        )


def read_costs(folder: Path, *, steps: int) -> dict[str, float]:
    """Seconds, trained weights, and the operations of so many steps."""
    found = json.loads((folder / COSTS).read_text(encoding="utf-8"))
    counted = found.pop("operations").values()
    return {**found, "operations": sum(counted) / len(counted) * steps}
