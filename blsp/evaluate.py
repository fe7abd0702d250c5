"""What `blsp eval` and `blsp bench` share: arguments in, a scored run folder out.

A benchmark program says what is asked (its prompt, labels and metrics are data at the top of its
file) and calls `run_tasks`; everything else is here. Each run writes `predictions/`, `results.json`
and `report.html`, prints the table, and goes on where an earlier call of the same run stopped.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blsp.arguments import add_bits_option, add_checkpoint_options
from blsp.benchmark import MODEL_FREE, Benchmark
from blsp.cards import write_cards
from blsp.endpoint import KEY
from blsp.errors import InputError
from blsp.foreign import connect_all, load_answers
from blsp.generation import GenerationConfig
from blsp.manifest import Utterance
from blsp.model.foundations import resolve_folder
from blsp.noise import BABBLE, KINDS, Noise
from blsp.official import (
    Corpus,
    Named,
    collect_values,
    find_corpus,
    find_tests,
    load_corpora,
    read_whole,
)
from blsp.prompts import read_prompt
from blsp.report import write_report
from blsp.reporting import format_results
from blsp.results import SHUFFLED_TEXT, SYSTEMS
from blsp.running import run
from blsp.systems import Models, load_models, no_models
from blsp.tasks import MetricName, Task
from blsp.testsets import TestSet, load_test_set
from blsp.whispers import Recogniser, load_recognisers, names_whisper

VOICED = tuple(system for system in SYSTEMS if system != SHUFFLED_TEXT)
"""The systems where the voice tells the answer and the words do not: another's words then say
nothing about what another's voice should score."""


def build_parser(
    name: str, description: str, *, systems: Sequence[str] = SYSTEMS
) -> argparse.ArgumentParser:
    """Return the arguments that every benchmark program takes.

    Args:
        name: of the program.
        description: its docstring, of which the first line is shown.
        systems: who is asked unless told otherwise.
    """
    parser = _Parser(
        prog=f"blsp bench {name}", description=description.partition("\n")[0], allow_abbrev=False
    )
    add_checkpoint_options(parser, required=False)
    add_bits_option(parser)
    _add_data_options(parser, load_corpora(name))
    parser.add_argument("--out", type=Path, help=f"folder (default: runs/eval/{name})")
    parser.add_argument(
        "--instruction",
        action="append",
        type=read_prompt,
        metavar="TEXT",
        help="ask this instead, {audio} on a line of its own (\\n); several are dealt by id",
    )
    default = "all" if tuple(systems) == SYSTEMS else ",".join(systems)
    parser.set_defaults(usual_systems=tuple(systems))
    parser.add_argument("--systems", help=f"of {','.join(SYSTEMS)} (default: {default})")
    _add_foreign_options(parser)
    parser.add_argument(
        "--by",
        action="append",
        default=[],
        metavar="FIELD",
        help="slice scores by a key of the manifest (speaker, accent, ...) or by duration",
    )
    _add_noise_options(parser)
    parser.add_argument("--limit", type=int, help="first so many utterances of each manifest")
    parser.add_argument("--held-out", action="store_true", help="mark as unlike all training data")
    parser.add_argument("--batch-size", type=int, default=32, help="answers at once (default 32)")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="(default 128)")
    parser.add_argument(
        "--whisper",
        help="the cascade's, whose spellings English is scored with (default: the encoder's own)",
    )
    return parser


def _add_data_options(parser: argparse.ArgumentParser, known: Named) -> None:
    parser.add_argument(
        "--manifest",
        action="append",
        metavar="[NAME=]FILE",
        help="test set; several are scored as conditions, named as the file if not otherwise",
    )
    parser.set_defaults(corpus=None, data=None, known=known)
    if known:
        parser.add_argument(
            "--corpus",
            metavar="NAME",
            help=f"official test, labels, metrics and instruction of {', '.join(known)}",
        )
        parser.add_argument(
            "--data",
            type=Path,
            metavar="DIR",
            help="where blsp prep wrote the corpus (default: data/NAME)",
        )


def _add_noise_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--snr",
        default="",
        metavar="DB,DB",
        help="also under noise of so many decibels below the speech, such as 20,10,5,0: each level "
        "is a condition",
    )
    parser.add_argument(
        "--noise",
        choices=KINDS,
        default=BABBLE,
        help=f"for --snr (default {BABBLE}: other recordings of the set at once)",
    )


class _Parser(argparse.ArgumentParser):
    """Lets the checkpoint stand anywhere, though it may be left out, and looks up the corpus."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        return _look_up(self.parse_intermixed_args(args, namespace))


def _look_up(options: argparse.Namespace) -> argparse.Namespace:
    """Put the `Corpus` in `official`, an empty one if none is named, and its tests in `manifest`.

    Raises:
        InputError: an unknown corpus, one whose test is not there, or nothing to score.
    """
    name = options.corpus
    if options.data is not None and name is None:
        raise InputError("--data: expected --corpus NAME with it, found none; name the corpus")
    options.official = find_corpus(options.known, name) if name is not None else Corpus()
    if name is not None:
        options.data = options.data or Path("data") / (options.official.prep or name)
        options.manifest = options.manifest or find_tests(options.official, name, options.data)
    if not options.manifest:
        other = " or --corpus NAME" if options.known else ""
        raise InputError(f"expected --manifest FILE{other}, found none; name what is scored")
    return options


def _add_foreign_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--system",
        action="append",
        default=[],
        metavar="openai:URL#MODEL, [NAME=]whisper:SOURCE",
        help=f"beside the checkpoint or alone: a server that hears, its key, if it wants one, in "
        f"${KEY}; or a Whisper, folder or hub id, where words are asked for",
    )
    parser.add_argument(
        "--at-once", type=int, default=8, help="recordings under way to a server (default 8)"
    )
    parser.add_argument(
        "--predictions",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help='answers made elsewhere, {"id": ..., "prediction": ...} a line',
    )


def load_sets(options: argparse.Namespace) -> tuple[TestSet, ...]:
    """Read the manifests that were named.

    Raises:
        InputError: a limit below 1, levels of noise that are no numbers, or a manifest that is
            wrong.
    """
    if options.limit is not None and options.limit < 1:
        raise InputError(f"expected --limit of at least 1, found {options.limit}; leave it out")
    sets = []
    for text in options.manifest:
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            name, path = Path(text).stem, text
        clean = load_test_set(Path(path), name, limit=options.limit)
        sets.append(clean)
        for level in _read_levels(options.snr):
            noise = Noise(kind=options.noise, snr_db=level)
            sets.append(replace(clean, condition=f"{name}, {level:g} dB", noise=noise))
    return tuple(sets)


def _read_levels(text: str) -> list[float]:
    """`20,10,5` -> [20.0, 10.0, 5.0]."""
    try:
        return [float(each) for each in text.split(",") if each]
    except ValueError as error:
        raise InputError(f"--snr: expected numbers such as 20,10,5,0, found {text!r}") from error


def find_values(sets: Sequence[TestSet], field: str) -> tuple[str, ...]:
    """Return what a key of the utterances holds anywhere, each value once, sorted."""
    utterances: list[Utterance] = [one for test_set in sets for one in test_set.utterances]
    return collect_values(utterances, field)


def choose_prompts(options: argparse.Namespace, usual: str) -> list[str]:
    """Return what was asked for on the command line, else of the corpus, else as usual."""
    return options.instruction or [options.official.instruction or usual]


def collect_labels(
    options: argparse.Namespace, sets: Sequence[TestSet], field: str
) -> tuple[str, ...]:
    """Return all labels: those named, else the corpus's list, else those that its manifests have.

    Args:
        options: of a parser with `--labels`.
        sets: that are scored, whose labels count too.
        field: where a label stands.
    """
    if options.labels:
        return tuple(options.labels.split(","))
    if options.official.labels:
        return options.official.labels
    whole = read_whole(options.official, options.data) if options.data else []
    return tuple(sorted({*find_values(sets, field), *collect_values(whole, field)}))


@dataclass(frozen=True, kw_only=True)
class LabelBenchmark:
    """A benchmark of which the answer is one of some labels, for `run_labels`."""

    name: str
    """Of the program."""
    field: str
    """Of the utterances, where the right label stands; also what the task is called."""
    instruction: str
    """Asked unless told otherwise; ``{labels}`` becomes the labels with commas."""
    metrics: tuple[MetricName, ...]
    systems: tuple[str, ...] = SYSTEMS


def run_labels(benchmark: LabelBenchmark, description: str, argv: Sequence[str] | None) -> int:
    """Be the program of a benchmark of labels; returns the exit code.

    Args:
        benchmark: what is asked.
        description: the program's docstring.
        argv: None takes those of the process.

    Raises:
        InputError: no utterance has a label, or what `run_tasks` finds wrong.
    """
    options = build_label_parser(benchmark, description).parse_args(argv)
    sets = load_sets(options)
    task = build_label_task(benchmark, options, sets)
    return run_tasks(options, [task], sets, command=write_command(benchmark.name, argv))


def build_label_parser(benchmark: LabelBenchmark, description: str) -> argparse.ArgumentParser:
    """Return the arguments of a benchmark of labels."""
    parser = build_parser(benchmark.name, description, systems=benchmark.systems)
    parser.add_argument(
        "--labels", help=f"all {benchmark.field}s, with commas (default: the corpus's, manifests')"
    )
    return parser


def build_label_task(
    benchmark: LabelBenchmark, options: argparse.Namespace, sets: Sequence[TestSet]
) -> Task:
    """Return the question that has one of some labels as its answer.

    Args:
        benchmark: what is asked where neither corpus nor command line say otherwise.
        options: of `build_label_parser`.
        sets: that are scored.

    Raises:
        InputError: no utterance has a label.
    """
    official: Corpus = options.official
    field = official.field or benchmark.field
    if not find_values(sets, field):
        raise InputError(
            f"expected `{field}` in the utterances of {', '.join(options.manifest)}, found none; "
            "add it, or score another task"
        )
    labels = collect_labels(options, sets, field)
    prompts = choose_prompts(options, benchmark.instruction)
    return Task(
        name=field,
        prompts=tuple(prompt.replace("{labels}", ", ".join(labels)) for prompt in prompts),
        reference=field,
        metrics=official.metrics or benchmark.metrics,
        labels=labels,
        held_out=options.held_out,
    )


def run_tasks(
    options: argparse.Namespace, tasks: Sequence[Task], sets: Sequence[TestSet], *, command: str
) -> int:
    """Score a checkpoint on tasks, print the table, return the exit code.

    Args:
        options: of `build_parser`.
        tasks: what to ask; `--instruction` is for the program to put into them.
        sets: of `load_sets`.
        command: what was called, for the record.

    Raises:
        InputError: whatever is wrong with checkpoint, manifests or folder.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = GenerationConfig(max_new_tokens=options.max_new_tokens, batch_size=options.batch_size)
    out = options.out or Path("runs/eval") / "-".join(task.name for task in tasks)
    plain = [text for text in options.system if names_whisper(text)]
    servers = [text for text in options.system if text not in plain]
    whispers = load_recognisers(plain, tasks, config)
    benchmark = Benchmark(
        tasks=tuple(tasks),
        sets=tuple(sets),
        systems=choose_systems(options),
        servers=tuple(connect_all(servers, config, options.at_once)),
        files=tuple(map(load_answers, options.predictions)),
        whispers=tuple(whispers),
        by=tuple(options.by),
        command=command,
    )
    results = run(benchmark, _load(options, config, whispers, out), out, on_progress=say)
    print(format_results(results))
    write_cards(out, results)
    print(f"\nwritten: {out / 'results.json'}, {write_report(out)}")
    return 0


def choose_systems(options: argparse.Namespace) -> tuple[str, ...]:
    """Return who is asked besides systems from elsewhere.

    Raises:
        InputError: a system that needs a checkpoint, and none is named.
    """
    named = tuple(options.systems.split(",")) if options.systems else options.usual_systems
    if options.checkpoint is not None:
        return named
    if not options.systems and (options.system or options.predictions):
        return tuple(system for system in named if system in MODEL_FREE)
    wanting = [system for system in named if system not in MODEL_FREE]
    if wanting:
        raise InputError(
            f"expected a CHECKPOINT for the system {wanting[0]!r}, found none; name its folder, or "
            "score --system openai:URL#MODEL, --system whisper:SOURCE or --predictions FILE alone"
        )
    return named


def _load(
    options: argparse.Namespace,
    config: GenerationConfig,
    whispers: Sequence[Recogniser],
    out: Path,
) -> Models:
    """Load the checkpoint's models; without one, find the table of spellings alone."""
    if options.checkpoint is None:
        spellings = options.whisper and resolve_folder(options.whisper, None, what="Whisper")
        return no_models(spellings or (whispers[0].folder if whispers else out))
    if sys.stderr.isatty():
        print(f"loading {options.checkpoint}", file=sys.stderr)
    return load_models(
        options.checkpoint,
        config,
        llm=options.llm,
        encoder=options.encoder,
        whisper=options.whisper,
        bits=options.bits,
    )


def write_command(name: str, argv: Sequence[str] | None) -> str:
    """Return a benchmark program's call as it can be typed again."""
    return f"blsp bench {name} {shlex.join(sys.argv[1:] if argv is None else argv)}".strip()


def say(label: str, done: int, total: int) -> None:
    """Show progress on a terminal."""
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{label:<40}{done:>8,} of {total:,}", end=end, file=sys.stderr, flush=True)
