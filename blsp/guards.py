"""What keeps a long run from being lost: a signal that saves first, and a name for who is late.

Both are callbacks of the trainer. What leaves is a checkpoint, or a line with a process's number.
Ways to launch that would hang, or fail hours later, are refused before the first step.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Collection
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch.distributed.distributed_c10d import PrefixStore, _get_default_store
from transformers import TrainerCallback

from blsp.errors import InputError

_ENCODER_LAYER = "WhisperEncoderLayer"


def prepare_launch(
    accelerator: Accelerator, *, optimizer: str, quantized: bool, blocks: Collection[str]
) -> None:
    """Refuse a way to launch that does not work, and leave the encoder out of FSDP's shards.

    A process whose batch is text alone does not run the encoder, and shards are gathered by all
    processes or by none: the others would wait for ever. An adapter may be made of the encoder's
    layers, and runs as often as a batch has windows: its weights are gathered with the model's.

    Args:
        accelerator: as it was launched; its FSDP settings are changed.
        optimizer: the recipe's.
        quantized: whether the language model is held in 4 or 8 bits.
        blocks: names of the classes of layers in the model.

    Raises:
        InputError: DeepSpeed, or FSDP with a setting that fails or was never tried.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise InputError(
            "accelerate: expected data parallelism or FSDP2, found DeepSpeed, which hides the "
            "gradients that the first step is checked by and saves whole models; launch as in "
            "recipes/accelerate/multi_gpu.yaml"
        )
    if accelerator.distributed_type != DistributedType.FSDP:
        return
    plugin: Any = accelerator.state.fsdp_plugin
    rules = (
        ("fsdp_version", plugin.fsdp_version, 2),
        ("fsdp_state_dict_type", plugin.state_dict_type.name, "FULL_STATE_DICT"),
        ("fsdp_activation_checkpointing", bool(plugin.activation_checkpointing), False),
        ("fsdp_cpu_ram_efficient_loading", bool(plugin.cpu_ram_efficient_loading), False),
        ("training.optimizer", optimizer, "adamw"),
        ("model.llm_bits", "4 or 8" if quantized else 16, 16),
    )
    for name, found, wanted in rules:
        if found != wanted:
            raise InputError(
                f"{name}: expected {wanted} under FSDP, found {found}; change it, or launch as in "
                "recipes/accelerate/multi_gpu.yaml"
            )
    plugin.ignored_modules = r"model\.audio_tower"
    wrapped = plugin.transformer_cls_names_to_wrap or sorted(blocks)
    plugin.transformer_cls_names_to_wrap = [name for name in wrapped if name != _ENCODER_LAYER]


class StopOnSignal(TrainerCallback):
    """SIGTERM, which schedulers send before they kill, ends the step, saves and stops.

    Processes are told at different moments, so they agree once a step.
    """

    def __init__(self) -> None:
        self.stopped = False
        """Whether the run ended by it, on every process."""
        self._told = False
        self._earlier: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            self._earlier = signal.signal(signal.SIGTERM, self._note)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._any_told(args.device):
            self.stopped = control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._earlier is not None:
            signal.signal(signal.SIGTERM, self._earlier)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._told = True

    def _any_told(self, device: torch.device) -> bool:
        if not dist.is_initialized():
            return self._told
        told = torch.tensor(float(self._told), device=device)
        dist.all_reduce(told, op=dist.ReduceOp.MAX)
        return bool(told)


class LateProcess(TrainerCallback):
    """Names the process that the others wait for, and ends the run.

    A process that hangs shows as all others waiting in a collective, until a time-out that says
    nothing. So each counts how far it is, and the first looks at the counts.

    Args:
        seconds: how long the others may wait.
    """

    def __init__(self, seconds: float) -> None:
        self._limit = seconds
        self._store: Any = None
        self._ended = threading.Event()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return
        self._store = PrefixStore("blsp/late", _get_default_store())
        if dist.get_rank() == 0:
            threading.Thread(target=self._watch, daemon=True).start()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._ended.set()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.count()

    def count(self) -> None:
        """This process got further: all do this equally often."""
        if self._store is not None:
            self._store.add(str(dist.get_rank()), 1)

    def _watch(self) -> None:
        world = dist.get_world_size()
        furthest, since = 0, time.monotonic()
        while not self._ended.wait(min(self._limit / 4, 5.0)):
            counts = [self._store.add(str(rank), 0) for rank in range(world)]
            if max(counts) > furthest:
                furthest, since = max(counts), time.monotonic()
            late = [rank for rank, count in enumerate(counts) if count < furthest]
            if late and time.monotonic() - since > self._limit:
                _stop_process(
                    f"expected all processes to go on together, found that the others have waited "
                    f"{self._limit:g} s for process {', '.join(map(str, late))}; see what it "
                    "prints, whether its data can be read, or raise training.late_process_seconds"
                )


def _stop_process(line: str) -> None:
    """End at once: the main thread may hang in a collective."""
    print(f"blsp: {line}", file=sys.stderr, flush=True)
    os._exit(2)
