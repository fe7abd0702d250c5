"""What this machine has: the NVIDIA driver, and how fast its CPU is in bfloat16.

Both are measured, never guessed from a name: bfloat16 is several times as fast as float32 on some
CPUs and several times slower on others. torch is imported inside the probe because the installer
asks for the driver before torch exists.
"""

import subprocess
import time


def find_nvidia_driver() -> str | None:
    """Return the version of the NVIDIA driver ("580.65.06"), or None where there is none."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().partition("\n")[0] or None


def measure_bf16_speedup(size: int = 768, repeats: int = 5) -> float:
    """Return how many times faster this CPU multiplies two (size, size) matrices in bfloat16.

    The best of `repeats` is taken on each side, since other programs only ever add time.
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
