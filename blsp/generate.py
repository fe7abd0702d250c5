"""Predictions: what a checkpoint says to recordings, one JSON line each.

A manifest or sound files and an instruction enter; `predictions.jsonl` and its side file leave, or
lines on standard output. A recording that cannot be read gets a line that says why, so that one
broken file does not cost a night. Interrupted, the same command goes on.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from blsp.arguments import (
    add_bits_option,
    add_checkpoint_options,
    add_generation_options,
    join_command,
    open_checkpoint,
    read_generation,
)
from blsp.audio import load_audio, read_audio_info
from blsp.checkpoint import DELTA
from blsp.errors import InputError
from blsp.files import atomic_path
from blsp.generation import Answer, GenerationConfig, answer_speech
from blsp.journal import Plan, Work, digest, finish_output
from blsp.manifest import AudioPart, Meta, find_kind, find_root, read_manifest, write_meta
from blsp.model import BlspForConditionalGeneration, BlspProcessor
from blsp.prompts import SpeechPrompt, build_speech_prompt, place_audio, read_prompt
from blsp.remote import find_neighbourhood
from blsp.rendering import Renderer


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Something to be heard."""

    id: str
    audio: str
    """As it was named: a path, or one relative to `root`."""
    root: Path | None
    start: float
    duration: float | None
    """Seconds; None is up to the end."""
    reference: str | None = None
    """The transcript, where the manifest has one."""


@dataclass(frozen=True, kw_only=True)
class Listener:
    """A model that hears, and what it is asked."""

    model: BlspForConditionalGeneration
    processor: BlspProcessor
    renderer: Renderer
    instruction: str
    config: GenerationConfig

    def answer(self, recordings: Sequence[Recording]) -> list[dict[str, Any]]:
        """One row for each recording, in order; an unreadable one has an `error` in it."""
        prompts: dict[str, SpeechPrompt] = {}
        errors: dict[str, str] = {}
        for recording in recordings:
            try:
                prompts[recording.id] = self._listen(recording)
            except InputError as error:
                errors[recording.id] = str(error)
        heard = list(prompts.values())
        answers = answer_speech(self.model, self.processor, heard, self.config, names=list(prompts))
        found = dict(zip(prompts, answers, strict=True))
        return [
            _build_row(recording, found.get(recording.id), errors.get(recording.id))
            for recording in recordings
        ]

    def _listen(self, recording: Recording) -> SpeechPrompt:
        audio = load_audio(
            recording.audio,
            start=recording.start,
            duration=recording.duration,
            root=recording.root,
        )
        part = AudioPart(audio=recording.audio, duration=len(audio) / 16_000, transcript="")
        message = place_audio(self.instruction, part)
        return build_speech_prompt(self.renderer, self.processor, [message], [audio])


def _build_row(recording: Recording, answer: Answer | None, error: str | None) -> dict[str, Any]:
    row: dict[str, Any] = {"id": recording.id, "audio": recording.audio}
    if recording.reference is not None:
        row["transcript"] = recording.reference
    if answer is None:
        return row | {"prediction": "", "finish_reason": None, "error": error}
    return row | {"prediction": answer.text, "finish_reason": answer.finish_reason}


def find_recordings(sources: Sequence[Path]) -> list[Recording]:
    """The recordings of one manifest, or of sound files.

    Raises:
        InputError: a manifest among other sources, conversations, or a repeated file.
    """
    manifests = [path for path in sources if path.suffix == ".jsonl"]
    if manifests and len(sources) > 1:
        raise InputError(
            f"expected one manifest or sound files, found {manifests[0]} among "
            f"{len(sources)} sources; run them one after the other"
        )
    if manifests:
        return _read_recordings(manifests[0])
    if len(set(sources)) < len(sources):
        raise InputError("expected every sound file once, found one repeated; name it once")
    return [
        Recording(id=str(path), audio=str(path), root=None, start=0.0, duration=None)
        for path in sources
    ]


def _read_recordings(manifest: Path) -> list[Recording]:
    if find_kind(manifest) != "manifest":
        raise InputError(
            f"{manifest}: expected a manifest, found conversations; name the manifest they were "
            "made from"
        )
    root = find_root(manifest)
    return [
        Recording(
            id=each.id,
            audio=each.audio,
            root=root,
            start=each.start,
            duration=each.duration,
            reference=each.text,
        )
        for each in read_manifest(manifest)
    ]


def plan_batches(recordings: Sequence[Recording], batch_size: int) -> list[list[int]]:
    """Indices of each batch: of similar duration, the longest first; on the hub, of those near."""
    seconds = [_seconds(one) for one in recordings]
    near = [find_neighbourhood(index, one.audio) for index, one in enumerate(recordings)]
    ordered = sorted(range(len(recordings)), key=lambda index: (near[index], -seconds[index]))
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]


def _seconds(recording: Recording) -> float:
    if recording.duration is not None:
        return recording.duration
    try:
        return read_audio_info(recording.audio, root=recording.root).seconds
    except InputError:
        return 0.0  # its line will say why


def write_predictions(
    listener: Listener, recordings: Sequence[Recording], out: Path, *, plan: Plan, command: str
) -> list[dict[str, Any]]:
    """Answer all recordings and write them in their order; goes on where a call was stopped."""
    meta = _describe(listener, plan, command)

    def answer(batch: Sequence[int]) -> list[dict[str, Any]]:
        return listener.answer([recordings[index] for index in batch])

    def write(rows: Iterator[dict[str, Any]]) -> None:
        with atomic_path(out) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_meta(out, meta)

    batches = plan_batches(recordings, listener.config.batch_size)
    finish_output(out, Work(plan=plan, batches=batches, unit="recordings"), answer, write)
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def _describe(listener: Listener, plan: Plan, command: str) -> Meta:
    bases = listener.model.config.bases or {}
    return Meta(
        command=command,
        llm=(bases.get("llm") or {}).get("fingerprint"),
        template=listener.renderer.template_fingerprint(),
        template_variables=listener.renderer.template_variables,
        prompt=listener.instruction,
        seed=listener.config.seed,
        plan=digest([plan]),
    )


def main(argv: Sequence[str]) -> int:
    """Run `blsp generate`; 1 where a recording could not be read."""
    options = _parse(argv)
    recordings = find_recordings(options.sources)
    config = read_generation(options)
    place_audio(options.instruction, AudioPart(audio="a", duration=1.0, transcript=""))
    model, processor, renderer = open_checkpoint(options)
    listener = Listener(
        model=model,
        processor=processor,
        renderer=renderer,
        instruction=options.instruction,
        config=config,
    )
    if options.out is None:
        rows = [row for recording in recordings for row in listener.answer([recording])]
        for row in rows:
            print(f"{row['id']}\t{row['prediction']}")
    else:
        plan = {
            "checkpoint": digest([(options.checkpoint / DELTA).read_bytes().hex()]),
            "recordings": digest(asdict(recording) for recording in recordings),
            "instruction": options.instruction,
            "settings": json.dumps(asdict(config)),
        }
        command = join_command("generate", argv)
        rows = write_predictions(listener, recordings, options.out, plan=plan, command=command)
        print(f"{options.out}: {len(rows)} predictions")
    broken = [row for row in rows if "error" in row]
    for row in broken[:5]:
        print(f"could not read {row['error']}", file=sys.stderr)
    return 1 if broken else 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="blsp generate", description="Answer recordings with a checkpoint."
    )
    add_checkpoint_options(parser)
    add_bits_option(parser)
    parser.add_argument("sources", nargs="+", type=Path, help="a manifest (.jsonl), or sound files")
    parser.add_argument(
        "--instruction",
        default="",
        type=read_prompt,
        help="what to do with each recording; {audio} on a line of its own says where it stands "
        "(default: before the instruction)",
    )
    parser.add_argument("--out", type=Path, help="predictions.jsonl (default: print them)")
    add_generation_options(parser)
    return parser.parse_args(argv)
