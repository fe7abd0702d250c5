"""Training on a tiny random model: what falls, what stays, what adds up, and what stops it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training import build_dataset, build_model, read_log, save_models, write_conversations

from blsp.alignment import LossConfig
from blsp.model import BlspForConditionalGeneration
from blsp.progress import Progress
from blsp.trainer import (
    AlignmentTrainer,
    TrainingConfig,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and conversations on disk."""
    folder = tmp_path_factory.mktemp("training")
    save_models(folder)
    write_conversations(folder / "data")
    return folder


def configure(output: Path, **changes: Any) -> TrainingConfig:
    config = TrainingConfig(
        output=output,
        learning_rate=3e-3,
        steps=4,
        warmup_steps=0,
        batch_examples=4,
        eval_steps=100,
        save_steps=100,
        log_steps=1,
        dtype="fp32",
    )
    return replace(config, **changes)


def build(
    folder: Path, config: TrainingConfig, loss: LossConfig | None = None, **options: Any
) -> AlignmentTrainer:
    model, processor = build_model(folder)
    data = build_dataset(folder / "data" / "conversations.jsonl", processor)
    progress = Progress(lambda line: None)
    trainer = AlignmentTrainer(
        model,
        processor,
        config=config,
        loss=loss or LossConfig(),
        train=data,
        callbacks=[progress],
        **{"dev": data, **options},
    )
    progress.trainer = trainer
    return trainer


def weights(trainer: AlignmentTrainer) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in trainer.bare_model.named_parameters()}


def text_logits(model: BlspForConditionalGeneration) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(20)[None]).logits


def test_the_loss_falls_and_nothing_frozen_moves(folder: Path, tmp_path: Path) -> None:
    trainer = build(folder, configure(tmp_path, steps=25))
    before, logits = weights(trainer), text_logits(trainer.bare_model)
    trainer.train()
    losses = [row["loss"] for row in read_log(tmp_path) if "loss" in row]
    assert len(losses) == 25
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
    for name, after in weights(trainer).items():
        trained = name.startswith("model.adapter.")
        assert torch.equal(after, before[name]) != trained, name
    assert torch.equal(text_logits(trainer.bare_model), logits)
