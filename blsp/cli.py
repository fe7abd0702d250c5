"""The `blsp` command: one table from a command to the function that runs it.

Modules are imported only when their command is called, so that `blsp --help` answers at once. A
command line enters; an exit code leaves: 0 done, 1 the command found something wrong, 2 the user's
input was wrong (one line on stderr, the traceback with `--debug`), 130 interrupted.
"""

import argparse
import errno
import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from blsp import __version__
from blsp.errors import InputError, UnreachableError, describe_error, suggest
from blsp.shipped import Folder, copy_recipe, list_programs, list_recipes, program_module

# name -> (module:function that takes the arguments and returns an exit code, one-line help)
COMMANDS = {
    "quickstart": ("blsp.tiny.quickstart:main", "run the main job on the embedded tiny world"),
    "doctor": ("blsp.doctor:main", "say what is installed, missing, and fast on this machine"),
    "fetch": ("blsp.fetch:main", "download the base models of a recipe, to be offline later"),
    "recipes": ("blsp.cli:run_recipes", "list the shipped recipes, or copy one to edit it"),
    "prep": ("blsp.cli:run_prep", "turn a corpus on disk into manifests"),
    "data": ("blsp.data:main", "validate or show a manifest or conversations"),
    "import": ("blsp.cli:run_import", "turn an Ultravox or BLSP checkpoint into one of ours"),
    "continuations": ("blsp.continuation:main", "let the language model answer transcripts"),
    "generate": ("blsp.generate:main", "answer recordings with a checkpoint"),
    "chat": ("blsp.terminal:main", "talk with a checkpoint in the terminal"),
    "train": ("blsp.train:main", "run a recipe: train the adapter of a speech model"),
    "sft": ("blsp.sft:main", "train a language model on text, before it learns to hear"),
    "eval": (
        "blsp.cli:run_eval",
        "score a checkpoint on any manifest: asr, st, slu, ser, sqa, reply",
    ),
    "bench": ("blsp.cli:run_bench", "score a checkpoint on a named benchmark"),
    "report": (
        "blsp.reporting:report_main",
        "score predictions again, write report.html; compare runs",
    ),
    "export": ("blsp.export:main", "write a checkpoint and its base models into one folder"),
    "verify": ("blsp.verify:main", "prove that a checkpoint left its language model untouched"),
}

# Logger -> how what it says to nobody's use begins: advice on import to install a CPU kernel that
# 4-bit models are kept from here; what 8-bit products always do, at every one of them.
_NOISE = {
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    "bitsandbytes.autograd._functions": "MatMul8bitLt: inputs will be cast",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for name in _NOISE:
        logging.getLogger(name).addFilter(_is_news)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        return _dispatch(_import_packages(arguments))
    except (InputError, UnreachableError, OSError) as error:
        if debug or not (message := _user_message(error)):
            raise
        print(f"blsp: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("blsp: interrupted", file=sys.stderr)
        return 130


def _import_packages(arguments: list[str]) -> list[str]:
    """Import the packages that ``--import`` names; return the other arguments."""
    rest = list(arguments)
    while "--import" in rest:
        position = rest.index("--import")
        if position + 1 == len(rest):
            raise InputError("--import: expected the name of a package, found none")
        name = rest[position + 1]
        try:
            import_module(name)
        except ImportError as error:
            raise InputError(f"--import: expected an installed package, found {error}") from error
        del rest[position : position + 2]
    return rest


def _is_news(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(tuple(_NOISE.values()))


def _dispatch(arguments: list[str]) -> int:
    # Everything after the command's name belongs to the command, options included.
    position = next((i for i, text in enumerate(arguments) if not text.startswith("-")), None)
    parser = _build_parser()
    parser.parse_args(arguments[:position])
    if position is None:
        parser.print_help()
        return 0
    name = arguments[position]
    if name not in COMMANDS:
        raise InputError(f"expected a command, found {name!r}; {suggest(name, COMMANDS)}")
    module, _, function = COMMANDS[name][0].partition(":")
    return getattr(import_module(module), function)(arguments[position + 1 :])


def _build_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {line}" for name, (_, line) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="blsp",
        usage="blsp [--debug] [--import PACKAGE] COMMAND ...",
        description="Give an open language model ears, by behaviour alignment.",
        epilog=f"commands:\n{listing}\n\n`blsp COMMAND --help` says what a command takes.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"blsp {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument(
        "--import", metavar="PACKAGE", help="import a package that a checkpoint names"
    )
    return parser


def _user_message(error: Exception) -> str | None:
    """Return the line to print, or None for an error that is ours and deserves its traceback."""
    if isinstance(error, InputError | UnreachableError):
        return describe_error(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" for {error.filename}" if error.filename else ""
        return f"expected room on the disk{where}, found it full; free some and run this again"
    return None


def run_recipes(argv: Sequence[str]) -> int:
    """List the shipped recipes, or copy one."""
    parser = argparse.ArgumentParser(prog="blsp recipes", description=COMMANDS["recipes"][1])
    actions = parser.add_subparsers(dest="action")
    copy = actions.add_parser("copy", help="copy a recipe to edit it")
    copy.add_argument("name")
    copy.add_argument("--to", type=Path, default=Path(), help="folder (default: this one)")
    options = parser.parse_args(argv)
    if options.action == "copy":
        print(copy_recipe(options.name, options.to))
    else:
        _print_listing(list_recipes(), nothing="no recipe ships with this version")
    return 0


def run_prep(argv: Sequence[str]) -> int:
    """Run `data_prep/CORPUS.py`, or list the corpora."""
    return _run_program("data_prep", argv, prog="blsp prep", noun="corpus")


def run_import(argv: Sequence[str]) -> int:
    """Turn a published checkpoint into ours, and say what it is made of."""
    from blsp.arguments import add_base_options

    parser = argparse.ArgumentParser(prog="blsp import", description=COMMANDS["import"][1])
    parser.add_argument("source", help="folder or hub id of an Ultravox or BLSP checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    add_base_options(parser)
    options = parser.parse_args(argv)
    from blsp.model.importing import describe_import, import_checkpoint

    model, _ = import_checkpoint(
        options.source, options.out, llm=options.llm, encoder=options.encoder
    )
    print(describe_import(model.config, options.out))
    return 0


def run_eval(argv: Sequence[str]) -> int:
    """Run the benchmark program of `--task`, which takes all other arguments."""
    programs = list_programs("eval")
    tasks = "".join(f"\n  {name:<8}{summary}" for name, summary in programs.items())
    parser = argparse.ArgumentParser(
        prog="blsp eval",
        usage="blsp eval CHECKPOINT --task TASK --manifest FILE [--out DIR] ...",
        description=COMMANDS["eval"][1],
        epilog=f"tasks:{tasks}\n\n`blsp bench TASK --help` says what each task takes.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--task", required=True)
    options, rest = parser.parse_known_args(argv)
    if options.task not in programs:
        raise InputError(
            f"expected a task, found {options.task!r}; {suggest(options.task, programs)}"
        )
    return import_module(program_module("eval", options.task)).main(rest)


def run_bench(argv: Sequence[str]) -> int:
    """Run `eval/BENCHMARK.py`, or list the benchmarks."""
    return _run_program("eval", argv, prog="blsp bench", noun="benchmark")


def _run_program(folder: Folder, argv: Sequence[str], *, prog: str, noun: str) -> int:
    programs = list_programs(folder)
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: {prog} {noun.upper()} ...\n")
        _print_listing(programs, nothing=f"no {noun} program ships with this version")
        return 0
    name = argv[0]
    if name not in programs:
        raise InputError(f"expected a {noun}, found {name!r}; {suggest(name, programs)}")
    return import_module(program_module(folder, name)).main(argv[1:])


def _print_listing(entries: dict[str, str], *, nothing: str) -> None:
    if not entries:
        print(nothing)
        return
    width = max(map(len, entries))
    for name, summary in entries.items():
        print(f"{name:<{width}}  {summary}")
