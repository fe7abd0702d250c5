"""`blsp train RECIPE`, and `accelerate launch -m blsp.train RECIPE`: from a recipe to a checkpoint.

It puts model, data and trainer together and runs them. `--dry-run` tries one batch and writes
nothing; `--overfit N` trains on N examples, which anything that can learn at all must master.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, set_seed

from blsp.arguments import choose_device
from blsp.audio import load_audio
from blsp.caching import FeatureCache
from blsp.checkpoint import is_complete
from blsp.dataset import ConversationDataset, DataConfig, Demands, LoadFeatures
from blsp.errors import InputError, UnreachableError, describe_error, suggest
from blsp.extensions import import_named
from blsp.hardware import find_ranks
from blsp.locking import hold
from blsp.manifest import AudioPart
from blsp.model import (
    BlspForConditionalGeneration,
    BlspProcessor,
    LlmOptions,
    compose,
    warm_start,
)
from blsp.model.cformer import CFormerAdapter
from blsp.model.foundations import quantization_options
from blsp.model.processing import Features
from blsp.preflight import run_preflight
from blsp.progress import FixedUtterances, Progress
from blsp.prompts import build_renderer
from blsp.provenance import Source, add_up, join_sources, read_sources
from blsp.recipe import Header, Recipe, describe_serving, dump_recipe, load_recipe
from blsp.replay import read_failed, replay_batch
from blsp.shipped import find_shipped, list_recipes
from blsp.trainer import (
    FINAL_FOLDER,
    AlignmentTrainer,
    choose_dtype,
    find_checkpoints,
    pair_some,
    spread,
)
from blsp.trainer import RECIPE as SAVED_RECIPE

LARGEST_IN_FP32 = 1_000_000_000
"""Weights of a language model that fp32 is reasonable for on a GPU."""

KEPT = ("learning_rate", "weight_decay", "eval_steps", "save_steps", "log_steps")
"""Of `training`: what the library takes from the checkpoint, whatever the recipe says."""

TERMINATED = 143
"""Exit code of a run that SIGTERM ended, by convention."""

OVERFIT_RECOVERED = 0.95
"""What training on a few examples must recover of the way from not hearing to reading."""
OVERFIT_STEPS = 600

Report = Callable[[str], None]


def main(argv: Sequence[str]) -> int:
    """Train; 1 if `--overfit` did not get there."""
    parser = argparse.ArgumentParser(prog="blsp train", description="Run a recipe.")
    parser.add_argument("recipe", help="YAML file, or the name of a shipped recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="training.steps=100")
    parser.add_argument("--dry-run", action="store_true", help="try one batch, write nothing")
    parser.add_argument("--overfit", type=int, metavar="N", help="train on N examples only")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument(
        "--replay", action="store_true", help="try the batch that stopped a run, one by one"
    )
    options = parser.parse_intermixed_args(argv)
    recipe, header = load_recipe(find_recipe(options.recipe), options.overrides)
    recipe = resolve(recipe)
    # Overrides may have made something else of it than the header says.
    header = replace(header, serves_with=describe_serving(recipe.model))
    report = print if find_ranks().rank == 0 else _say_nothing
    if options.dry_run:
        return dry_run(recipe, header, report)
    if options.replay:
        return replay(recipe, report)
    if options.overfit is not None:
        return overfit(recipe, header, options.overfit, report)
    train(recipe, header, resume=options.resume, report=report)
    return 0


def _say_nothing(line: str) -> None:
    """What all processes but the first say."""


def find_recipe(name: str) -> Path:
    """A file, or a shipped recipe by its name."""
    if Path(name).is_file() or name.endswith((".yaml", ".yml")):
        return Path(name)
    recipes = list_recipes()
    if name not in recipes:
        raise InputError(
            f"expected a recipe file or the name of a shipped recipe, found {name!r}; "
            f"{suggest(name, recipes)}"
        )
    return find_shipped("recipes") / f"{name}.yaml"


def resolve(recipe: Recipe) -> Recipe:
    """Settle what the recipe leaves to the machine."""
    dtype = "bf16" if choose_dtype(recipe.training.dtype) == torch.bfloat16 else "fp32"
    return replace(recipe, training=replace(recipe.training, dtype=dtype))


# --- putting the parts together -------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a run is made of."""

    model: BlspForConditionalGeneration
    processor: BlspProcessor
    train: ConversationDataset
    dev: ConversationDataset | None


def build_parts(recipe: Recipe) -> Parts:
    """Compose the model and open the data.

    Raises:
        InputError: one line on what cannot work.
    """
    import_extensions(recipe)
    set_seed(recipe.training.seed)
    model, processor = build_model(recipe)

    def open_data(paths: tuple[Path, ...]) -> ConversationDataset:
        cache_gb = recipe.training.encoder_cache_gb
        return build_dataset(model, processor, recipe.data.config(paths), cache_gb=cache_gb)

    train = open_data(recipe.data.train)
    dev = open_data(recipe.data.dev) if recipe.data.dev else None
    check_data(recipe, train, dev)
    model.config.trained_max_seconds = float(train.durations.max())
    return Parts(model=model, processor=processor, train=train, dev=dev)


def check_data(recipe: Recipe, train: ConversationDataset, dev: ConversationDataset | None) -> None:
    """Refuse data of which nothing, or nothing that an objective asks for, is left.

    Raises:
        InputError: there are no conversations, or no emotions for `loss.emotion_ce`.
    """
    for name, dataset in (("train", train), ("dev", dev)):
        if dataset is not None and not len(dataset):
            skipped = "".join(f"; {count} skipped: {why}" for why, count in dataset.skipped.items())
            raise InputError(
                f"data.{name}: expected conversations, found none in "
                f"{len(dataset.config.conversations)} files{skipped}; write some with "
                "`blsp continuations`"
            )
    if recipe.loss.emotion_ce and not train.labelled:
        raise InputError(
            "loss.emotion_ce: expected recordings with an emotion of model.emotions "
            f"({', '.join(recipe.model.emotions)}) in data.train, found none among "
            f"{len(train):,} conversations; state `emotion` in the manifest they are written "
            "from, or set the weight to 0"
        )


def describe_skipped(parts: Parts) -> list[str]:
    """A line for each reason why conversations are left out."""
    both = {"data.train": parts.train, "data.dev": parts.dev}
    return [
        f"skipped {count:,} conversations of {name}: {reason}"
        for name, dataset in both.items()
        if dataset is not None
        for reason, count in dataset.skipped.items()
    ]


def import_extensions(recipe: Recipe) -> None:
    """Import what the recipe names of other packages: a recipe is its user's own."""
    if recipe.model.adapter.class_:
        import_named(recipe.model.adapter.class_, key="model.adapter.class")
    for name in recipe.loss.others:
        import_named(name, key=f"loss.{name}")


def build_model(recipe: Recipe) -> tuple[BlspForConditionalGeneration, BlspProcessor]:
    """The model of a recipe; base weights are 16-bit where multiplications are."""
    wanted = recipe.model
    dtype = torch.bfloat16 if recipe.training.dtype == "bf16" else torch.float32
    device = local_device()
    # On a CPU plain attention, above all its backward pass, is faster at the lengths of speech.
    attention = None if device.type == "cuda" else "eager"
    quantization = quantization_options(wanted.llm_bits, dtype)
    model, processor = compose(
        llm=wanted.llm,
        encoder=wanted.encoder,
        adapter=wanted.adapter,
        lora=wanted.lora,
        audio_padding=wanted.audio_padding,
        llm_revision=wanted.llm_revision,
        encoder_revision=wanted.encoder_revision,
        options=LlmOptions(
            dtype=dtype,
            attn_implementation=attention,
            quantization_config=quantization,
            # The trainer moves what is not quantised; quantised weights are loaded where they stay.
            device_map={"": device} if quantization else None,
        ),
        encoder_dtype=dtype,
        template_variables=wanted.template_variables or None,
        emotions=wanted.emotions,
    )
    if attention and isinstance(model.model.adapter, CFormerAdapter):
        model.model.adapter.audio_config._attn_implementation = attention
    if quantization:
        trained = model.model.adapter, model.model.emotion_head
        for part in (model.model.audio_tower, *filter(None, trained)):
            torch.nn.Module.to(part, device)
    check_precision(model, recipe)
    if wanted.init_from is not None:
        warm_start(model, wanted.init_from)
    return model, processor


def local_device() -> torch.device:
    """The one device of this process."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", find_ranks().local)


def check_precision(model: BlspForConditionalGeneration, recipe: Recipe) -> None:
    """Refuse a large language model in fp32 on a GPU, which is what lacks bf16 leads to.

    Raises:
        InputError: it would take twice the memory and many times the time, for hours.
    """
    if not torch.cuda.is_available() or recipe.training.dtype == "bf16":
        return
    size = sum(parameter.numel() for parameter in model.model.language_model.parameters())
    if recipe.model.llm_bits == 16 and size > LARGEST_IN_FP32:
        raise InputError(
            f"model.llm: expected at most {LARGEST_IN_FP32 / 1e9:g} billion weights where the GPU "
            f"({torch.cuda.get_device_name()}) has no bf16, because fp16 overflows in many "
            f"language models and is not offered, found {size / 1e9:.1f} billion; take a smaller "
            "one, model.llm_bits: 4, or a GPU with bf16 (from 2020)"
        )


def build_dataset(
    model: BlspForConditionalGeneration,
    processor: BlspProcessor,
    config: DataConfig,
    *,
    cache_gb: float = 0.0,
) -> ConversationDataset:
    """Conversations with the features and placeholders that the model takes.

    Args:
        model: which says by its configuration what it asks of its data.
        processor: its own.
        config: which files.
        cache_gb: of features to keep in memory.
    """
    hop = processor.feature_extractor.hop_length

    def load_features(part: AudioPart, root: Path) -> Features:
        samples = load_audio(
            part.audio,
            start=part.start,
            duration=part.duration,
            root=root,
            expected_seconds=part.duration,
        )
        return processor.extract_features(samples)

    load: LoadFeatures = load_features
    if cache_gb:
        load = FeatureCache(load_features, cache_gb, source=repr(processor.feature_extractor))
    wanted = model.config
    return ConversationDataset(
        config,
        build_renderer(model, processor),
        load,
        lambda frames: processor.num_speech_tokens(frames * hop),
        llm=(wanted.bases or {})["llm"]["fingerprint"],
        demands=Demands(
            decides_length=wanted.adapter.decides_length, emotions=tuple(wanted.emotions or ())
        ),
    )


# --- what the command does ------------------------------------------------------------------------


def train(recipe: Recipe, header: Header, *, resume: bool, report: Report) -> Path:
    """Run a recipe to its end; return the folder of the final checkpoint.

    Raises:
        InputError: what cannot work, an earlier run lies in the output folder, or another is still
            going there.
    """
    first = find_ranks().rank == 0
    with hold(recipe.training.output) if first else nullcontext():
        return _train(recipe, header, resume=resume, report=report)


def _train(recipe: Recipe, header: Header, *, resume: bool, report: Report) -> Path:
    result = recipe.training.output / FINAL_FOLDER
    begin_from = find_start(recipe.training.output, result, resume=resume)
    if resume and is_complete(result) and find_finished(recipe.training, result):
        report(f"finished already: {result}")
        return result
    if begin_from is not None:
        check_kept(recipe, begin_from)
    parts = build_parts(recipe)
    if parts.dev is None:
        report("no data.dev: nothing will say how well the model hears, beside the loss")
    for line in describe_skipped(parts):
        report(line)
    report(f"serves with: {header.serves_with}")
    trainer = build_trainer(recipe, header, parts, report)
    report(
        f"training on {trainer.args.world_size} process(es), {trainer.args.device}, "
        f"{recipe.training.dtype}"
    )
    check_processes(recipe, trainer.args.world_size)
    trainer.train(resume_from_checkpoint=None if begin_from is None else str(begin_from))
    if trainer.signal.stopped:
        step = trainer.state.global_step
        report(f"stopped by SIGTERM after step {step}, which is saved; go on with --resume")
        raise SystemExit(TERMINATED)
    final = trainer.save_final()
    if trainer.left_out:
        names = ", ".join(sorted(trainer.left_out)[:5])
        report(f"left out {len(trainer.left_out)} with unreadable audio: {names}")
    report(f"checkpoint: {final}")
    return final


def check_processes(recipe: Recipe, found: int) -> None:
    """Refuse another number of processes than the recipe was made for.

    Raises:
        InputError: a launcher started more or fewer.
    """
    wanted = recipe.training.processes
    if wanted is not None and wanted != found:
        raise InputError(
            f"training.processes: expected {wanted} processes, found {found}; start them with "
            f"`accelerate launch --num_processes {wanted} -m blsp.train` (on CPUs with --multi_gpu "
            "too), or change training.processes and the batch"
        )


def find_start(output: Path, result: Path, *, resume: bool) -> Path | None:
    """The checkpoint to go on from; None is the beginning. ``result`` is what a run ends with."""
    found = find_checkpoints(output)
    if resume and not found:
        raise InputError(
            f"{output}: expected a finished checkpoint to resume from, found none; leave out "
            "--resume to begin"
        )
    if not resume and (found or result.exists()):
        raise InputError(
            f"{output}: expected no earlier run, found one; go on with --resume, or set "
            "training.output to another folder"
        )
    return found[-1] if resume else None


def check_kept(recipe: Recipe, begin_from: Path) -> None:
    """Refuse other values of what a checkpoint brings back with it.

    Raises:
        InputError: the recipe has another than the run, and it would have no effect.
    """
    saved, _ = load_recipe(begin_from / SAVED_RECIPE)
    for name in KEPT:
        began, found = (getattr(one.training, name) for one in (saved, recipe))
        if began != found:
            raise InputError(
                f"training.{name}: expected {began:g}, with which the run in {begin_from.parent} "
                f"goes on, found {found:g}; leave it, or begin another run from these "
                "weights with model.init_from"
            )


def find_finished(training: Any, final: Path, schema: Any = Recipe) -> Path | None:
    """What a run left at its end, if it went as far as its recipe says now.

    Args:
        training: that part of the recipe, of a run on speech or on text.
        final: where the result lies, with the recipe that it was made by.
        schema: of that recipe.
    """
    if not (final / SAVED_RECIPE).is_file():
        return None
    saved, _ = load_recipe(final / SAVED_RECIPE, schema=schema)
    wanted = training.steps, training.epochs
    return final if (saved.training.steps, saved.training.epochs) == wanted else None


def build_trainer(
    recipe: Recipe,
    header: Header,
    parts: Parts,
    report: Report,
    callbacks: Sequence[TrainerCallback] = (),
) -> AlignmentTrainer:
    """The trainer with its progress line and fixed utterances."""
    progress = Progress(report)
    shown = parts.dev or parts.train
    trainer = AlignmentTrainer(
        parts.model,
        parts.processor,
        config=recipe.training,
        loss=recipe.loss,
        train=parts.train,
        dev=parts.dev,
        recipe=dump_recipe(recipe, header),
        sources=find_sources(recipe, parts),
        answer=FixedUtterances(shown, parts.processor, recipe.training.eval_answers),
        callbacks=[progress, *callbacks],
    )
    progress.trainer = trainer
    return trainer


def find_sources(recipe: Recipe, parts: Parts) -> list[Source]:
    """What the weights will have learnt from: this data, that of the run they begin from, and that
    of a language model which was trained here on text."""
    rows = ((*key, int(count), seconds) for key, (count, seconds) in parts.train.sources.items())
    begun = recipe.model.init_from
    heard = read_sources(Path(begun)) if begun else []
    earlier = join_sources(read_sources(Path(recipe.model.llm)), heard)
    return join_sources(earlier, add_up(rows))


def dry_run(recipe: Recipe, header: Header, report: Report) -> int:
    """Try one batch and say what the run will be; nothing is written."""
    parts = build_parts(recipe)
    if parts.dev is not None:
        pair_some(parts.dev, parts.processor, recipe.training)  # as a run's evaluation will
    torch.nn.Module.to(parts.model, choose_device()[0])
    lines = run_preflight(parts.model, parts.processor, parts.train, recipe.loss, recipe.training)
    for line in [*describe_skipped(parts), *lines, f"serves with: {header.serves_with}"]:
        report(line)
    return 0


def replay(recipe: Recipe, report: Report) -> int:
    """Try the examples of the batch that stopped a run, one by one; 1 if one of them does it alone.

    Raises:
        InputError: no run was stopped here, or its data is another now.
    """
    failed = read_failed(recipe.training.output)
    parts = build_parts(recipe)
    torch.nn.Module.to(parts.model, choose_device()[0])
    return replay_batch(parts.model, parts.processor, parts.train, failed, recipe, report)


class _StopWhenRecovered(TrainerCallback):
    """Ends a run that has shown what it was to show."""

    recovered = 0.0

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any
    ) -> None:
        self.recovered = metrics.get("eval_recovered", 0.0)
        if self.recovered > OVERFIT_RECOVERED:  # or as it was: this may be the last step
            control.should_training_stop = True


def overfit(recipe: Recipe, header: Header, count: int, report: Report) -> int:
    """Train and measure on the same few examples; 1 if too little is recovered."""
    if count < 2:
        raise InputError(f"--overfit: expected 2 examples or more, found {count}; 16 is usual")
    training = replace(
        recipe.training,
        output=recipe.training.output / f"overfit-{count}",
        steps=OVERFIT_STEPS,
        epochs=None,
        warmup_steps=min(recipe.training.warmup_steps, OVERFIT_STEPS // 20),
        accumulation=1,
        eval_steps=max(1, OVERFIT_STEPS // 12),
        save_steps=10 * OVERFIT_STEPS,
        workers=0,  # few examples are one batch an epoch, and workers begin anew with each
    )
    recipe = replace(recipe, training=training)
    parts = build_parts(recipe)
    for line in describe_skipped(parts):
        report(line)
    few = parts.train.select(spread(len(parts.train), count))
    stop = _StopWhenRecovered()
    parts = replace(parts, train=few, dev=few)
    trainer = build_trainer(recipe, header, parts, report, [stop])
    trainer.train()
    reached = stop.recovered > OVERFIT_RECOVERED
    advice = "it can learn" if reached else "it does not learn: look at the examples (--dry-run)"
    report(
        f"recovered {stop.recovered:.1%} on {len(few)} examples after {trainer.state.global_step} "
        f"steps, expected more than {OVERFIT_RECOVERED:.0%}: {advice}"
    )
    return 0 if reached else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (InputError, UnreachableError) as mistake:
        print(f"blsp: {describe_error(mistake)}", file=sys.stderr)
        sys.exit(2)
