"""What every process of `test_processes.py` runs: the same steps of SGD, shared by the processes.

accelerate launch --multi_gpu --num_processes 2 tests/processes.py FOLDER OUT
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from training import ADAPTER, build_dataset

from blsp.alignment import LossConfig
from blsp.model import LoraConfig, compose
from blsp.trainer import AlignmentTrainer, TrainingConfig

EXAMPLES = 8
STEPS = 3


@dataclass(frozen=True, kw_only=True)
class Case:
    """A run whose every step is all eight examples, however they are shared."""

    data: str = "data"
    loss: LossConfig = field(default_factory=LossConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    checkpointing: bool = False


CASES = {
    "kl": Case(),
    "mixed": Case(loss=LossConfig(response_kl=0.5, response_ce=0.5, ctc=0.2)),
    "plora": Case(lora=LoraConfig(scope="speech", rank=4), checkpointing=True),
    # The language model does not run in the first steps; half of the batches have no audio.
    "half text": Case(
        data="half",
        loss=LossConfig(ctc=1.0, ctc_only_steps=2),
        lora=LoraConfig(scope="speech", rank=4),
    ),
}


def run_case(folder: Path, output: Path, case: Case, *, world: int, each: int) -> AlignmentTrainer:
    """Train with SGD, which hides no scale of a gradient, on batches of ``each`` examples."""
    torch.manual_seed(3)
    model, processor = compose(
        llm=folder / "llm", encoder=folder / "whisper", adapter=ADAPTER, lora=case.lora
    )
    config = TrainingConfig(
        output=output,
        learning_rate=0.1,
        steps=STEPS,
        warmup_steps=0,
        batch_examples=each,
        accumulation=EXAMPLES // (world * each),
        eval_steps=100,
        save_steps=100,
        log_steps=1,
        dtype="fp32",
        gradient_checkpointing=case.checkpointing,
    )
    data = build_dataset(folder / case.data / "conversations.jsonl", processor)
    trainer = AlignmentTrainer(model, processor, config=config, loss=case.loss, train=data)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    trainer.optimizer = torch.optim.SGD(trained, lr=0.1)
    trainer.train()
    return trainer


def losses_of(trainer: AlignmentTrainer) -> list[float]:
    """Of each step."""
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def main(folder: Path, output: Path, world: int) -> None:
    """Run every case; the first process writes what came of it."""
    for name, case in CASES.items():
        trainer = run_case(folder, output / name, case, world=world, each=EXAMPLES // world)
        found: Callable[[], Any] = trainer.bare_model.delta_state
        if trainer.is_world_process_zero():
            save_file(found(), output / f"{name}.safetensors")
            (output / f"{name}.json").write_text(json.dumps(losses_of(trainer)))


if __name__ == "__main__":
    import os

    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(os.environ["WORLD_SIZE"]))
