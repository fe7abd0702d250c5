"""The library's own trainer takes the model as it is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

from tests.model.conftest import make_audio


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_trainer_lowers_the_loss_through_the_adapter_alone(
    checkpointing: bool, pair: tuple[Any, Any], tmp_path: Path
) -> None:
    model, processor = pair
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        texts = [f"<|audio|>{row['text']}" for row in rows]
        batch = processor(text=texts, audio=[row["audio"] for row in rows], padding_side="right")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        labels[labels == model.config.audio_token_id] = -100
        return {**batch, "labels": labels}

    rows = [{"text": "abc", "audio": make_audio(4_000 + 900 * seed, seed)} for seed in range(4)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=8,
        per_device_train_batch_size=4,
        learning_rate=5e-3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        gradient_checkpointing=checkpointing,
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, train_dataset=rows, data_collator=collate)  # type: ignore[arg-type]
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    now = dict(model.named_parameters())
    assert all(torch.equal(now[name], tensor) for name, tensor in frozen.items())
