"""`blsp data`: looking at manifests and conversations, choosing of them, packing them.

Options are read and results printed here; the work is done in `validation`, `statistics`,
`inspection` and the like. `validate --decode` looks into the audio, too. The exit code is 1 where
something is wrong.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from blsp.errors import InputError
from blsp.files import atomic_path
from blsp.locking import hold
from blsp.manifest import (
    AudioPart,
    Kind,
    Utterance,
    build_conversation,
    build_utterance,
    find_root,
    scan_rows,
)
from blsp.validation import Report, validate


def main(argv: Sequence[str]) -> int:
    """Run one of the actions."""
    parser = argparse.ArgumentParser(
        prog="blsp data", description="Look at data, choose of it, pack it, and add answers."
    )
    actions = parser.add_subparsers(dest="action", required=True)
    for add in (
        _add_validate,
        _add_stats,
        _add_show,
        _add_filter,
        _add_split,
        _add_shard,
        _add_convert,
        _add_supervise,
        _add_transcribe,
    ):
        add(actions)
    options = parser.parse_args(argv)
    options.command = shlex.join(["blsp", "data", *argv])
    return options.run(options)


def _add_action(
    actions: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
    path: str = "manifest or conversations",
) -> argparse.ArgumentParser:
    """Add an action that reads one file."""
    parser = actions.add_parser(name, help=text, description=text)
    parser.add_argument("path", type=Path, help=path)
    parser.set_defaults(run=run)
    return parser


def _add_validate(actions: Any) -> None:
    check = _add_action(actions, "validate", run_validate, "list what is wrong with a file")
    check.add_argument("--decode", action="store_true", help="decode all audio too")
    check.add_argument("--limit", type=int, default=20, help="problems shown (default 20)")


def _add_stats(actions: Any) -> None:
    text = "say what a file is made of: hours, lengths, speaking rates, labels"
    stats = _add_action(actions, "stats", run_stats, text)
    stats.add_argument("--html", type=Path, help="write it as a page, too")


def _add_show(actions: Any) -> None:
    show = _add_action(actions, "show", run_show, "print one row")
    show.add_argument("--id", help="which row (default: the first)")
    show.add_argument("--llm", type=Path, help="folder of the model whose tokens to show")


def _add_filter(actions: Any) -> None:
    choose = _add_action(actions, "filter", run_filter, "write the rows that pass all conditions")
    choose.add_argument("--out", type=Path, required=True, help="what to write (.jsonl)")
    choose.add_argument("--min-seconds", type=float, metavar="S", help="of every recording")
    choose.add_argument("--max-seconds", type=float, metavar="S")
    rate = "of every recording: what is far off has other words than its transcript"
    choose.add_argument("--min-words-per-second", type=float, metavar="N", help=rate)
    choose.add_argument("--max-words-per-second", type=float, metavar="N")
    choose.add_argument(
        "--language", action="append", default=[], help="keep this one; may be given again"
    )
    choose.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="keep rows with that value, or without: 'KEY!=VALUE'; 'text!=' keeps those with words",
    )


def _add_split(actions: Any) -> None:
    text = "write parts that share no value of a field; rows added later move no other"
    split = _add_action(actions, "split", run_split, text)
    split.add_argument("--out", type=Path, required=True, help="folder for NAME.jsonl of each part")
    split.add_argument("--parts", required=True, help="train=0.9,dev=0.05,test=0.05")
    split.add_argument(
        "--by", default="id", help="field that stays together, such as speaker (default: id)"
    )


def _add_shard(actions: Any) -> None:
    text = "pack audio and rows into a few large files; killed, it goes on"
    shard = _add_action(actions, "shard", run_shard, text)
    shard.add_argument("--out", type=Path, required=True, help="folder for shards and manifest")
    shard.add_argument("--size", default="1GB", help="audio in a shard, at most (default 1GB)")
    shard.add_argument("--format", choices=("tar", "parquet"), default="tar", help="default tar")


def _add_convert(actions: Any) -> None:
    text = "turn a manifest into the file of another tool, or that into a manifest"
    convert = _add_action(
        actions, "convert", run_convert, text, "manifest, JSON lines of NeMo, or a .csv or .tsv"
    )
    convert.add_argument("--out", type=Path, required=True, help="what to write")
    convert.add_argument(
        "--to", choices=("blsp", "nemo", "csv", "tsv"), help="default: by the ending of --out"
    )
    convert.add_argument(
        "--root", type=Path, help="folder that holds all audio (default: that of the file)"
    )


def _add_supervise(actions: Any) -> None:
    text = "write conversations with a manifest's own answers"
    add = _add_action(actions, "supervise", run_supervise, text, "manifest")
    add.add_argument(
        "--answer", required=True, help="field of the answer: text, intent, translation.de"
    )
    add.add_argument(
        "--prompt",
        action="append",
        required=True,
        help="what is asked; \\n begins a line, {audio} has its own, {labels} are all answers",
    )
    add.add_argument("--out", type=Path, required=True, help="conversations to write (.jsonl)")


def run_show(options: argparse.Namespace) -> int:
    """Print a row."""
    from blsp.inspection import describe_row

    print(describe_row(options.path, options.id, options.llm))
    return 0


def run_stats(options: argparse.Namespace) -> int:
    """Print statistics, and write their page where one is asked for."""
    from blsp.statistics import compute_statistics, describe_statistics
    from blsp.statistics_page import build_statistics_page

    page = options.html
    if page is not None and page.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--html: expected a file that ends in .html, found {page}; rename it")
    found = compute_statistics(options.path)
    print(describe_statistics(options.path, found))
    if page is not None:
        with hold(page), atomic_path(page) as temporary:
            temporary.write_text(build_statistics_page(options.path, found), encoding="utf-8")
        print(f"\n{page}")
    return 0


def run_filter(options: argparse.Namespace) -> int:
    """Write what passes; say what did not."""
    from blsp.selection import KEPT, Bounds, build_conditions, write_filtered

    conditions = build_conditions(
        seconds=Bounds(low=options.min_seconds, high=options.max_seconds),
        word_rate=Bounds(low=options.min_words_per_second, high=options.max_words_per_second),
        languages=options.language,
        where=options.where,
    )
    counts = write_filtered(options.path, options.out, conditions, command=options.command)
    print(f"{options.out}: {counts.pop(KEPT):,} of {options.path} written")
    print("".join(f"  dropped {count:,}: {why}\n" for why, count in counts.items()), end="")
    return 0


def run_split(options: argparse.Namespace) -> int:
    """Write the parts; say how large they are."""
    from blsp.selection import find_far_off, parse_parts, write_parts

    shares = parse_parts(options.parts)
    parts = write_parts(options.path, options.out, shares, by=options.by, command=options.command)
    for part in parts:
        print(f"{part.path}: {part.rows:,} lines, {part.seconds / 3600:,.2f} h of audio")
    print("".join(f"warning: {line}\n" for line in find_far_off(parts)), end="")
    return 0


def run_shard(options: argparse.Namespace) -> int:
    """Pack a file; say each shard that is whole."""
    from blsp.shards import parse_size, write_shards

    packed = write_shards(
        options.path,
        options.out,
        size=parse_size(options.size),
        kind=options.format,
        command=options.command,
        on_shard=lambda path: print(f"{path}: {path.stat().st_size:,} bytes", flush=True),
    )
    files = f"{packed.files:,} audio files in {packed.shards:,} shards"
    print(f"{packed.manifest}: {packed.rows:,} lines, {files}")
    return 0


def run_convert(options: argparse.Namespace) -> int:
    """Write the other form."""
    from blsp.conversion import choose_form, convert

    form = options.to or choose_form(options.out)
    count = convert(
        options.path, options.out, form=form, root=options.root, command=options.command
    )
    print(f"{options.out}: {count:,} rows ({form})")
    return 0


def run_supervise(options: argparse.Namespace) -> int:
    """Write the conversations and say how many."""
    from blsp.prompts import read_prompt
    from blsp.supervision import write_answers

    counts = write_answers(
        options.path,
        options.out,
        answer=options.answer,
        prompts=[read_prompt(text) for text in options.prompt],
        command=options.command,
    )
    without = counts["without an answer"]
    print(f"{options.out}: {counts['written']} conversations; without an answer: {without}")
    return 0


def _add_transcribe(actions: Any) -> None:
    text = "fill in missing transcripts with Whisper"
    path = "manifest, such as of blsp prep folder"
    fill = _add_action(actions, "transcribe", run_transcribe, text, path)
    fill.add_argument("--whisper", required=True, help="folder or hub id of a whole Whisper")
    fill.add_argument("--revision", help="commit or tag of a hub id")
    fill.add_argument("--out", type=Path, required=True, help="manifest to write (.jsonl)")
    fill.add_argument(
        "--language", default="en", help="of rows that do not say theirs (default en)"
    )
    fill.add_argument(
        "--batch-size", type=int, default=16, help="pieces of up to 30 s at once (default 16)"
    )
    fill.add_argument(
        "--max-compression-ratio",
        type=float,
        default=2.4,
        help="leave out texts that zlib makes smaller, which are loops (default 2.4, as Whisper)",
    )
    fill.add_argument(
        "--min-log-probability",
        type=float,
        default=-1.0,
        help="leave out texts whose tokens have a lower mean (default -1.0, as Whisper)",
    )


def run_transcribe(options: argparse.Namespace) -> int:
    """Write the manifest and say how many rows were filled; 1 where none was."""
    from blsp.transcription import TranscriptionConfig, load_listener, transcribe_manifest

    config = TranscriptionConfig(
        language=options.language,
        batch_size=options.batch_size,
        max_compression_ratio=options.max_compression_ratio,
        min_log_probability=options.min_log_probability,
    )
    listener = load_listener(options.whisper, options.revision)
    counts = transcribe_manifest(
        options.path, options.out, listener, config, command=options.command
    )
    if counts is None:
        print(f"{options.out}: this process has done its part; the last one to end writes the file")
        return 0
    told = ("written", "kept", "transcribed")
    faults = ", ".join(f"{count} {why}" for why, count in counts.items() if why not in told)
    print(
        f"{options.out}: {counts['written']} utterances, {counts['transcribed']} of them "
        f"transcribed now; left out: {faults or 'none'}"
    )
    return 0 if counts["transcribed"] else 1


# --- validate -------------------------------------------------------------------------------------


def run_validate(options: argparse.Namespace) -> int:
    """Print the report on a file; return 1 when it has problems."""
    path, limit = options.path, options.limit
    report = validate(path, limit=limit)
    if options.decode:
        for problem in find_unreadable(path, report):
            report.problem_count += 1
            if len(report.problems) < limit:
                report.problems.append(problem)
    hours = report.seconds / 3600
    print(f"{path}: {report.kind}, {report.rows:,} lines, {hours:,.2f} h of audio")
    print("".join(f"warning: {line}\n" for line in report.warnings), end="")
    print("".join(f"{line}\n" for line in report.problems), end="")
    hidden = report.problem_count - len(report.problems)
    shown = f", {hidden:,} of them not shown" if hidden else ""
    print(f"{report.problem_count:,} problems{shown}" if report.problem_count else "all right")
    return 1 if report.problem_count else 0


def find_unreadable(path: Path, report: Report) -> Iterator[str]:
    """Decode every recording of the rows without a problem, once each; yield what fails."""
    from blsp.audio import load_audio

    root, seen = find_root(path), set()
    for number, part in _show_progress(_find_audio(path, report.kind), report.seconds):
        segment = (part.audio, part.start, part.duration)
        if segment in seen:
            continue
        seen.add(segment)
        try:
            load_audio(
                part.audio,
                start=part.start,
                duration=part.duration,
                root=root,
                expected_seconds=part.duration,
            )
        except InputError as error:
            yield f"{path}:{number}: {error}"


def _find_audio(path: Path, kind: Kind) -> Iterator[tuple[int, AudioPart | Utterance]]:
    """Yield line number and recording of every row in order."""
    for line in scan_rows(path, kind):
        if line.problems:
            continue
        if kind == "manifest":
            yield line.number, build_utterance(line.row)
            continue
        for part in build_conversation(line.row).recordings:
            yield line.number, part


def _show_progress(
    recordings: Iterable[tuple[int, AudioPart | Utterance]], total: float
) -> Iterator[tuple[int, AudioPart | Utterance]]:
    """Pass recordings on and say on a terminal how far they are, twice a second."""
    begun = said = time.monotonic()
    done = 0.0
    for number, part in recordings:
        yield number, part
        done += part.duration
        if sys.stderr.isatty() and time.monotonic() - said > 0.5:
            said = time.monotonic()
            speed = done / (said - begun)
            left = (total - done) / speed
            text = f"{done / total:4.0%} decoded, {speed:,.0f} times real time, {left:,.0f} s left"
            print(f"\r{text:<60}", end="", file=sys.stderr, flush=True)
    if said != begun:
        print(file=sys.stderr)
