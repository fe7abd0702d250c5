"""The training loop: Hugging Face's Trainer with our loss, batches, checks and checkpoints.

Accumulation, mixed precision and several processes are the library's. Ours is what it would do
otherwise: the loss needs two views of a batch, batches are bounded by seconds and the same after a
resume, a checkpoint is what was trained and is marked whole last, and a run that cannot learn stops
at its first step. Model, examples and a `TrainingConfig` enter; a folder of checkpoints leaves.
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.utils import gather_object, save_fsdp_optimizer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback
from transformers.integrations.integration_utils import get_available_reporting_integrations
from transformers.training_args import TrainingArguments

from blsp.alignment import (
    Batch,
    ShuffledPairs,
    collate_pairs,
    measure,
)
from blsp.caching import EncoderCache, fill_cache, install_cache
from blsp.checkpoint import is_complete, mark_complete
from blsp.collator import Collator
from blsp.dataset import ConversationDataset
from blsp.errors import InputError
from blsp.files import atomic_path, explained_writes
from blsp.guards import LateProcess, StopOnSignal, prepare_launch
from blsp.hardware import choose_cpu_dtype
from blsp.model import BlspForConditionalGeneration, BlspProcessor, warm_start
from blsp.model.loading import write_checkpoint
from blsp.objectives import LossConfig, compute_loss, count_items
from blsp.optimizers import MuonAdamW
from blsp.provenance import Source, write_provenance
from blsp.sampler import BatchConfig, DurationBatchSampler

RECIPE = "recipe.yaml"
STEP_FOLDER = "checkpoint-"
FINAL_FOLDER = "checkpoint"
FAILED_BATCH = "failed_batch.json"
FAILED_WEIGHTS = "failed_batch.safetensors"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long, how fast, and in what pieces."""

    output: Path
    """Folder of the run: checkpoints and log.jsonl."""
    learning_rate: float
    """Peak, of the adapter; a cosine to zero follows the warm-up."""
    steps: int | None = None
    """Optimizer steps; this or `epochs`."""
    epochs: float | None = None
    warmup_steps: int = 100
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon`: Muon for matrices and convolutions, AdamW for the rest; fewer steps, each somewhat
    longer."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    batch_seconds: float = 120.0
    """Seconds of audio in a batch, padding included, on one device."""
    batch_tokens: int = 8192
    """Tokens of the longer view in a batch, padding included."""
    batch_examples: int = 64
    accumulation: int = 1
    """Batches a step, on each device."""
    eval_steps: int = 500
    eval_examples: int = 200
    """Development examples that the meters look at."""
    eval_answers: int = 16
    """Development examples answered at every evaluation, word for word against the response."""
    save_steps: int = 500
    keep_checkpoints: int = 2
    """Checkpoints to resume from that are kept, beside the final one."""
    log_steps: int = 10
    seed: int = 0
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """`auto`: bf16 on GPUs that have it, and on CPUs where a short probe finds it faster."""
    workers: int = 0
    """Processes that load audio."""
    gradient_checkpointing: bool = False
    trackers: tuple[str, ...] = ("tensorboard",)
    """Where curves go beside log.jsonl, by the library's names: tensorboard, wandb, mlflow, ..."""
    processes: int | None = None
    """How many must run; for recipes whose batch would be another with more or fewer."""
    late_process_seconds: float = 600.0
    """How long the others wait for a process before its number is told and the run stops."""
    encoder_cache_gb: float = 0.0
    """Memory to keep encoder output in, on each process, and as much for the features of training
    and of development data each; an hour of output takes 0.55 at Whisper-small's width in fp32.
    Pays where recordings come again: epochs, several conversations of one."""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise InputError(
                f"expected either steps or epochs, found steps {self.steps} and epochs "
                f"{self.epochs}; give one"
            )
        above_zero = ("learning_rate", "accumulation", "eval_steps", "save_steps", "log_steps")
        above_zero = (*above_zero, "eval_answers", "late_process_seconds")
        for name in (*above_zero, "keep_checkpoints"):
            if getattr(self, name) <= 0:
                raise InputError(f"expected {name} above 0, found {getattr(self, name)}; raise it")
        if (self.steps or self.epochs or 0) <= 0:
            raise InputError(
                f"expected steps or epochs above 0, found {self.steps or self.epochs}; raise it"
            )

    def batches(self) -> BatchConfig:
        """The bounds of a batch, for the sampler."""
        return BatchConfig(
            max_seconds=self.batch_seconds,
            max_tokens=self.batch_tokens,
            max_examples=self.batch_examples,
            seed=self.seed,
        )


def choose_dtype(wanted: Literal["auto", "bf16", "fp32"]) -> torch.dtype:
    """The type of multiplications; what is trained is float32 always."""
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bf16" else torch.float32
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return choose_cpu_dtype()


def build_arguments(config: TrainingConfig, *, evaluates: bool) -> TrainingArguments:
    """Translate into the library's arguments."""
    arguments = TrainingArguments(
        output_dir=str(config.output),
        max_steps=config.steps or -1,
        num_train_epochs=config.epochs or 1.0,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        gradient_accumulation_steps=config.accumulation,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=config.eval_steps,
        save_strategy="steps",
        save_steps=config.save_steps,
        logging_steps=config.log_steps,
        logging_nan_inf_filter=False,  # it would hide what we stop for
        seed=config.seed,
        bf16=choose_dtype(config.dtype) == torch.bfloat16,
        use_cpu=not torch.cuda.is_available(),
        activation_checkpointing=config.gradient_checkpointing,
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=[name for name in config.trackers if is_there(name)],
    )
    if arguments.n_gpu > 1:  # the library would split batches over all that one process sees
        logger.warning(
            "one process uses one of the %d GPUs it sees; accelerate launch starts one for each",
            arguments.n_gpu,
        )
        arguments._n_gpu = 1
    return arguments


def is_there(tracker: str) -> bool:
    """Whether a tracker can be used; the default may be missing, one asked for may not.

    Raises:
        InputError: its package is not installed, or it has no such name.
    """
    known = get_available_reporting_integrations()
    if tracker in known:
        return True
    if tracker == "tensorboard":
        return False
    raise InputError(
        f"training.trackers: expected trackers that are installed here ({', '.join(known)}), found "
        f"{tracker!r}; install its package, or take it out"
    )


class AlignmentTrainer(Trainer):
    """Trains what requires a gradient in the model.

    Args:
        model: composed or loaded; its base models are frozen.
        processor: saved with every checkpoint.
        config: the recipe's `training`.
        loss: the recipe's `loss`.
        train: what is trained on.
        dev: what the meters look at; None evaluates nothing.
        recipe: text of the resolved recipe, saved with every checkpoint.
        sources: corpora and licences of the data, which every checkpoint names.
        answer: answers of the model at every evaluation, on each process its share: lines to show,
            and the word errors and words of its answers, (2,).
        callbacks: of the library's kind.

    Raises:
        InputError: see `pair_some`.
    """

    def __init__(  # noqa: PLR0913  what a run consists of
        self,
        model: BlspForConditionalGeneration,
        processor: BlspProcessor,
        *,
        config: TrainingConfig,
        loss: LossConfig,
        train: ConversationDataset,
        dev: ConversationDataset | None = None,
        recipe: str = "",
        sources: Sequence[Source] = (),
        answer: Callable[..., tuple[list[str], Tensor]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        self.processor, self.config, self.loss_config = processor, config, loss
        self.dev, self.recipe, self.answer = dev, recipe, answer
        self._dev_pairs = None if dev is None else pair_some(dev, processor, config)
        self.sources = sources
        self.collate = Collator(processor.tokenizer.pad_token_id)  # type: ignore[arg-type]
        self.heard_seconds = 0.0
        """Seconds of audio this process has trained on."""
        self.left_out: dict[str, str] = {}
        """id -> why, of examples whose audio could not be read."""
        self.window: list[str] = []
        """Ids of the step so far."""
        self.eval_line = ""
        self.answers: list[str] = []
        self.encoder_cache: EncoderCache | None = None
        self.signal, self.late = StopOnSignal(), LateProcess(config.late_process_seconds)
        known = set(vars(model.config))
        arguments = build_arguments(config, evaluates=dev is not None)
        # Without a processing class: the library would align the models' special tokens with it.
        super().__init__(
            model,
            arguments,
            train_dataset=train,
            eval_dataset=dev,  # type: ignore[arg-type]
            data_collator=self.collate,
            callbacks=[_StepChecks(self), self.signal, self.late, *(callbacks or [])],
        )
        quantized = any(hasattr(model, f"is_loaded_in_{bits}bit") for bits in (4, 8))
        prepare_launch(
            self.accelerator,
            optimizer=config.optimizer,
            quantized=quantized,
            blocks=model._no_split_modules,  # type: ignore[arg-type]
        )
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        if "use_cache" not in known:  # the library leaves it there, and a checkpoint would keep it
            vars(model.config).pop("use_cache", None)
        if config.encoder_cache_gb:
            self.encoder_cache = install_cache(model, config.encoder_cache_gb)
        self.model_accepts_loss_kwargs = True  # the loss is divided by the tokens of the step
        self._loss_shifts_labels = True

    @property
    def bare_model(self) -> BlspForConditionalGeneration:
        """The model without what several processes wrap around it."""
        return self.accelerator.unwrap_model(self.model)

    # --- batches ----------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        """Our sampler in a plain loader; a prepared one loses the epoch when it resumes."""
        dataset: Any = self.train_dataset
        return DataLoader(
            dataset,
            batch_sampler=self._sampler(dataset),
            collate_fn=self.collate,
            num_workers=self.config.workers,
            pin_memory=not self.args.use_cpu,
        )

    def dev_batches(self) -> Iterator[tuple[Batch, Batch]]:
        """This process's share of the development batches and their floor, on its device."""
        pairs: Any = self._dev_pairs
        for positions in self._sampler(pairs.dataset):
            both = collate_pairs([pairs[i] for i in positions], self.collate)
            yield self._prepare_inputs(both[0]), self._prepare_inputs(both[1])

    def _sampler(self, dataset: ConversationDataset) -> DurationBatchSampler:
        return DurationBatchSampler(
            dataset.durations,
            dataset.tokens,
            self.config.batches(),
            regions=dataset.regions,
            rank=self.args.process_index,
            world=self.args.world_size,
        )

    # --- a step -----------------------------------------------------------------------------------

    def fill_cache(self) -> None:
        """Encode what is going to be heard, where one process hears all of it and it is kept."""
        if self.encoder_cache is not None and self.args.world_size == 1:
            heard: list[Any] = [one for one in (self.train_dataset, self.dev) if one is not None]
            fill_cache(self.encoder_cache, self.bare_model, heard)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The recipe's optimizer over what is trained."""
        if self.config.optimizer == "adamw":
            return super().create_optimizer(model)
        if self.optimizer is None:
            whole: Any = model or self.model
            optimizer: Any = MuonAdamW(
                [p for p in whole.parameters() if p.requires_grad],
                learning_rate=self.config.learning_rate,
                weight_decay=self.config.weight_decay,
                dtype=choose_dtype(self.config.dtype),
            )
            self.optimizer = optimizer
        return self.optimizer  # type: ignore[return-value]

    def compute_loss(  # type: ignore[override]
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        """The weighted objectives over the response tokens of the whole step."""
        set_frozen_to_eval(self.bare_model, keep_llm=self.config.gradient_checkpointing)
        self._note(inputs)
        self.late.count()
        objectives = self.loss_config.at(self.state.global_step)
        loss = compute_loss(model, self.bare_model, inputs, objectives, num_items_in_batch)
        self.late.count()
        if not torch.isfinite(loss):
            self._stop(f"a loss of {loss.item()}", inputs["ids"])
        # Gradients are averaged over processes, and this is a share of a sum.
        return loss * self.accelerator.num_processes if num_items_in_batch is not None else loss

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: Any) -> Tensor | None:
        """What the objectives are means over, (5,): the library would count labels alone."""
        if not batch_samples:
            return None
        counts = torch.stack([count_items(batch) for batch in batch_samples]).sum(0).to(device)
        return self.accelerator.reduce(counts, reduction="sum")  # type: ignore[return-value]

    def _note(self, batch: Batch) -> None:
        self.window += batch["ids"]
        if "input_features_mask" in batch:
            self.heard_seconds += float(batch["input_features_mask"].sum()) / 100
        for line in batch["left_out"]:
            name, _, reason = line.partition(": ")
            self.left_out[name] = reason

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        norm = torch.as_tensor(super()._clip_grad_norm(model))
        if not torch.isfinite(norm):
            # The gradient is that of all processes, and so all of them are here.
            self._stop(f"a gradient of norm {float(norm)}", gather_object(self.window))
        return norm

    def _stop(self, found: str, ids: list[str]) -> None:
        """Save which examples did it, and stop."""
        step = self.state.global_step + 1
        path = self.config.output / FAILED_BATCH
        with atomic_path(path) as temporary:
            content = {"step": step, "found": found, "ids": ids}
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        if not self.is_fsdp_enabled:  # shards are gathered by all, and this may be one process
            with atomic_path(path.with_name(FAILED_WEIGHTS)) as temporary:
                save_file(self.bare_model.delta_state(), temporary)
        raise InputError(
            f"expected finite numbers, found {found} at step {step}; the ids of the batch are in "
            f"{path}: try them one by one with --replay, or lower training.learning_rate"
        )

    def floating_point_ops(self, inputs: Batch) -> int:  # type: ignore[override]
        """Not counted: the library's rule knows neither encoder nor teacher."""
        return 0

    # --- evaluation -------------------------------------------------------------------------------

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:  # type: ignore[override]
        """Meter the development examples beside floor and ceiling."""
        model = self.bare_model.eval()
        meter = measure(model, self.dev_batches())
        if self.args.world_size > 1:
            meter.reduce(lambda sums: self.accelerator.reduce(sums, reduction="sum"))  # type: ignore[arg-type,return-value]
        numbers = {f"eval_{name}": value for name, value in meter.numbers().items()}
        self.eval_line = meter.line()
        if self.answer:
            rank, world = self.args.process_index, self.args.world_size
            if self.is_fsdp_enabled:  # sharded layers run on all processes or on none: all answer
                rank, world = 0, 1
            self.answers, sums = self.answer(model, rank=rank, world=world)
            sums = self.accelerator.reduce(sums.to(self.args.device), reduction="sum")
            if sums[1]:  # type: ignore[index]
                numbers["eval_answer_wer"] = (sums[0] / sums[1]).item()  # type: ignore[index]
                self.eval_line += f" | answers {numbers['eval_answer_wer']:.1%} words wrong"
        self.log(dict(numbers))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, numbers
        )
        return numbers

    # --- checkpoints ------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write trained weights and the trainer's state; the marker and the name come last."""
        final = self.config.output / f"{STEP_FOLDER}{self.state.global_step}"
        folder = final.with_name(f".{final.name}.tmp")
        self.write_folder(folder)
        self.accelerator.wait_for_everyone()
        with explained_writes(folder):
            self._save_optimizer_and_scheduler(str(folder))
            self._save_rng_state(str(folder))
        if self.is_world_process_zero():
            self.state.save_to_json(str(folder / "trainer_state.json"))
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            place(folder, final)
            for old in find_checkpoints(final.parent)[: -self.config.keep_checkpoints or None]:
                shutil.rmtree(old)

    def save_final(self) -> Path:
        """Write what `load_checkpoint` reads, without the trainer's state."""
        final = self.config.output / FINAL_FOLDER
        folder = final.with_name(f".{final.name}.tmp")
        self.write_folder(folder)
        if self.is_world_process_zero():
            place(folder, final)
        self.accelerator.wait_for_everyone()
        return final

    def write_folder(self, folder: Path) -> None:
        """Trained weights, processor and recipe, without the marker; all processes call it."""
        delta = self.bare_model.delta_state()
        if not self.is_world_process_zero():
            return
        shutil.rmtree(folder, ignore_errors=True)
        with explained_writes(folder):
            write_checkpoint(self.bare_model, self.processor, delta, folder)
            (folder / RECIPE).write_text(self.recipe, encoding="utf-8")
            write_provenance(folder, self.sources, self.bare_model.config.bases or {})

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """The library's, which under FSDP would write the whole language model beside."""
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        plugin = self.accelerator.state.fsdp_plugin
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        if self.is_world_process_zero():
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")  # type: ignore[union-attr]

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Only what this kind of run has written: sharded or not."""
        wanted = "optimizer.bin" if self.is_fsdp_enabled else "optimizer.pt"
        if checkpoint is not None and not (Path(checkpoint) / wanted).is_file():
            raise InputError(
                f"{checkpoint}: expected {wanted}, found none: a run goes on as it began, with "
                "FSDP or without; launch it that way, or begin another from these weights with "
                "model.init_from"
            )
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except ValueError as error:
            raise InputError(
                f"{checkpoint}: expected the optimizer's state of what is trained now, found "
                f"another ({error}); leave training.optimizer and model.lora as they were, or "
                "begin another run from these weights with model.init_from"
            ) from error

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        warm_start(self.bare_model, resume_from_checkpoint)


class _StepChecks(TrainerCallback):
    """Checks the gradients of the first step, before anything is changed by them."""

    def __init__(self, trainer: AlignmentTrainer) -> None:
        self.trainer = trainer
        self.done = False

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.trainer.fill_cache()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.trainer.window = []

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        if not self.done:
            check_gradients(self.trainer.bare_model)
            self.done = True


def check_gradients(model: BlspForConditionalGeneration) -> None:
    """Refuse a model of which not exactly the right part learns, after a backward pass.

    A gradient of zero is right at the first step for half of a LoRA; none at all never is.

    Raises:
        InputError: a frozen adapter weight, a trained one without gradient, or a frozen one with.
    """
    faults = {"frozen in the adapter": [], "trained without a gradient": [], "frozen with one": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.grad is None:
            faults["trained without a gradient"].append(name)
        if not parameter.requires_grad and parameter.grad is not None:
            faults["frozen with one"].append(name)
        if not parameter.requires_grad and name.startswith("model.adapter."):
            faults["frozen in the adapter"].append(name)
    for fault, names in faults.items():
        if names:
            raise InputError(
                "expected a gradient for every weight that is trained and for no other, found "
                f"{len(names)} {fault} ({', '.join(names[:3])}); unfreeze them, or give the loss "
                "a way to them"
            )


def set_frozen_to_eval(model: BlspForConditionalGeneration, *, keep_llm: bool) -> None:
    """Put the parts that are not trained into evaluation mode.

    Args:
        keep_llm: leave the language model, because gradient checkpointing asks for training mode;
            its dropout is zero anyway.
    """
    parts = [model.model.audio_tower] + ([] if keep_llm else [model.model.language_model])
    for part in parts:
        if not any(parameter.requires_grad for parameter in part.parameters()):
            part.eval()


def pair_some(
    dev: ConversationDataset, processor: BlspProcessor, config: TrainingConfig
) -> ShuffledPairs:
    """Return the development examples that an evaluation looks at, and their floor.

    Raises:
        InputError: see `ShuffledPairs`.
    """
    some = dev.select(spread(len(dev), config.eval_examples))
    return ShuffledPairs(some, processor.audio_token_id)


def spread(count: int, most: int) -> list[int]:
    """Return at most `most` of `count` indices, evenly spread."""
    kept = min(count, most)
    return [i * count // kept for i in range(kept)]


def place(folder: Path, final: Path) -> None:
    """Mark a folder as whole and give it its name; one that had the name goes."""
    mark_complete(folder)
    earlier = final.with_name(f".{final.name}.earlier")
    shutil.rmtree(earlier, ignore_errors=True)
    if final.exists():
        final.rename(earlier)  # a folder cannot be renamed onto another
    folder.rename(final)
    shutil.rmtree(earlier, ignore_errors=True)


def find_checkpoints(output: Path) -> list[Path]:
    """Return the whole checkpoints of a run that it can go on from, oldest first."""
    found = [path for path in output.glob(f"{STEP_FOLDER}*") if is_complete(path)]
    return sorted(found, key=lambda path: int(path.name.removeprefix(STEP_FOLDER)))
