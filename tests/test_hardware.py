"""The probes, with a driver that is there and one that is not."""

import os
from pathlib import Path

import pytest
import torch

from blsp.hardware import (
    choose_cpu_dtype,
    describe_hardware,
    find_nvidia_driver,
    measure_bf16_speedup,
    peak_memory_mb,
)


def install_nvidia_smi(folder: Path, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_the_driver_is_read_from_the_first_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_nvidia_smi(tmp_path, "echo 580.65.06; echo 580.65.06")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert find_nvidia_driver() == "580.65.06"


@pytest.mark.parametrize("script", ["echo cannot talk to the driver; exit 9", "exit 0"])
def test_a_driver_that_does_not_answer_is_none(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_nvidia_smi(tmp_path, script)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert find_nvidia_driver() is None


def test_no_driver_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_nvidia_driver() is None


def test_the_bf16_probe_gives_a_ratio() -> None:
    assert 0.001 < measure_bf16_speedup(size=64, repeats=2) < 1000


def test_the_peak_of_memory_is_in_megabytes() -> None:
    assert 10 < peak_memory_mb() < 1_000_000


def test_the_machine_is_described_by_its_cores() -> None:
    assert f"{os.cpu_count()} CPU cores" in describe_hardware()


@pytest.mark.parametrize(("speedup", "dtype"), [(4.0, torch.bfloat16), (0.2, torch.float32)])
def test_bfloat16_is_chosen_where_it_is_faster(
    speedup: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blsp.hardware.measure_bf16_speedup", lambda: speedup)
    assert choose_cpu_dtype.__wrapped__() is dtype
