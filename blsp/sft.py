"""`blsp sft RECIPE`: a language model learns from text to answer, before it learns to hear.

BLSP's first step makes a chat model of a base model. The loop is trl's `SFTTrainer`; ours are the
conversations, rendered where those of speech are rendered, so that template and trained tokens are
the same in both stages, and checkpoints that count only when whole. A recipe without an encoder and
conversations enter (recordings as their transcripts); an ordinary model folder leaves, which
`model.llm` of the next recipe takes.
"""

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    set_seed,
)
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from blsp.checkpoint import mark_complete
from blsp.errors import InputError
from blsp.files import explained_writes
from blsp.generation import GenerationConfig, answer_texts
from blsp.hardware import find_ranks
from blsp.manifest import Conversation, TextPart, read_conversations
from blsp.model import LlmOptions, LoraConfig
from blsp.model.foundations import load_llm
from blsp.model.loading import load_tokenizer
from blsp.progress import RunLog
from blsp.provenance import (
    Source,
    add_up,
    join_sources,
    read_sources,
    write_text_provenance,
)
from blsp.recipe import Header, dump_recipe, load_recipe
from blsp.rendering import PLAIN_TEMPLATE, Renderer, Trained
from blsp.train import find_finished, find_recipe, find_start
from blsp.trainer import RECIPE, choose_dtype, is_there, spread

MODEL_FOLDER = "llm"
"""Of the finished model, in the folder of the run."""
MAX_NEW_TOKENS = 128

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class TextData:
    """What is read; recordings count as their transcripts."""

    train: tuple[Path, ...]
    """Files of conversations."""
    dev: tuple[Path, ...] = ()
    """Files of other conversations, for the loss and the answers."""
    trained: Trained = "last"
    """Which responses of a conversation carry a loss: the last or all."""


@dataclass(frozen=True, kw_only=True)
class TextModel:
    """What is trained."""

    llm: str
    """Folder or hub id of a decoder-only language model."""
    llm_revision: str | None = None
    """Commit or tag of a hub id."""
    chat_template: Literal["own", "plain"] = "own"
    """`plain` is for base models, which have none: roles as words, the end of sequence ends a turn.
    It is saved with the tokenizer."""
    template_variables: dict[str, Any] = field(default_factory=dict)
    """What the chat template is told beside the messages, such as `date`."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """`none` trains every weight, `all` low-rank weights, which are merged at the end."""

    def __post_init__(self) -> None:
        if self.lora.scope == "speech":
            raise InputError(
                "model.lora.scope: expected none or all, found speech, and there is none in text; "
                "change it"
            )


@dataclass(frozen=True, kw_only=True)
class TextTraining:
    """How long, how fast, and in what pieces."""

    output: Path
    """Folder of the run."""
    learning_rate: float
    """Peak; a cosine to zero follows the warm-up."""
    steps: int | None = None
    """Optimizer steps; this or `epochs`."""
    epochs: float | None = None
    warmup_steps: int = 100
    weight_decay: float = 0.0
    batch_examples: int = 8
    """Conversations in a batch, on one device."""
    accumulation: int = 1
    """Batches a step, on each device."""
    max_tokens: int = 2048
    """Longer conversations are left out, and counted."""
    eval_steps: int = 200
    eval_answers: int = 64
    """Development conversations answered at every evaluation."""
    save_steps: int = 200
    keep_checkpoints: int = 2
    log_steps: int = 10
    seed: int = 0
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    gradient_checkpointing: bool = False
    trackers: tuple[str, ...] = ("tensorboard",)

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise InputError(
                f"expected either steps or epochs, found steps {self.steps} and epochs "
                f"{self.epochs}; give one"
            )


@dataclass(frozen=True, kw_only=True)
class TextRecipe:
    """A run on text."""

    data: TextData
    model: TextModel
    training: TextTraining


# --- the command ----------------------------------------------------------------------------------


def main(argv: Sequence[str]) -> int:
    """Run a recipe to its end."""
    parser = argparse.ArgumentParser(prog="blsp sft", description="Train a language model on text.")
    parser.add_argument("recipe", help="YAML file, or the name of a shipped recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="training.steps=100")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    options = parser.parse_intermixed_args(argv)
    recipe, header = load_recipe(find_recipe(options.recipe), options.overrides, schema=TextRecipe)
    first = find_ranks().rank == 0
    train(recipe, header, resume=options.resume, report=print if first else lambda _: None)
    return 0


def train(recipe: TextRecipe, header: Header, *, resume: bool, report: Report) -> Path:
    """Run a recipe; return the folder of the finished model.

    Raises:
        InputError: what cannot work, or an earlier run lies in the output folder.
    """
    output = recipe.training.output
    result = output / MODEL_FOLDER
    begin_from = find_start(output, result, resume=resume)
    if resume and find_finished(recipe.training, result, TextRecipe):
        report(f"finished already: {result}")
        return result
    set_seed(recipe.training.seed)
    model, tokenizer = load_model(recipe)
    renderer = Renderer(tokenizer, recipe.model.template_variables)
    trainer = TextTrainer(
        model,
        recipe=recipe,
        renderer=renderer,
        train=encode(recipe.data.train, renderer, recipe, report),
        dev=encode(recipe.data.dev, renderer, recipe, report) if recipe.data.dev else None,
        report=report,
    )
    report(
        f"training {sum(p.numel() for p in trainer.model.parameters() if p.requires_grad):,} "  # type: ignore[union-attr]
        f"weights on {trainer.args.world_size} process(es), {trainer.args.device}"
    )
    trainer.train(resume_from_checkpoint=None if begin_from is None else str(begin_from))
    folder = trainer.save_finished(dump_recipe(recipe, header))
    report(f"language model: {folder}")
    return folder


def load_model(recipe: TextRecipe) -> tuple[Any, PreTrainedTokenizerBase]:
    """The language model with weights to train in float32, and its tokenizer with a template."""
    bf16 = choose_dtype(recipe.training.dtype) == torch.bfloat16
    frozen = torch.bfloat16 if bf16 else torch.float32
    dtype = torch.float32 if recipe.model.lora.scope == "none" else frozen
    source, revision = recipe.model.llm, recipe.model.llm_revision
    # On a CPU plain attention, above all its backward pass, is faster at these lengths.
    attention = None if torch.cuda.is_available() else "eager"
    options = LlmOptions(dtype=dtype, attn_implementation=attention)
    model, _ = load_llm(source, revision=revision, options=options)
    tokenizer = load_tokenizer(source, revision)
    if recipe.model.chat_template == "plain":
        tokenizer.chat_template = PLAIN_TEMPLATE
    return model, tokenizer


def encode(
    paths: tuple[Path, ...], renderer: Renderer, recipe: TextRecipe, report: Report
) -> tuple[Dataset, list[Conversation]]:
    """Return conversations as tokens, and as they are; those too long are left out.

    Raises:
        InputError: a bad line, or nothing is left.
    """
    kept: list[Conversation] = []
    rows: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    total = 0
    for conversation in (one for path in paths for one in read_conversations(path)):
        total += 1
        rendered = renderer.render(conversation, view="teacher", trained=recipe.data.trained)
        if len(rendered.ids) <= recipe.training.max_tokens:
            kept.append(conversation)
            rows["input_ids"].append(rendered.ids)
            rows["labels"].append(rendered.labels)
    names = ", ".join(map(str, paths))
    if not kept:
        raise InputError(
            f"{names}: expected conversations of at most {recipe.training.max_tokens} tokens, "
            f"found none among {total}; raise training.max_tokens or give other files"
        )
    if total > len(kept):
        report(f"{names}: left out {total - len(kept)} of {total}: too long")
    return Dataset.from_dict(rows), kept


# --- the loop -------------------------------------------------------------------------------------


class TextTrainer(SFTTrainer):
    """trl's trainer on conversations that are tokens already, with answers at every evaluation."""

    def __init__(
        self,
        model: Any,
        *,
        recipe: TextRecipe,
        renderer: Renderer,
        train: tuple[Dataset, list[Conversation]],
        dev: tuple[Dataset, list[Conversation]] | None,
        report: Report,
    ) -> None:
        self.recipe, self.renderer = recipe, renderer
        self.sources = find_sources(recipe, train[1])
        self.asked = [] if dev is None else pick(dev[1], recipe.training.eval_answers)
        super().__init__(
            model,
            build_arguments(recipe.training, evaluates=dev is not None),
            train_dataset=train[0],
            eval_dataset=None if dev is None else dev[0],
            processing_class=renderer.tokenizer,
            peft_config=build_lora(recipe.model.lora),
            callbacks=[TextProgress(report)],
        )
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.in_shards = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if self.in_shards and recipe.model.lora.scope != "none":
            raise InputError(
                "model.lora.scope: expected none under FSDP and DeepSpeed, found all, which cannot "
                "be merged in shards; launch as in recipes/accelerate/multi_gpu.yaml"
            )

    def evaluate(self, *arguments: Any, **options: Any) -> dict[str, float]:
        """Loss of the development conversations, and the share of answers that are the same."""
        numbers = super().evaluate(*arguments, **options)
        sums = self.accelerator.reduce(self._count_right().to(self.args.device), reduction="sum")
        numbers["eval_answers_right"] = (sums[0] / sums[1]).item()  # type: ignore[index]
        self.log({"eval_answers_right": numbers["eval_answers_right"]})
        return numbers

    def _count_right(self) -> torch.Tensor:
        """(2,) answers of this process that are the response, word for word, and all of its."""
        rank, world = self.args.process_index, self.args.world_size
        # Sharded layers run on all processes or on none: there all answer.
        mine = self.asked if self.in_shards else self.asked[rank::world]
        prompts = [self.renderer.render_question(one, view="teacher").ids for one in mine]
        config = GenerationConfig(max_new_tokens=MAX_NEW_TOKENS, batch_size=32)
        model = self.accelerator.unwrap_model(self.model).eval()
        with self.compute_loss_context_manager():
            answers = answer_texts(model, self.renderer.tokenizer, prompts, config)
        wanted = [_text_of(one.messages[-1].content) for one in mine]
        right = sum(answer.text == text for answer, text in zip(answers, wanted, strict=True))
        return torch.tensor([right, len(mine)], dtype=torch.float64)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As the library does; the marker comes last, and only marked folders are resumed."""
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            mark_complete(self.recipe.training.output / f"checkpoint-{self.state.global_step}")

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        # A pickle that nothing here reads. All processes come here, and one of them wrote it.
        folder = Path(output_dir or str(self.args.output_dir))
        (folder / "training_args.bin").unlink(missing_ok=True)

    def save_finished(self, recipe: str) -> Path:
        """Write the model, LoRA merged, with its tokenizer and the recipe."""
        folder = self.recipe.training.output / MODEL_FOLDER
        temporary = folder.with_name(f".{MODEL_FOLDER}.tmp")
        if self.in_shards:
            self.save_model(str(temporary), _internal_call=True)  # gathered by all processes
        elif self.is_world_process_zero():
            model: Any = self.accelerator.unwrap_model(self.model)
            if self.recipe.model.lora.scope != "none":
                model = model.merge_and_unload()
            model.to(choose_dtype(self.recipe.training.dtype)).save_pretrained(temporary)
        if self.is_world_process_zero():
            with explained_writes(temporary):
                self.renderer.tokenizer.save_pretrained(temporary)
                (temporary / RECIPE).write_text(recipe, encoding="utf-8")
                write_text_provenance(temporary, self.sources, self.recipe.model.llm)
                shutil.rmtree(folder, ignore_errors=True)  # of a run that had fewer steps
                temporary.rename(folder)
        self.accelerator.wait_for_everyone()
        return folder


def find_sources(recipe: TextRecipe, conversations: Sequence[Conversation]) -> list[Source]:
    """What the weights will have learnt from; hours are those whose transcripts are read."""
    rows = (
        (one.source, one.license, 1, sum(part.duration for part in one.recordings))
        for one in conversations
    )
    return join_sources(read_sources(Path(recipe.model.llm)), add_up(rows))


def pick(conversations: Sequence[Conversation], count: int) -> list[Conversation]:
    """Some of the conversations, evenly spread."""
    return [conversations[index] for index in spread(len(conversations), count)]


def _text_of(content: Sequence[Any]) -> str:
    return "".join(part.text for part in content if isinstance(part, TextPart)).strip()


def build_lora(config: LoraConfig) -> Any:
    """peft's configuration; None where every weight is trained."""
    if config.scope == "none":
        return None
    import peft

    return peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.targets) or "all-linear",
        task_type="CAUSAL_LM",
    )


def build_arguments(config: TextTraining, *, evaluates: bool) -> SFTConfig:
    """Translate into the library's arguments."""
    return SFTConfig(
        output_dir=str(config.output),
        max_steps=config.steps or -1,
        num_train_epochs=config.epochs or 1.0,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        per_device_train_batch_size=config.batch_examples,
        per_device_eval_batch_size=config.batch_examples,
        gradient_accumulation_steps=config.accumulation,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        train_sampling_strategy="group_by_length",
        eval_strategy="steps" if evaluates else "no",
        eval_on_start=evaluates,
        eval_steps=config.eval_steps,
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=config.keep_checkpoints,
        logging_steps=config.log_steps,
        logging_nan_inf_filter=False,
        seed=config.seed,
        bf16=choose_dtype(config.dtype) == torch.bfloat16,
        use_cpu=not torch.cuda.is_available(),
        activation_checkpointing=config.gradient_checkpointing,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=[name for name in config.trackers if is_there(name)],
    )


class TextProgress(RunLog):
    """Reports a run on text."""

    def lines(self, state: Any, logs: dict[str, float], seconds: float) -> Iterator[str]:
        """A line every few steps and at every evaluation."""
        if "loss" in logs:
            yield (
                f"step {state.global_step}/{state.max_steps}  loss {logs['loss']:.4f}  "
                f"{self.left(state, seconds)}"
            )
        if "eval_loss" in logs:
            yield f"  dev: loss {logs['eval_loss']:.4f}"
        if "eval_answers_right" in logs:
            yield f"  dev: {logs['eval_answers_right']:.1%} of the answers word for word"


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as mistake:
        print(f"blsp: {mistake}", file=sys.stderr)
        sys.exit(2)
