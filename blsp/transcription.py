"""Transcripts that nobody wrote: Whisper fills them in, and what it is not sure of is left out.

Rows that have a text are kept as they are. Others are heard in stretches of about ten minutes, cut
in pauses into pieces that Whisper takes at once (30 s), each a row of its own. What loops, is cut
short or unsure is counted and left out, by the criteria of Whisper's authors. A journal keeps what
is done. A manifest enters; a manifest and its side file leave.
"""

import math
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from blsp.arguments import choose_device
from blsp.audio import SAMPLING_RATE, is_silent, load_audio
from blsp.checkpoint import fingerprint_folder
from blsp.errors import InputError, suggest
from blsp.generation import GenerationConfig
from blsp.hearing import Hearing, Transcript, count_window_samples, load_whisper, transcribe_windows
from blsp.journal import Plan, Work, digest, finish_output
from blsp.languages import base_language
from blsp.manifest import (
    Meta,
    Utterance,
    find_root,
    read_manifest,
    relative_root,
    to_row,
    write_rows,
)
from blsp.model.foundations import read_whisper_config, resolve_folder
from blsp.pauses import find_cut, find_edges
from blsp.remote import find_neighbourhood

STRETCH_SECONDS = 600.0
"""Of a long recording, what is one piece of work: all that a kill can cost, whatever its length."""

MAX_NEW_TOKENS = 224
"""Of a piece: half of the decoder's positions, as in Whisper's own program."""


@dataclass(frozen=True, kw_only=True)
class TranscriptionConfig:
    """How recordings are heard, and what of it is believed."""

    language: str = "en"
    """Of recordings whose row has no `language`."""
    batch_size: int = 16
    """Pieces heard at once."""
    max_compression_ratio: float = 2.4
    """A text that zlib makes smaller than this goes round in a loop: Whisper's own criterion
    (Radford et al. 2022, section 4.5)."""
    min_log_probability: float = -1.0
    """Mean of a token, natural logarithm; below it Whisper did not understand (same source)."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_compression_ratio"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}: expected a number above 0, found {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Listener:
    """A Whisper, and its name."""

    whisper: WhisperForConditionalGeneration
    processor: WhisperProcessor
    name: str
    """As it was called, and its commit, or else the fingerprint of its weights."""
    fingerprint: str

    @property
    def longest(self) -> int:
        """Samples that it hears at once."""
        return count_window_samples(self.whisper, self.processor)

    def hear(
        self, pieces: Sequence[np.ndarray], language: str, config: TranscriptionConfig
    ) -> list[Transcript]:
        """Transcribe pieces, in their order."""
        return transcribe_windows(
            self.whisper,
            self.processor,
            pieces,
            config=GenerationConfig(batch_size=config.batch_size, max_new_tokens=MAX_NEW_TOKENS),
            # What the decoder learnt from; on true lengths it errs more.
            hearing=Hearing(audio_padding="max", language=language),
        )

    def check_language(self, language: str, where: str) -> None:
        """Refuse a language that this Whisper cannot write.

        Raises:
            InputError: it is of another one.
        """
        made: Any = self.whisper.generation_config
        known = ["en"]
        if getattr(made, "is_multilingual", False):
            known = [token.strip("<|>") for token in made.lang_to_id]
        if language not in known:
            raise InputError(
                f"{where}: expected a language that {self.name} writes, found {language!r}; "
                f"{suggest(language, known)}"
            )


def load_listener(source: str, revision: str | None = None) -> Listener:
    """Load a Whisper on this process's device.

    Args:
        source: folder or hub id.
        revision: of a hub id.

    Raises:
        InputError: no whole Whisper.
    """
    folder = resolve_folder(source, revision, what="Whisper")
    read_whisper_config(folder, source)
    device, _ = choose_device()
    # Not what a probe finds to be fast on a CPU: a run must go on with the numbers it began with.
    dtype = "float32" if device.type == "cpu" else "auto"
    whisper, processor = load_whisper(folder, dtype=dtype)
    fingerprint = fingerprint_folder(folder)
    hub = folder.parent.name == "snapshots"  # which are named by their commits
    called = folder.name if Path(source).is_dir() else source  # rows say nothing of this machine
    return Listener(
        whisper=whisper.to(device),  # type: ignore[arg-type]
        processor=processor,
        name=f"{called}@{folder.name if hub else fingerprint[:19]}",
        fingerprint=fingerprint,
    )


# --- what is heard --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A recording, or a part of a long one whose inner ends are moved back to pauses."""

    row: int
    """Of the manifest."""
    first: float
    last: float
    """Seconds from the beginning of the utterance."""


def plan_stretches(
    rows: Sequence[Utterance], longest_seconds: float, stretch_seconds: float
) -> list[Stretch]:
    """What is to be heard, in the order of the rows; those with a text are passed over."""
    stretches = []
    for number, row in enumerate(rows):
        if row.is_transcribed:
            continue
        count = 1
        if row.duration > longest_seconds:
            count = max(1, round(row.duration / stretch_seconds))
        ends = [*(at * stretch_seconds for at in range(count)), row.duration]
        stretches += [Stretch(row=number, first=a, last=b) for a, b in pairwise(ends)]
    return stretches


def plan_batches(
    stretches: Sequence[Stretch],
    languages: Sequence[str],
    near: Sequence[int],
    *,
    longest_seconds: float,
    batch_size: int,
) -> list[list[int]]:
    """Indices of each batch: of one language and similar length, the longest first.

    A batch is full when it will be cut into `batch_size` pieces. ``near`` is of each stretch what
    `find_neighbourhood` says: only those of one neighbourhood come together.
    """
    seconds = [one.last - one.first for one in stretches]
    alike = list(zip(near, languages, strict=True))
    order = sorted(range(len(stretches)), key=lambda index: (alike[index], -seconds[index]))
    batches: list[list[int]] = []
    for _, same in groupby(order, key=lambda index: alike[index]):
        room = 0
        for index in same:
            pieces = math.ceil(seconds[index] / longest_seconds)
            if pieces > room or not room:
                batches.append([])
                room = batch_size
            batches[-1].append(index)
            room = max(0, room - pieces)
    return sorted(batches, key=lambda batch: (near[batch[0]], -seconds[batch[0]]))


def load_pieces(
    row: Utterance, stretch: Stretch, root: Path, longest: int
) -> list[tuple[float, np.ndarray]]:
    """Where each piece of a stretch begins in its file, in seconds, and its samples."""
    if row.duration <= longest / SAMPLING_RATE:
        audio = load_audio(row.audio, start=row.start, duration=row.duration, root=root)
        return [(row.start, audio[:longest])]  # seconds may round to one sample more
    first, last = (_find_end(row, at, root, longest) for at in (stretch.first, stretch.last))
    audio = load_audio(row.audio, start=first, duration=last - first, root=root)
    edges = find_edges(audio, longest)
    return [(round(first + a / SAMPLING_RATE, 6), audio[a:b]) for a, b in pairwise(edges)]


def _find_end(row: Utterance, at: float, root: Path, longest: int) -> float:
    """Where a stretch really ends, in seconds of the file.

    Both stretches that meet there load the same samples to find it, so that they agree to the bit.
    """
    if at in (0.0, row.duration):
        return row.start + at
    window = longest / SAMPLING_RATE
    begin = row.start + at - window
    audio = load_audio(row.audio, start=begin, duration=window, root=root)
    return round(begin + find_cut(audio, longest // 30) / SAMPLING_RATE, 6)


# --- what is believed -----------------------------------------------------------------------------


def find_fault(piece: dict[str, Any], config: TranscriptionConfig) -> str | None:
    """Why a piece gives no row: `unreadable`, `silent`, `empty`, `cut`, `loop`, `unsure`."""
    if "fault" in piece:
        return piece["fault"]
    if not piece["text"]:
        return "empty"
    if compute_compression_ratio(piece["text"]) > config.max_compression_ratio:
        return "loop"
    if piece["finish_reason"] == "length":
        return "cut"
    # Written so that a mean that is not a number is no reason for trust.
    return None if piece["mean_log_probability"] >= config.min_log_probability else "unsure"


def compute_compression_ratio(text: str) -> float:
    """Bytes of a text in UTF-8 by those that zlib makes of them, as in Whisper's own program."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


# --- writing --------------------------------------------------------------------------------------


class _Job:
    """A manifest and all that is planned of it."""

    def __init__(self, manifest: Path, listener: Listener, config: TranscriptionConfig) -> None:
        self.rows = list(read_manifest(manifest))
        self.root = find_root(manifest)
        self.listener, self.config = listener, config
        seconds = listener.longest / SAMPLING_RATE
        self.stretches = plan_stretches(self.rows, seconds, STRETCH_SECONDS)
        if not self.stretches:
            raise InputError(
                f"{manifest}: expected utterances without a text, found none among "
                f"{len(self.rows)}; there is nothing to transcribe"
            )
        _check_ids(manifest, self.rows, seconds)
        languages = [self.language_of(self.rows[one.row]) for one in self.stretches]
        for language in dict.fromkeys(languages):
            listener.check_language(language, str(manifest))
        near = [find_neighbourhood(one.row, self.rows[one.row].audio) for one in self.stretches]
        self.batches = plan_batches(
            self.stretches, languages, near, longest_seconds=seconds, batch_size=config.batch_size
        )

    def language_of(self, row: Utterance) -> str:
        """In which it is written: `en` of `en-US`."""
        return str(base_language(row.language or self.config.language))

    def describe_plan(self) -> Plan:
        return {
            "Whisper": self.listener.fingerprint,
            "manifest": digest(map(to_row, self.rows)),
            "settings": f"{self.config.language}, {self.config.batch_size} at once",
            "stretches": f"{STRETCH_SECONDS} s",
            "thresholds": f"{self.config.max_compression_ratio}, {self.config.min_log_probability}",
        }

    def hear(self, batch: Sequence[int]) -> list[list[dict[str, Any]]]:
        """The pieces of every stretch of a batch, with what was heard in them."""
        found = [self._load(self.stretches[index]) for index in batch]
        audible = [one for pieces in found for one in pieces if "audio" in one]
        audios = [one.pop("audio") for one in audible]
        language = self.language_of(self.rows[self.stretches[batch[0]].row])
        transcripts = self.listener.hear(audios, language, self.config)
        for one, transcript in zip(audible, transcripts, strict=True):
            one |= asdict(transcript)
        return found

    def _load(self, stretch: Stretch) -> list[dict[str, Any]]:
        row = self.rows[stretch.row]
        try:
            loaded = load_pieces(row, stretch, self.root, self.listener.longest)
        except InputError as error:
            tqdm.write(f"could not read {error}", file=sys.stderr)
            return [{"start": row.start + stretch.first, "duration": 0.0, "fault": "unreadable"}]
        return [
            {
                "start": start,
                "duration": round(len(audio) / SAMPLING_RATE, 6),
                # In silence Whisper hears what its training data had there: thanks for watching.
                **({"fault": "silent"} if is_silent(audio) else {"audio": audio}),
            }
            for start, audio in loaded
        ]

    def build_rows(
        self, heard: Iterator[list[dict[str, Any]]], counts: dict[str, int]
    ) -> Iterator[Utterance]:
        """All rows of the new manifest, counted.

        Args:
            heard: pieces of every stretch, in order.
            counts: filled in on the way.
        """
        stretches_of = Counter(one.row for one in self.stretches)
        whole = self.listener.longest / SAMPLING_RATE
        for number, row in enumerate(self.rows):
            found = [row] if row.is_transcribed else []
            counts["kept"] += len(found)
            pieces = [piece for _ in range(stretches_of[number]) for piece in next(heard)]
            for place, piece in enumerate(pieces, start=1):
                fault = find_fault(piece, self.config)
                counts[fault or "transcribed"] = counts.get(fault or "transcribed", 0) + 1
                if fault is None:
                    filled = self._fill(row, piece)
                    found.append(filled if row.duration <= whole else _split(filled, place, piece))
            counts["written"] += len(found)
            yield from found

    def _fill(self, row: Utterance, piece: dict[str, Any]) -> Utterance:
        about = {
            "transcribed_by": self.listener.name,
            "mean_log_probability": round(piece["mean_log_probability"], 4),
        }
        return replace(
            row,
            text=piece["text"],
            language=row.language or self.config.language,
            extra={**row.extra, **about},
        )


def _split(row: Utterance, place: int, piece: dict[str, Any]) -> Utterance:
    """A piece of a row; what was said of the words of the whole is not true of it."""
    return replace(
        row,
        id=f"{row.id}-{place}",
        start=piece["start"],
        duration=piece["duration"],
        intent=None,
        entities=(),
        translation={},
    )


def _check_ids(manifest: Path, rows: Sequence[Utterance], longest_seconds: float) -> None:
    """Refuse rows that bear the names pieces will get."""
    cut = {row.id for row in rows if not row.is_transcribed and row.duration > longest_seconds}
    for row in rows:
        name, _, place = row.id.rpartition("-")
        if name in cut and place.isdigit():
            raise InputError(
                f"{manifest}: expected no id like those of the pieces of {name!r}, found "
                f"{row.id!r}; rename it"
            )


def transcribe_manifest(
    manifest: Path, out: Path, listener: Listener, config: TranscriptionConfig, *, command: str
) -> Counter[str] | None:
    """Write a manifest whose rows all have a text; goes on where an earlier call was stopped.

    Under `accelerate launch` each process hears its part of the batches, and the last one to end
    writes the file.

    Args:
        manifest: some of whose utterances have no text.
        out: the new one; beside it its side file.
        listener: who hears.
        config: how, and what of it is believed.
        command: what the side file says made it.

    Returns:
        How many were `written`: `kept` as they were and `transcribed`; and pieces left out by
        `find_fault`'s reasons. None where other processes have something to come.

    Raises:
        InputError: nothing to transcribe, a language that Whisper does not know, another run on
            `out`, or one (whole or interrupted) that was made otherwise.
    """
    job = _Job(manifest, listener, config)
    plan = job.describe_plan()
    meta = Meta(
        command=command,
        root=relative_root(manifest, out),
        models={"whisper": listener.name},
        plan=digest([plan]),
    )

    def write(heard: Iterator[list[dict[str, Any]]]) -> None:
        # The counts are known when the rows are written, and the side file is written after them.
        counts = {"written": 0, "kept": 0, "transcribed": 0}
        write_rows(out, job.build_rows(heard, counts), replace(meta, counts=counts))

    work = Work(plan=plan, sifting=["thresholds"], batches=job.batches, unit="recordings")
    written = finish_output(out, work, job.hear, write)
    return Counter(dict(written.counts)) if written else None
