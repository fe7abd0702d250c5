"""The speech world: plans of utterances become FLAC files and a manifest, once.

eSpeak NG is no function of its arguments, so speech is made by one fresh worker process in plan
order and kept: an utterance whose FLAC is on disk with the recorded SHA-256 is never spoken again.
The manifest ``NAME.jsonl`` appears only when every utterance of the plan is there; beside it lie
``NAME.timing.jsonl`` (eSpeak's phonemes and words) and ``NAME.meta.json`` (which plan it is of).
"""

import hashlib
import importlib.metadata
import io
import json
import multiprocessing
import random
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from blsp.errors import InputError
from blsp.files import atomic_path
from blsp.manifest import Meta, write_meta
from blsp.noise import make_noise, mix_noise
from blsp.tiny.espeak import Prosody, Spoken, Synthesizer
from blsp.tiny.voices import EMOTIONS, NOISES, sample_prosody, voices_of
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
    seed: int,
    split: Split,
    count: int,
    *,
    snr_db: float | None = None,
    neutral: float = 0.4,
    candidates: int = 1,
) -> list[Plan]:
    """``count`` utterances of distinct sentences in voices of ``split``; a share is neutral.

    ``candidates`` is that of `sample_sentences`.
    """
    rng = random.Random(f"plans {seed} {split} {snr_db}")
    plans = []
    for index, sentence in enumerate(sample_sentences(seed, split, count, candidates=candidates)):
        emotion = "neutral" if rng.random() < neutral else rng.choice(EMOTIONS[1:])
        name, voice = f"{split}-{seed}-{index:06d}", rng.choice(voices_of(split))
        plan = _plan(name, sentence, emotion, rng, split, voice=voice)
        if snr_db is not None:
            plan = replace(plan, noise=rng.choice(NOISES), snr_db=snr_db)
        plans.append(plan)
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
    name: str, sentence: Sentence, emotion: str, rng: random.Random, split: Split, *, voice: str
) -> Plan:
    return Plan(
        id=name,
        sentence=sentence,
        voice=voice,
        emotion=emotion,
        prosody=sample_prosody(rng, split, emotion),
        level_db=-rng.uniform(1, 20),
        lead_seconds=rng.uniform(0.02, 0.2),
        trail_seconds=rng.uniform(0.02, 0.2),
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


def say(text: str, *, voice: str) -> np.ndarray:
    """Speak one sentence in a fresh process: float32, 16 kHz, mono.

    Raises:
        InputError: no such voice, no words, or eSpeak NG is not installed.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as worker:
        return worker.submit(_say, text, voice).result()


def _say(text: str, voice: str) -> np.ndarray:
    plan = Plan(
        id="say",
        sentence=Sentence(text, "", ()),
        voice=voice,
        emotion="neutral",
        prosody=Prosody(),
        level_db=-6.0,
        lead_seconds=0.1,
        trail_seconds=0.1,
    )
    return render(plan, Synthesizer())[0]


def make_speech(plans: Iterable[Plan], folder: Path, name: str) -> Path:
    """Speak ``plans`` in one fresh process; returns the manifest ``folder/name.jsonl``.

    A killed run leaves a journal, and the same call goes on from it.

    Raises:
        InputError: the folder holds speech of that name from another plan, or the worker failed;
            its own line says why (disk full, unknown voice, eSpeak NG not installed, ...).
    """
    plans, manifest = list(plans), folder / f"{name}.jsonl"
    _check_plan(plans, folder, name)
    if not manifest.exists():
        _run_worker(plans, folder, name)
    return manifest


def make_sets(
    plans: Mapping[str, Iterable[Plan]], folder: Path, *, at_once: int = 2
) -> dict[str, Path]:
    """Speak several plans, so many at once; returns name -> manifest.

    Raises:
        InputError: as `make_speech`; the others are finished first.
    """
    # Each has a worker process of its own; the threads only wait for theirs.
    with ThreadPoolExecutor(at_once) as pool:
        made = pool.map(lambda name: make_speech(plans[name], folder, name), plans)
        return dict(zip(plans, made, strict=True))


def compute_plan_digest(plans: Iterable[Plan]) -> str:
    """SHA-256 of everything that is planned; the same plans give the same digest."""
    digest = hashlib.sha256()
    for plan in plans:
        digest.update(f"{plan!r}\n".encode())
    return digest.hexdigest()


def _check_plan(plans: list[Plan], folder: Path, name: str) -> None:
    record = folder / f"{name}.meta.json"
    if record.exists():
        found = json.loads(record.read_text(encoding="utf-8"))["plan"]
    elif (folder / f"{name}.jsonl").exists() or (folder / f"{name}.journal").exists():
        found = "none"
    else:
        return
    wanted = compute_plan_digest(plans)
    if found != wanted:
        raise InputError(
            f"{record}: expected the plan {wanted[:12]}, found {found[:12]}; remove the speech "
            f"called {name!r} from there or choose another folder"
        )


def _run_worker(plans: list[Plan], folder: Path, name: str) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    worker = context.Process(target=_work, args=(folder, name, theirs), daemon=True)
    worker.start()
    theirs.close()  # so that the end of the worker, however it comes, is the end of the pipe
    try:
        # Not as an argument: a worker that dies before it has read a long one is never noticed.
        ours.send(plans)
        problem = ours.recv()
    except (EOFError, OSError):
        worker.join()
        problem = (
            f"{folder / name}: expected all the speech, found that the worker stopped with code "
            f"{worker.exitcode}; run it again to go on"
        )
    finally:
        worker.terminate()
        worker.join()
    if problem:
        raise InputError(problem)


def _work(folder: Path, name: str, parent: Connection) -> None:
    try:
        _speak_all(parent.recv(), folder, name)
    except InputError as error:
        parent.send(str(error))
    except OSError as error:
        parent.send(
            f"{folder / name}: expected room for speech, found: {error.strerror}; free space or "
            "write elsewhere, and run it again to go on"
        )
    else:
        parent.send(None)


def _speak_all(plans: list[Plan], folder: Path, name: str) -> None:
    synthesizer = Synthesizer()
    (folder / name).mkdir(parents=True, exist_ok=True)
    _write_record(plans, folder / f"{name}.jsonl")
    journal = folder / f"{name}.journal"
    done = dict(_read_journal(journal, folder))
    parent = multiprocessing.parent_process()
    with journal.open("a", encoding="utf-8") as lines:
        for plan in plans:
            if parent is not None and not parent.is_alive():
                raise SystemExit("the process that asked for speech is gone")
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


def _write_record(plans: list[Plan], manifest: Path) -> None:
    packages = ("espeakng-loader", "numpy", "soundfile", "soxr")
    versions = {package: importlib.metadata.version(package) for package in packages}
    command = f"blsp.tiny.speech: {len(plans)} utterances"
    write_meta(manifest, Meta(command=command, plan=compute_plan_digest(plans), versions=versions))


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
    text = journal.read_text(encoding="utf-8")
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        path = folder / row["audio"]
        if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"]:
            yield row["id"], row
    if text and not text.endswith("\n"):  # the next line must not be glued to the torn one
        with journal.open("a", encoding="utf-8") as lines:
            lines.write("\n")
