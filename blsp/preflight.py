"""What a training run will do, found out on one batch before it costs hours.

Which modules learn, what one example looks like to the model with its trained tokens marked, that
gradients reach what is trained and nothing else, and how long a step takes. Nothing is written. A
model and its data enter; lines for a person leave.
"""

import math
import time
from itertools import groupby

import torch
from torch import nn

from blsp.alignment import Batch
from blsp.collator import Collator
from blsp.dataset import ConversationDataset, Example
from blsp.memory import forecast_memory, shape_of
from blsp.model import BlspForConditionalGeneration, BlspProcessor
from blsp.objectives import LossConfig, compute_loss
from blsp.progress import describe_seconds
from blsp.rendering import CLOSE, OPEN, mark_trained
from blsp.sampler import DurationBatchSampler
from blsp.trainer import TrainingConfig, check_gradients, set_frozen_to_eval

_TIMED_STEPS = 5


def describe_modules(model: BlspForConditionalGeneration) -> list[str]:
    """Trained and frozen weights of the encoder, the adapter, the language model and, where there
    is one, the classifier of emotions."""
    parts: dict[str, nn.Module] = {
        "encoder": model.model.audio_tower,
        "adapter": model.model.adapter,
        "language model": model.model.language_model,
    }
    if model.model.emotion_head is not None:
        parts["emotion head"] = model.model.emotion_head
    lines = [f"{'':<16}{'trained':>16}{'frozen':>16}"]
    for name, part in parts.items():
        sizes = {True: 0, False: 0}
        for parameter in part.parameters():
            sizes[parameter.requires_grad] += parameter.numel()
        lines.append(f"{name:<16}{sizes[True]:>16,}{sizes[False]:>16,}")
    return lines


def describe_example(example: Example, processor: BlspProcessor) -> list[str]:
    """Both views of an example as text: trained tokens in brackets, speech as a count."""
    views = {
        "hears": (example.input_ids.tolist(), example.labels.tolist()),
        "reads": (example.teacher_input_ids.tolist(), example.teacher_labels.tolist()),
    }
    lines = [f"example {example.id}; trained tokens in {OPEN} {CLOSE}"]
    for name, (ids, labels) in views.items():
        speech = find_speech(ids, processor.audio_token_id)
        lines.append(f"{name}: {mark_trained(ids, labels, processor.tokenizer, speech)}")
    return lines


def find_speech(ids: list[int], audio_token_id: int) -> list[tuple[int, int, str]]:
    """Start, end and name of each run of audio tokens."""
    runs = groupby(range(len(ids)), lambda position: ids[position] == audio_token_id)
    positions = [list(run) for is_audio, run in runs if is_audio]
    return [(run[0], run[-1] + 1, f"<{len(run)} of speech>") for run in positions]


def find_largest_batch(dataset: ConversationDataset, config: TrainingConfig) -> list[int]:
    """The batch with the most seconds of audio, which takes the most memory and time."""
    batches = list(_plan_batches(dataset, config))
    return max(batches, key=lambda batch: float(dataset.durations[batch].max()) * len(batch))


def _plan_batches(
    dataset: ConversationDataset, config: TrainingConfig, world: int = 1
) -> DurationBatchSampler:
    return DurationBatchSampler(
        dataset.durations,
        dataset.tokens,
        config.batches(),
        regions=dataset.regions,
        world=world,
    )


def try_batch(
    model: BlspForConditionalGeneration, batch: Batch, loss: LossConfig, config: TrainingConfig
) -> tuple[float, float]:
    """Run forward and backward on a batch and check the gradients; return loss and seconds."""
    value, seconds = math.nan, math.inf
    for _ in range(_TIMED_STEPS):  # the first one sets up kernels
        begun = time.perf_counter()
        value = run_backward(model, batch, loss, config)
        seconds = min(seconds, time.perf_counter() - begun)
        check_gradients(model)
    model.zero_grad()
    return value, seconds


def run_backward(
    model: BlspForConditionalGeneration, batch: Batch, loss: LossConfig, config: TrainingConfig
) -> float:
    """Run forward and backward on a batch as training would; return the loss, leave gradients."""
    model.train().zero_grad()
    set_frozen_to_eval(model, keep_llm=config.gradient_checkpointing)
    device = model.device
    moved = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    with torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bf16"):
        result = compute_loss(model, model, moved, loss)
    result.backward()
    return result.item()


def describe_run(
    model: nn.Module,
    dataset: ConversationDataset,
    config: TrainingConfig,
    seconds: float,
    world: int,
) -> list[str]:
    """How many steps, how long at most, and how large a checkpoint gets."""
    sampler = _plan_batches(dataset, config, world)
    an_epoch = math.ceil(len(sampler) / config.accumulation)
    steps = config.steps or math.ceil(an_epoch * (config.epochs or 0))
    hours = float(dataset.durations.sum()) / 3600
    whole = describe_seconds(seconds * config.accumulation * steps)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    stored = checkpoint_bytes(trained, config)
    return [
        f"{len(dataset):,} conversations, {hours:,.2f} h of audio, {an_epoch:,} steps an epoch",
        f"{steps:,} steps ({steps / an_epoch:.1f} epochs) take at most {whole} here, at "
        f"{seconds:.3f} s for the largest batch, without evaluation",
        f"checkpoints take {stored / 1e9:.2f} GB of disk, one more while it is written",
    ]


def checkpoint_bytes(trained: int, config: TrainingConfig) -> int:
    """What the checkpoints of a run take on the disk, one more included while it is written.

    Each to resume from holds so many trained weights and two moments of each; the last one weights.
    """
    return 4 * trained * (3 * (config.keep_checkpoints + 1) + 1)


def run_preflight(
    model: BlspForConditionalGeneration,
    processor: BlspProcessor,
    dataset: ConversationDataset,
    loss: LossConfig,
    config: TrainingConfig,
) -> list[str]:
    """Find out all of the above; lines for a person.

    Raises:
        InputError: gradients do not reach what is trained.
    """
    examples = [dataset[index] for index in find_largest_batch(dataset, config)]
    batch = Collator(processor.tokenizer.pad_token_id)(examples)  # type: ignore[arg-type]
    forecast = forecast_memory(
        model,
        shape_of(batch),
        checkpointing=config.gradient_checkpointing,
        bf16=config.dtype == "bf16",
    )
    value, seconds = try_batch(model, batch, loss, config)
    readable = next((example for example in examples if example.unreadable is None), None)
    shown = describe_example(readable, processor) if readable else ["no audio could be read"]
    return [
        *describe_modules(model),
        *shown,
        f"loss {value:.4f} on {len(examples)} examples; every trained weight has a gradient",
        forecast.line(),
        *describe_run(model, dataset, config, seconds, world=1),
    ]
