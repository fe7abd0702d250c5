"""What every process of `test_processes.py` runs: the same steps of SGD, shared by the processes.

accelerate launch --config_file FSDP2 --num_processes 2 tests/processes.py FOLDER OUT [WHOLE KILLED]

First with whole weights on every process, then with weights in shards, then two recipes as `blsp
train` runs them, of which the second is to be killed and waits for it: all by one launch, because
to start processes takes longer than what they do.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from safetensors.torch import save_file
from training import CFORMER, EMOTIONS, build_dataset, build_model, demands_of

import blsp.progress
from blsp.model import LoraConfig
from blsp.objectives import LossConfig
from blsp.progress import FixedUtterances
from blsp.train import main as train
from blsp.trainer import AlignmentTrainer, TrainingConfig

EXAMPLES = 8
STEPS = 3
SAVED = 2
ANSWERED = 5
KILLED = 5
"""Steps done by the run that waits to be killed."""
blsp.progress.MAX_NEW_TOKENS = 4  # a random model never ends its answers


RUN = """\
training.steps=8 training.save_steps=2 training.eval_steps=4 training.batch_examples=1
training.keep_checkpoints=9 training.optimizer={optimizer}
model.lora.scope=speech model.lora.rank=4 model.lora.dropout=0.2
"""


def changes(optimizer: str) -> list[str]:
    """What a run changes in its recipe."""
    return RUN.format(optimizer=optimizer).split()


@dataclass(frozen=True, kw_only=True)
class Case:
    """A run whose every step is all eight examples, however they are shared."""

    data: str = "data"
    loss: LossConfig = field(default_factory=LossConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    checkpointing: bool = False
    parts: dict[str, Any] = field(default_factory=dict)
    """Of the model, beside those of every case."""


CASES = {
    "kl": Case(),
    "mixed": Case(loss=LossConfig(response_kl=0.5, response_ce=0.5, ctc=0.2)),
    "plora": Case(lora=LoraConfig(scope="speech", rank=4), checkpointing=True),
    # The language model does not run in the first steps; half of the batches have no audio.
    "half text": Case(
        data="half",
        loss=LossConfig(ctc=1.0, pretraining_steps=2),
        lora=LoraConfig(scope="speech", rank=4),
    ),
    # The classifier alone learns first, and its gradient is that of all processes.
    "by token": Case(
        data="half",
        loss=LossConfig(
            input_kl=0.5,
            cif_quantity=1.0,
            hidden_cosine=0.1,
            emotion_ce=0.5,
            pretraining=("emotion_ce",),
            pretraining_steps=1,
        ),
        parts={"adapter": CFORMER, "emotions": EMOTIONS},
    ),
}


def run_case(
    folder: Path, output: Path, case: Case, *, world: int, each: int, resume: Path | None = None
) -> AlignmentTrainer:
    """Train with SGD, which hides no scale of a gradient, on batches of ``each`` examples."""
    model, processor = build_model(folder, lora=case.lora, **case.parts)
    config = TrainingConfig(
        output=output,
        learning_rate=0.1,
        steps=STEPS,
        warmup_steps=0,
        batch_examples=each,
        accumulation=EXAMPLES // (world * each),
        eval_steps=100,
        save_steps=SAVED,
        log_steps=1,
        dtype="fp32",
        gradient_checkpointing=case.checkpointing,
    )
    data = build_dataset(folder / case.data / "conversations.jsonl", processor, demands_of(model))
    trainer = AlignmentTrainer(
        model,
        processor,
        config=config,
        loss=case.loss,
        train=data,
        dev=data,
        answer=FixedUtterances(data, processor, ANSWERED),
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    trainer.optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.5)
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return trainer


def results_of(trainer: AlignmentTrainer) -> dict[str, Any]:
    """The losses of all steps, and what an evaluation finds after them."""
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return {"losses": losses, "evaluation": trainer.evaluate()}


def run_cases(folder: Path, output: Path, world: int) -> None:
    """Run every case; the first process writes what came of it."""
    for name, case in CASES.items():
        trainer = run_case(folder, output / name, case, world=world, each=EXAMPLES // world)
        keep(trainer, output / name)


def keep(trainer: AlignmentTrainer, path: Path) -> None:
    """Write results beside the run's folder; weights in shards take all processes to read."""
    results, weights = results_of(trainer), trainer.bare_model.delta_state()
    if trainer.is_world_process_zero():
        save_file(weights, path.with_suffix(".safetensors"))
        path.with_suffix(".json").write_text(json.dumps(results))


@contextmanager
def sharding() -> Iterator[None]:
    """Within the block launches are FSDP's, with the launcher's own settings.

    accelerate takes that way on accelerators alone, though it works on CPUs.
    """
    begin = PartialState.__init__

    def begin_as_accelerator(self: PartialState, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self._shared_state["distributed_type"] = DistributedType.MULTI_XPU

    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState.__init__ = begin_as_accelerator  # type: ignore[method-assign]
    try:
        yield
    finally:
        PartialState.__init__ = begin  # type: ignore[method-assign]
        AcceleratorState._reset_state(reset_partial_state=True)


def run_sharded(folder: Path, output: Path, world: int) -> None:
    """Run every case with weights in shards, and go on from a checkpoint of one of them."""
    resume = None
    for name, case in [*CASES.items(), ("resumed", CASES["plora"])]:
        each, path = EXAMPLES // world, output / name
        trainer = run_case(folder, path, case, world=world, each=each, resume=resume)
        assert trainer.is_fsdp_enabled
        keep(trainer, path)
        resume = output / "plora" / f"checkpoint-{SAVED}" if name == [*CASES][-1] else None


def main(folder: Path, output: Path, recipes: list[str]) -> None:
    """Everything, one after the other."""
    torch.set_num_threads(1)
    world = int(os.environ["WORLD_SIZE"])
    run_cases(folder, output / "whole", world)
    with sharding():
        run_sharded(folder, output / "sharded", world)
    if recipes:
        whole, killed = recipes
        assert train([whole, *changes("adamw")]) == 0
        wait_after(KILLED)
        train([killed, *changes("adamw")])


def wait_after(steps: int) -> None:
    """From now on training stands still after so many steps."""
    note = AlignmentTrainer._note

    def note_or_wait(self: AlignmentTrainer, batch: Any) -> None:
        if self.state.global_step == steps:
            time.sleep(600)
        note(self, batch)

    AlignmentTrainer._note = note_or_wait  # type: ignore[method-assign]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
