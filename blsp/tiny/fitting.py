"""The one training loop of the tiny foundation models: resumable, with a bf16 probe and a curve.

Every batch is a function of (seed, step), the schedule of (step, steps), and the state on disk is
written as a whole folder and renamed, so a killed build goes on from its last state as if nothing
had happened. State is safetensors and JSON; nothing is pickled.
"""

import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer

from blsp.errors import InputError
from blsp.files import atomic_path
from blsp.hardware import choose_cpu_dtype


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """What the loop needs beside model and loss."""

    steps: int
    learning_rate: float
    warmup_steps: int = 300
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    max_grad_norm: float = 1.0
    final_fraction: float = 0.02
    """Learning rate at the end of the cosine, as a fraction of the peak."""
    save_seconds: float = 120.0
    log_steps: int = 50


@dataclass
class Progress:
    """Where a fit stands; saved beside the weights."""

    step: int = 0
    steps: int | None = None
    """How many the schedule was made for."""
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)


def probe_autocast_dtype(device: torch.device) -> torch.dtype:
    """bf16 where it is faster than fp32 (measured on a CPU), else fp32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return choose_cpu_dtype()


def learning_rate_at(step: int, config: FitConfig) -> float:
    """Linear warm-up, then a cosine to ``final_fraction`` of the peak."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return config.learning_rate * (config.final_fraction + (1 - config.final_fraction) * cosine)


def fit(
    model: nn.Module,
    compute_loss: Callable[[int], tuple[Tensor, dict[str, float]]],
    config: FitConfig,
    *,
    folder: Path,
    evaluate: Callable[[int], dict[str, float]] | None = None,
    report: Callable[[str], None] = print,
) -> Progress:
    """Train ``model`` to ``config.steps``, going on from ``folder/state`` if it is there.

    Args:
        compute_loss: step -> (loss, numbers to log); it makes its own batch from the step.
        evaluate: called about 25 times; step -> numbers for the curve.

    Raises:
        InputError: the disk is full.
        RuntimeError: a gradient is not finite; the state on disk is the last good one.
    """
    optimizer = _build_optimizer(model, config)
    progress = _load_state(model, optimizer, folder)
    if progress.steps not in (None, config.steps):
        raise InputError(
            f"{folder}: expected a state on its way to {config.steps} steps, found one on its "
            f"way to {progress.steps}; ask for as many, or remove the folder"
        )
    progress.steps = config.steps
    last_saved, started = time.monotonic(), time.monotonic() - progress.seconds
    every = max(1, config.steps // 25)
    while progress.step < config.steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(progress.step, config)
        model.train()
        loss, numbers = compute_loss(progress.step)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        if not torch.isfinite(norm):
            raise RuntimeError(f"gradient is {norm} at step {progress.step}")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.seconds = time.monotonic() - started
        if evaluate and (progress.step % every == 0 or progress.step == config.steps):
            model.eval()
            numbers |= evaluate(progress.step)
            progress.curve.append({"step": progress.step, "loss": loss.item(), **numbers})
            report(_line(progress, config, numbers, loss))
        elif progress.step % config.log_steps == 0:
            report(_line(progress, config, numbers, loss))
        if time.monotonic() - last_saved > config.save_seconds or progress.step == config.steps:
            _save_state(model, optimizer, progress, folder)
            last_saved = time.monotonic()
    return progress


def start_from(model: nn.Module, weights: Path, *, vocabulary: dict[str, int]) -> None:
    """Give ``model`` the shipped weights in ``weights`` to go on from.

    Raises:
        InputError: there are none, or they are of another shape or vocabulary.
    """
    if not (weights / "model.safetensors").exists():
        raise InputError(f"{weights}: expected tiny weights to go on from, found none")
    known = AutoTokenizer.from_pretrained(weights).get_vocab()
    if known != vocabulary:
        raise InputError(
            f"{weights}: expected the vocabulary of today's text world, found another; "
            "train from nothing, without --init-from"
        )
    found = load_file(weights / "model.safetensors")
    wanted = dict(model.named_parameters())
    if any(name not in wanted or wanted[name].shape != found[name].shape for name in found):
        raise InputError(f"{weights}: expected the tiny model's shapes, found others")
    for name, tensor in found.items():
        wanted[name].data.copy_(tensor)


def _line(progress: Progress, config: FitConfig, numbers: dict[str, float], loss: Tensor) -> str:
    left = progress.seconds / progress.step * (config.steps - progress.step)
    shown = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
    return (
        f"step {progress.step}/{config.steps}  {progress.seconds:.0f} s, {left:.0f} s left  "
        f"loss {loss.item():.4f}  {shown}"
    )


def _build_optimizer(model: nn.Module, config: FitConfig) -> torch.optim.AdamW:
    parameters = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim >= 2]
    other = [p for p in parameters if p.ndim < 2]
    groups = [{"params": decayed}, {"params": other, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )


def _save_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, folder: Path
) -> None:
    fresh, final = folder / "state.new", folder / "state"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    tensors = {f"model.{name}": p.detach().contiguous() for name, p in model.named_parameters()}
    for index, state in optimizer.state_dict()["state"].items():
        for name in ("exp_avg", "exp_avg_sq"):
            tensors[f"{name}.{index}"] = state[name]
    # Not for the names, which the folder's own rename settles, but flushed, and one line when full.
    with atomic_path(fresh / "state.safetensors") as temporary:
        save_file(tensors, temporary)
    with atomic_path(fresh / "progress.json") as temporary:
        temporary.write_text(json.dumps(asdict(progress)), encoding="utf-8")
    # Two renames: at every moment either the old or the new folder is whole under a known name.
    old = folder / "state.old"
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    fresh.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def _load_state(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> Progress:
    final, old = folder / "state", folder / "state.old"
    if not final.exists() and old.exists():
        old.rename(final)
    if not final.exists():
        return Progress()
    progress = Progress(**json.loads((final / "progress.json").read_text()))
    tensors = load_file(final / "state.safetensors")
    for name, parameter in model.named_parameters():
        found = tensors.get(f"model.{name}")
        if found is None or found.shape != parameter.shape:
            raise InputError(
                f"{final}: expected {name} of shape {tuple(parameter.shape)}, found "
                f"{None if found is None else tuple(found.shape)}; the state is of another model, "
                "remove the folder"
            )
        parameter.data.copy_(found)
    state = optimizer.state_dict()
    for index in (i for group in state["param_groups"] for i in group["params"]):
        if f"exp_avg.{index}" in tensors:
            state["state"][index] = {
                "step": torch.tensor(float(progress.step)),
                "exp_avg": tensors[f"exp_avg.{index}"],
                "exp_avg_sq": tensors[f"exp_avg_sq.{index}"],
            }
    optimizer.load_state_dict(state)
    return progress
