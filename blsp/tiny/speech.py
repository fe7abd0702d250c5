"""The speech world: plans of utterances become FLAC files and a manifest, once.

eSpeak NG is no function of its arguments, so speech is made by one fresh worker process in plan
order and kept: an utterance whose FLAC is on disk with the recorded SHA-256 is never spoken again.
The manifest appears under its own name only when every utterance of the plan is there.
"""

import hashlib
import io
import json
import multiprocessing
import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from blsp.errors import InputError
from blsp.files import atomic_path
from blsp.tiny.espeak import Prosody, Spoken, Synthesizer
from blsp.tiny.voices import (
    EMOTIONS,
    NOISES,
    make_noise,
    mix_noise,
    sample_prosody,
    voices_of,
)
from blsp.tiny.world import Sentence, Split, sample_sentences

SAMPLING_RATE = 16_000


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One utterance to be: everything but the samples."""

    id: str
    sentence: Sentence
    voice: str
    emotion: str
    prosody: Prosody
    level_db: float
    """Peak level below full scale."""
    lead_seconds: float
    trail_seconds: float
    noise: str | None = None
    snr_db: float | None = None


def plan_utterances(
    seed: int, split: Split, count: int, *, snr_db: float | None = None, neutral: float = 0.4
) -> list[Plan]:
    """``count`` utterances of distinct sentences in voices of ``split``; a share is neutral."""
    rng = random.Random(f"plans {seed} {split} {snr_db}")
    plans = []
    for index, sentence in enumerate(sample_sentences(seed, split, count)):
        emotion = "neutral" if rng.random() < neutral else rng.choice(EMOTIONS[1:])
        plans.append(
            _plan(f"{split}-{seed}-{index:06d}", sentence, emotion, rng, split, snr_db=snr_db)
        )
    return plans


def plan_emotions(seed: int, split: Split, sentences: int) -> list[Plan]:
    """Every sentence in all five emotions, the five by the same voice."""
    rng = random.Random(f"emotions {seed} {split}")
    plans = []
    for index, sentence in enumerate(sample_sentences(seed, split, sentences)):
        voice = rng.choice(voices_of(split))
        for emotion in EMOTIONS:
            name = f"{split}-{seed}-emotion-{index:05d}-{emotion}"
            plans.append(_plan(name, sentence, emotion, rng, split, voice=voice))
    return plans


def _plan(
    name: str,
    sentence: Sentence,
    emotion: str,
    rng: random.Random,
    split: Split,
    *,
    voice: str | None = None,
    snr_db: float | None = None,
) -> Plan:
    return Plan(
        id=name,
        sentence=sentence,
        voice=voice or rng.choice(voices_of(split)),
        emotion=emotion,
        prosody=sample_prosody(rng, split, emotion),
        level_db=-rng.uniform(1, 20),
        lead_seconds=rng.uniform(0.02, 0.2),
        trail_seconds=rng.uniform(0.02, 0.2),
        noise=None if snr_db is None else rng.choice(NOISES),
        snr_db=snr_db,
    )


def render(plan: Plan, synthesizer: Synthesizer) -> tuple[np.ndarray, Spoken]:
    """Samples (float32, 16 kHz, mono) of one plan, and what eSpeak said of them."""
    spoken = synthesizer.speak(plan.sentence.text, voice=plan.voice, prosody=plan.prosody)
    audio = soxr.resample(
        spoken.samples.astype(np.float32) / 32768, spoken.sampling_rate, SAMPLING_RATE
    )
    pads = [np.zeros(round(s * SAMPLING_RATE)) for s in (plan.lead_seconds, plan.trail_seconds)]
    audio = np.concatenate([pads[0], audio, pads[1]]).astype(np.float32)
    if plan.noise is not None and plan.snr_db is not None:
        seed = int.from_bytes(hashlib.sha256(plan.id.encode()).digest()[:8], "big")
        noise = make_noise(plan.noise, np.random.default_rng(seed), len(audio))
        audio = mix_noise(audio, noise, snr_db=plan.snr_db)
    peak = max(float(np.abs(audio).max()), 1e-9)
    return (audio * (10 ** (plan.level_db / 20) / peak)).astype(np.float32), spoken


def make_speech(plans: Iterable[Plan], folder: Path, name: str) -> Path:
    """Speak ``plans`` in one fresh process; returns the manifest ``folder/name.jsonl``.

    Raises:
        InputError: the worker failed; its own line says why (disk full, unknown voice, ...).
    """
    manifest = folder / f"{name}.jsonl"
    if manifest.exists():
        return manifest
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    worker = context.Process(target=_work, args=(list(plans), folder, name, queue))
    worker.start()
    problem = None
    while worker.is_alive() or not queue.empty():
        try:
            problem = queue.get(timeout=0.2)
        except Exception:
            continue
    worker.join()
    if problem or worker.exitcode:
        raise InputError(problem or f"the speech worker stopped with code {worker.exitcode}")
    return manifest


def _work(plans: list[Plan], folder: Path, name: str, queue: Any) -> None:
    try:
        _speak_all(plans, folder, name)
    except (InputError, OSError) as error:
        queue.put(str(error))


def _speak_all(plans: list[Plan], folder: Path, name: str) -> None:
    journal = folder / f"{name}.journal"
    (folder / name).mkdir(parents=True, exist_ok=True)
    done = dict(_read_journal(journal, folder))
    synthesizer = Synthesizer()
    with journal.open("a", encoding="utf-8") as lines:
        for plan in plans:
            if plan.id in done:
                continue
            done[plan.id] = _make_one(plan, synthesizer, folder, name)
            lines.write(json.dumps(done[plan.id]) + "\n")
            lines.flush()
    rows = [done[plan.id] for plan in plans]
    timings = [{"id": row["id"], **row.pop("timing")} for row in rows]
    _write_rows(timings, folder / f"{name}.timing.jsonl")
    _write_rows(rows, folder / f"{name}.jsonl")
    journal.unlink()


def _write_rows(rows: list[dict[str, Any]], path: Path) -> None:
    with atomic_path(path) as temporary:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        temporary.write_text("".join(lines), encoding="utf-8")


def _make_one(plan: Plan, synthesizer: Synthesizer, folder: Path, name: str) -> dict[str, Any]:
    audio, spoken = render(plan, synthesizer)
    relative = f"{name}/{plan.id}.flac"
    flac = io.BytesIO()
    soundfile.write(flac, audio, SAMPLING_RATE, format="FLAC", subtype="PCM_16")
    # No temporary name: a file that is not in the journal with its digest does not count.
    (folder / relative).write_bytes(flac.getvalue())
    return {
        "id": plan.id,
        "audio": relative,
        "duration": round(len(audio) / SAMPLING_RATE, 4),
        "text": plan.sentence.text,
        "language": "en",
        "speaker": plan.voice,
        "emotion": plan.emotion,
        "intent": plan.sentence.intent,
        "entities": [{"type": slot, "filler": words} for slot, words in plan.sentence.fillers],
        "translation": {"de": plan.sentence.german},
        "prosody": asdict(plan.prosody),
        "noise": plan.noise,
        "snr_db": plan.snr_db,
        "sha256": hashlib.sha256(flac.getvalue()).hexdigest(),
        "timing": {
            "phonemes": [[s, round(start + plan.lead_seconds, 3)] for s, start in spoken.phonemes],
            "words": [[at, round(start + plan.lead_seconds, 3)] for at, start in spoken.words],
        },
    }


def _read_journal(journal: Path, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Utterances of an interrupted run whose FLAC is whole; a torn last line is ignored."""
    if not journal.exists():
        return
    for line in journal.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        path = folder / row["audio"]
        if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"]:
            yield row["id"], row
    # A torn line must not be glued to the next one.
    if os.path.getsize(journal) and not journal.read_text(encoding="utf-8").endswith("\n"):
        with journal.open("a", encoding="utf-8") as lines:
            lines.write("\n")
