"""`blsp data`: looking at manifests and conversations before they cost a training run.

`validate` lists what is wrong with a file, with `--decode` in its audio too. `show` prints one row,
with `--llm` as the student and the teacher will see it, trained tokens marked. `supervise` writes
conversations whose answers a manifest knows, `transcribe` a manifest whose missing transcripts are
Whisper's. The exit code is 1 where something is wrong.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from blsp.errors import InputError
from blsp.manifest import (
    AudioPart,
    Conversation,
    Kind,
    TextPart,
    Utterance,
    build_conversation,
    build_utterance,
    checked,
    find_kind,
    find_root,
    read_meta,
    scan_rows,
    to_row,
)
from blsp.rendering import CLOSE, IGNORED, OPEN, Rendered, Renderer, View, mark_trained
from blsp.validation import Report, validate


def main(argv: Sequence[str]) -> int:
    """Run `validate`, `show`, `supervise` or `transcribe`."""
    parser = argparse.ArgumentParser(
        prog="blsp data", description="Look at data, and add answers or transcripts."
    )
    actions = parser.add_subparsers(dest="action", required=True)
    check = actions.add_parser("validate", help="list what is wrong with a file of JSON lines")
    check.add_argument("path", type=Path, help="manifest or conversations")
    check.add_argument("--decode", action="store_true", help="decode all audio too")
    check.add_argument("--limit", type=int, default=20, help="problems shown (default 20)")
    show = actions.add_parser("show", help="print one row")
    show.add_argument("path", type=Path, help="manifest or conversations")
    show.add_argument("--id", help="which row (default: the first)")
    show.add_argument("--llm", type=Path, help="folder of the model whose tokens to show")
    add = actions.add_parser("supervise", help="write conversations with a manifest's own answers")
    add.add_argument("path", type=Path, help="manifest")
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
    _add_transcribe(actions)
    options = parser.parse_args(argv)
    if options.action == "transcribe":
        return run_transcribe(options, argv)
    if options.action == "supervise":
        return run_supervise(options, argv)
    if options.action == "validate":
        return run_validate(options.path, decode=options.decode, limit=options.limit)
    print(describe_row(options.path, options.id, options.llm))
    return 0


def run_supervise(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Write the conversations and say how many."""
    from blsp.arguments import join_command
    from blsp.generation import read_prompt
    from blsp.supervision import write_answers

    counts = write_answers(
        options.path,
        options.out,
        answer=options.answer,
        prompts=[read_prompt(text) for text in options.prompt],
        command=join_command("data", argv),
    )
    without = counts["without an answer"]
    print(f"{options.out}: {counts['written']} conversations; without an answer: {without}")
    return 0


def _add_transcribe(actions: Any) -> None:
    fill = actions.add_parser("transcribe", help="fill in missing transcripts with Whisper")
    fill.add_argument("path", type=Path, help="manifest, such as of blsp prep folder")
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


def run_transcribe(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Write the manifest and say how many rows were filled; 1 where none was."""
    from blsp.arguments import join_command
    from blsp.transcription import TranscriptionConfig, load_listener, transcribe_manifest

    config = TranscriptionConfig(
        language=options.language,
        batch_size=options.batch_size,
        max_compression_ratio=options.max_compression_ratio,
        min_log_probability=options.min_log_probability,
    )
    listener = load_listener(options.whisper, options.revision)
    command = join_command("data", argv)
    counts = transcribe_manifest(options.path, options.out, listener, config, command=command)
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


def run_validate(path: Path, *, decode: bool, limit: int) -> int:
    """Print the report on a file; return 1 when it has problems."""
    report = validate(path, limit=limit)
    if decode:
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


# --- show -----------------------------------------------------------------------------------------


def describe_row(path: Path, name: str | None, llm: Path | None) -> str:
    """Return one row as text, and both of its views where a language model is given.

    Raises:
        InputError: no such row, a bad row, or a folder without tokenizer or chat template.
    """
    kind = find_kind(path)
    row = _find_row(path, kind, name)
    if kind == "manifest":
        if llm is not None:
            raise InputError(
                f"{path}: expected conversations to show with --llm, found a manifest; leave out "
                "--llm"
            )
        return "\n".join(f"{key:<12}{value}" for key, value in to_row(build_utterance(row)).items())
    conversation = build_conversation(row)
    text = describe_conversation(conversation)
    return f"{text}\n\n{describe_views(conversation, path, llm)}" if llm else text


def _find_row(path: Path, kind: Kind, name: str | None) -> dict[str, Any]:
    count = 0
    for line in scan_rows(path, kind):
        count += 1
        if name is None or line.row.get("id") == name:
            return checked(path, line)
    raise InputError(f"{path}: expected a row with id {name!r}, found none in {count}; check --id")


def describe_conversation(conversation: Conversation) -> str:
    """Return a conversation as a person reads it."""
    about = [f"{key}: {value}" for key, value in to_row(conversation).items() if key != "messages"]
    turns = [
        f"{message.role:<11}" + "".join(map(_describe_part, message.content)).replace("\n", _INDENT)
        for message in conversation.messages
    ]
    return "\n".join([", ".join(about), *turns])


_INDENT = "\n" + " " * 11


def _describe_part(part: TextPart | AudioPart) -> str:
    if isinstance(part, TextPart):
        both = part.teacher is None
        return part.text if both else f"<student: {part.text!r}, teacher: {part.teacher!r}>"
    return f"<audio {part.audio}, {part.duration:.2f} s: {part.transcript}>"


def describe_views(conversation: Conversation, path: Path, llm: Path) -> str:
    """Return the student and the teacher view as text, trained tokens between brackets."""
    tokenizer = _load_tokenizer(llm)
    meta = read_meta(path)
    # Any id that no text can give: the real placeholder is chosen when a model is composed.
    renderer = Renderer(
        tokenizer, meta.template_variables if meta else None, audio_token_id=len(tokenizer)
    )
    views: tuple[View, View] = ("student", "teacher")
    blocks = [
        _describe_view(view, renderer.render(conversation, view=view), tokenizer) for view in views
    ]
    if meta and meta.template and meta.template != renderer.template_fingerprint():
        blocks.append(f"written with another template or model: {meta.llm}")
    return "\n\n".join(blocks)


def _load_tokenizer(folder: Path) -> Any:
    if not folder.is_dir():
        raise InputError(f"{folder}: expected the folder of a language model, found none; check it")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder}: expected a tokenizer, found this: {' '.join(str(error).split())[:200]}; "
            "name the folder that holds tokenizer.json"
        ) from error


def _describe_view(view: View, rendered: Rendered, tokenizer: Any) -> str:
    trained = sum(label != IGNORED for label in rendered.labels)
    heard = ", each recording counted as one" if rendered.audio else ""
    head = f"{view}: {len(rendered.ids)} tokens{heard}; {trained} trained, in {OPEN} {CLOSE}"
    recordings = [
        (slot, slot + 1, f"<audio {part.audio}, {part.duration:.2f} s>")
        for slot, part in rendered.audio
    ]
    return f"{head}\n{mark_trained(rendered.ids, rendered.labels, tokenizer, recordings)}"
