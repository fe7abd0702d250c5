"""What this machine has: the NVIDIA driver, and how fast its CPU is in bfloat16.

Both are measured, never guessed from a name: bfloat16 is several times as fast as float32 on some
CPUs and several times slower on others. torch is imported inside the probe because the installer
asks for the driver before torch exists.
"""

import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

_WORTH_BF16 = 1.5
"""How much faster a CPU must multiply in bfloat16 before its casts pay."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Which of the processes of one launch this is."""

    rank: int = 0
    count: int = 1
    local: int = 0
    """Among those of this machine: the number of its GPU."""


def find_ranks() -> Ranks:
    """What `accelerate launch` and `torchrun` say of this process; alone without them."""
    rank, count, local = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
    )
    return Ranks(rank=rank, count=count, local=local)


def find_nvidia_driver() -> str | None:
    """Return the version of the NVIDIA driver ("580.65.06"), or None where there is none."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().partition("\n")[0] or None


def measure_bf16_speedup(size: int = 512, repeats: int = 20) -> float:
    """Return how many times faster this CPU multiplies two (size, size) matrices in bfloat16.

    The best of `repeats` is taken on each side, since other programs only ever add time. Each is
    so short that some of them are never interrupted: processes that share a work, and a run that
    goes on after a kill, must all come to the same type, or their answers would differ.
    """
    import torch

    def best_seconds(dtype: torch.dtype) -> float:
        matrix = torch.ones(size, size, dtype=dtype)
        seconds = []
        for _ in range(repeats + 1):  # the first one sets up the kernel
            start = time.perf_counter()
            torch.mm(matrix, matrix)
            seconds.append(time.perf_counter() - start)
        return min(seconds[1:])

    return best_seconds(torch.float32) / best_seconds(torch.bfloat16)


@lru_cache(maxsize=1)
def choose_cpu_dtype() -> Any:
    """Return ``torch.bfloat16`` where this CPU multiplies in it much faster, else ``float32``."""
    import torch

    return torch.bfloat16 if measure_bf16_speedup() > _WORTH_BF16 else torch.float32


def find_training_memory() -> tuple[str, int]:
    """Return what would train here, as a person calls it, and the bytes of memory it has."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
    return "RAM", psutil.virtual_memory().total


def describe_hardware() -> str:
    """Return processor, cores and GPU of this machine, as a result names them."""
    import torch

    cores = f"{platform.machine()}, {os.cpu_count()} CPU cores"
    return f"{cores}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else cores


def peak_memory_mb() -> float:
    """Return the most memory that this process has held so far, in MB; 0 on Windows."""
    if sys.platform == "win32":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return round(peak * unit / 1e6, 1)
