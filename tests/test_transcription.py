"""Transcribing: rows with words are kept, others are filled in, and what is unsure is left out."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blsp import transcription
from blsp.audio import load_audio, save_audio
from blsp.cli import main
from blsp.hearing import Transcript
from blsp.manifest import (
    Meta,
    Utterance,
    find_root,
    read_conversations,
    read_manifest,
    read_meta,
    write_rows,
)
from blsp.tiny.speech import make_speech, plan_utterances
from blsp.transcription import (
    Listener,
    Stretch,
    TranscriptionConfig,
    compute_compression_ratio,
    find_fault,
    load_listener,
    load_pieces,
    plan_batches,
    plan_stretches,
)

WHISPER = "blsp/tiny-whisper"
SECOND = 16_000


def tone(seconds: float) -> np.ndarray:
    return (0.3 * np.sin(np.arange(round(seconds * SECOND)) / 9)).astype(np.float32)


def write_manifest(folder: Path, rows: Sequence[Utterance]) -> Path:
    for row in rows:
        save_audio(folder / row.audio, tone(row.duration))
    write_rows(folder / "m.jsonl", rows, Meta(command="test"))
    return folder / "m.jsonl"


def utterance(name: str, seconds: float = 1.0, **fields: Any) -> Utterance:
    told: dict[str, Any] = {"text": None} | fields
    return Utterance(id=name, audio=f"{name}.wav", duration=seconds, **told)


def run(manifest: Path, *more: str, out: str = "out/t.jsonl") -> int:
    target = manifest.parent / out
    words = ["data", "transcribe", str(manifest), "--out", str(target), "--whisper", WHISPER]
    return main([*words, *more])


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Whisper that says how long each piece is; the samples of every piece, call by call."""
    calls: list[list[int]] = []

    def hear(_: Listener, pieces: Sequence[np.ndarray], *__: Any) -> list[Transcript]:
        calls.append([len(piece) for piece in pieces])
        return [Transcript(f"{len(piece)} samples", -0.25, "stop") for piece in pieces]

    monkeypatch.setattr(Listener, "hear", hear)
    return calls


# --- what is heard --------------------------------------------------------------------------------


def test_long_recordings_are_heard_in_stretches() -> None:
    """Half a stretch is no stretch of its own."""
    rows = [utterance("a", 30.0), utterance("b", text="said"), utterance("c", 130.0)]
    assert plan_stretches([*rows, utterance("d", 149.0)], 30.0, 100.0) == [
        Stretch(row=0, first=0.0, last=30.0),
        Stretch(row=2, first=0.0, last=130.0),
        Stretch(row=3, first=0.0, last=149.0),
    ]
    assert plan_stretches([utterance("e", 270.0)], 30.0, 100.0) == [
        Stretch(row=0, first=0.0, last=100.0),
        Stretch(row=0, first=100.0, last=200.0),
        Stretch(row=0, first=200.0, last=270.0),
    ]


def test_a_batch_has_one_language_and_as_many_pieces_as_asked_for() -> None:
    stretches = [Stretch(row=at, first=0.0, last=s) for at, s in enumerate([5, 70, 20, 9, 40, 6])]
    languages = ["en", "en", "en", "de", "en", "en"]
    batches = plan_batches(stretches, languages, [0] * 6, longest_seconds=30.0, batch_size=4)
    # 70 s are three pieces, 40 s are two
    assert batches == [[1], [4, 2, 5], [3], [0]]


def test_a_batch_has_what_is_near_each_other_on_the_hub() -> None:
    stretches = [Stretch(row=at, first=0.0, last=s) for at, s in enumerate([5, 9, 7, 8])]
    near = [1, 1, 2, 2]
    batches = plan_batches(stretches, ["en"] * 4, near, longest_seconds=30.0, batch_size=4)
    assert batches == [[1, 0], [3, 2]]


@pytest.mark.parametrize("rate", [16_000, 22_050])
def test_stretches_meet_in_a_pause_and_lose_nothing(tmp_path: Path, rate: int) -> None:
    """100 s with a pause of 0.4 s after every 4 s of a tone, from 1.5 s on in its file."""
    import soundfile

    times = np.arange(round(101.5 * rate)) / rate
    audio = np.sin(2 * np.pi * 200 * times) * 0.3 * (times % 4.4 < 4)
    soundfile.write(tmp_path / "a.wav", audio, rate)
    row = replace(utterance("a", 100.0), start=1.5)
    pieces = [
        piece
        for stretch in plan_stretches([row], 30.0, 40.0)
        for piece in load_pieces(row, stretch, tmp_path, 30 * SECOND)
    ]
    whole = load_audio(tmp_path / "a.wav", start=1.5, duration=100.0)
    assert np.abs(np.concatenate([samples for _, samples in pieces]) - whole).max() < 1e-4
    assert max(len(samples) for _, samples in pieces) <= 30 * SECOND
    ends = np.cumsum([len(samples) for _, samples in pieces])[:-1] / SECOND + 1.5
    assert [start for start, _ in pieces] == pytest.approx([1.5, *ends], abs=1e-6)
    assert all(end % 4.4 > 4 for end in ends)


def test_a_long_row_becomes_rows_that_cover_it(tmp_path: Path, heard: list[list[int]]) -> None:
    row = utterance("long", 70.0, speaker="ann", intent="lamp", translation={"de": "Licht"})
    manifest, audio = write_manifest(tmp_path, [row]), tone(70)
    for second in (20, 45):
        audio[second * SECOND : (second + 1) * SECOND] = 0
    save_audio(tmp_path / "long.wav", audio)
    assert run(manifest) == 0
    found = list(read_manifest(tmp_path / "out" / "t.jsonl"))
    assert [one.id for one in found] == ["long-1", "long-2", "long-3"]
    starts = [one.start for one in found]
    assert starts == pytest.approx([0, 20.5, 45.5], abs=0.05)
    ends = [one.start + one.duration for one in found]
    assert ends == pytest.approx([*starts[1:], 70])
    assert [one.text for one in found] == [
        f"{round(one.duration * SECOND)} samples" for one in found
    ]
    assert all((one.speaker, one.intent, one.translation) == ("ann", None, {}) for one in found)
    assert len(heard) == 1


# --- what is written ------------------------------------------------------------------------------


def test_rows_with_words_are_kept_and_others_filled(
    tmp_path: Path, heard: list[list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    said = utterance("b", 45.0, text="as it was", extra={"accent": "scots"})
    manifest = write_manifest(tmp_path, [utterance("a"), said, utterance("c", 2.0)])
    assert run(manifest) == 0
    first, second, third = read_manifest(tmp_path / "out" / "t.jsonl")
    assert second == said
    assert (first.id, first.text, first.language) == ("a", "16000 samples", "en")
    assert third.text == "32000 samples"
    assert first.extra["mean_log_probability"] == -0.25
    assert re.fullmatch(rf"{WHISPER}@sha256:[0-9a-f]{{12}}", first.extra["transcribed_by"])
    meta = read_meta(tmp_path / "out" / "t.jsonl")
    assert meta is not None and meta.root == ".."
    assert meta.models == {"whisper": first.extra["transcribed_by"]}
    assert meta.command.startswith("blsp data transcribe")
    assert meta.counts == {"written": 3, "kept": 1, "transcribed": 2}
    assert "3 utterances, 2 of them transcribed now; left out: none" in capsys.readouterr().out
    assert [path.name for path in sorted(manifest.parent.glob("out/*"))] == [
        "t.jsonl",
        "t.meta.json",
    ]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"text": ""}, "empty"),
        ({"text": "thank you " * 20}, "loop"),
        ({"text": "thank you " * 20, "finish_reason": "length"}, "loop"),
        ({"finish_reason": "length"}, "cut"),
        ({"mean_log_probability": -1.0}, None),
        ({"mean_log_probability": -1.01}, "unsure"),
        ({"mean_log_probability": float("nan")}, "unsure"),
        ({"fault": "silent"}, "silent"),
    ],
)
def test_what_cannot_be_believed_has_a_reason(changes: dict[str, Any], fault: str | None) -> None:
    good = {"text": "turn on the light", "mean_log_probability": -0.2, "finish_reason": "stop"}
    assert find_fault(good | changes, TranscriptionConfig()) == fault


def test_the_compression_ratio_is_that_of_whisper() -> None:
    """A hundred times one letter are 12 bytes of zlib: header, match, checksum."""
    assert compute_compression_ratio("a" * 100) == pytest.approx(100 / 12)
    assert compute_compression_ratio("turn on the light in the kitchen") < 1


def test_what_is_left_out_is_counted_by_reason(
    tmp_path: Path, heard: list[list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_manifest(tmp_path, [utterance(name) for name in "abc"])
    save_audio(tmp_path / "b.wav", np.zeros(SECOND, dtype=np.float32))
    (tmp_path / "c.wav").write_bytes(b"no sound")
    assert run(manifest) == 0
    assert [row.id for row in read_manifest(tmp_path / "out" / "t.jsonl")] == ["a"]
    told = capsys.readouterr()
    assert "left out: 1 silent, 1 unreadable" in told.out
    assert "could not read" in told.err and "c.wav" in told.err
    assert heard == [[SECOND]]


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        (
            [utterance("a", text="said")],
            [],
            "expected utterances without a text, found none among 1",
        ),
        ([utterance("a")], ["--language", "xx"], "expected a language that .*, found 'xx'"),
        ([utterance("a", language="fr-CA")], [], "found 'fr'"),
        ([utterance("a", 31.0), utterance("a-2")], [], "'a', found 'a-2'; rename it"),
        ([utterance("a")], ["--batch-size", "0"], "batch_size: expected a number above 0, found 0"),
        ([utterance("a")], ["--whisper", "blsp/tiny-llm"], "expected a Whisper model"),
        ([utterance("a")], ["--whisper", "/nowhere"], "expected a Whisper folder or hub id"),
    ],
)
def test_what_cannot_work_is_refused_in_a_line(
    rows: list[Utterance],
    more: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(write_manifest(tmp_path, rows), *more) == 2
    last = capsys.readouterr().err.splitlines()[-1]  # others are the library's, which loads
    assert last.startswith("blsp: ") and re.search(message, last)


# --- stopped and going on -------------------------------------------------------------------------


def test_a_finished_file_is_left_alone_and_never_overwritten_by_another_plan(
    tmp_path: Path, heard: list[list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_manifest(tmp_path, [utterance("a")])
    assert run(manifest) == run(manifest) == 0
    assert len(heard) == 1
    assert run(manifest, "--min-log-probability", "-2") == 2
    assert "choose another --out" in capsys.readouterr().err


def test_processes_share_the_work_and_the_last_one_writes(
    tmp_path: Path, heard: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_manifest(tmp_path, [utterance(f"u{at}", 1.0 + at) for at in range(5)])
    assert run(manifest, "--batch-size", "1", out="alone/t.jsonl") == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, calls in (("0", 8), ("1", 10)):
        assert not (tmp_path / "out" / "t.jsonl").exists()
        monkeypatch.setenv("RANK", rank)
        assert run(manifest, "--batch-size", "1") == 0
        assert len(heard) == calls
    alone, shared = (tmp_path / name / "t.jsonl" for name in ("alone", "out"))
    assert shared.read_bytes() == alone.read_bytes()


STUCK = """
import sys, time
from blsp import transcription
from blsp.hearing import Transcript
calls = []
def hear(self, pieces, *_):
    calls.append(None)
    if len(calls) > 1:
        time.sleep(600)
    return [Transcript(f"{len(piece)} samples", -0.25, "stop") for piece in pieces]
transcription.Listener.hear = hear
transcription.STRETCH_SECONDS = 40.0
from blsp.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_killed_run_goes_on_in_the_middle_of_a_recording(
    tmp_path: Path, heard: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its 160 s are four stretches; while one run is on it, another is refused."""
    monkeypatch.setattr(transcription, "STRETCH_SECONDS", 40.0)
    manifest = write_manifest(tmp_path, [utterance("long", 160.0), utterance("short")])
    assert run(manifest, "--batch-size", "1", out="whole/t.jsonl") == 0
    assert len(heard) == 5
    out, journal = tmp_path / "out" / "t.jsonl", tmp_path / "out" / "t.jsonl.journal"
    words = ["data", "transcribe", str(manifest), "--out", str(out), "--whisper", WHISPER]
    code = [sys.executable, "-c", STUCK, *words, "--batch-size", "1"]
    process = subprocess.Popen(code, env=os.environ)
    while not journal.exists() or journal.read_bytes().count(b"\n") < 2:
        assert process.poll() is None
        time.sleep(0.02)
    assert run(manifest, "--batch-size", "1") == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert journal.read_bytes().count(b"\n") == 2 and not out.exists()
    heard.clear()
    assert run(manifest, "--batch-size", "1") == 0
    assert len(heard) == 4
    assert out.read_bytes() == (tmp_path / "whole" / "t.jsonl").read_bytes()
    assert [path.name for path in sorted(out.parent.iterdir())] == ["t.jsonl", "t.meta.json"]


# --- the whole way --------------------------------------------------------------------------------


def test_recordings_alone_become_conversations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of speech, one long recording among it, is heard and answered."""
    pytest.importorskip("espeakng_loader")
    plans = plan_utterances(11, "test", 14)
    spoken = list(read_manifest(make_speech(plans, tmp_path / "made", "speech")))
    clips = [load_audio(row.audio, root=tmp_path / "made") for row in spoken]
    rest = np.zeros(SECOND, dtype=np.float32)
    meeting = np.concatenate([part for clip in clips[2:] for part in (clip, rest)])
    for name, audio in (("a", clips[0]), ("b", clips[1]), ("meeting", meeting)):
        save_audio(tmp_path / "calls" / f"{name}.wav", audio)
    manifests = tmp_path / "manifests"
    prepare = ["prep", "folder", str(tmp_path / "calls"), "--untranscribed", "--language", "en"]
    assert main([*prepare, "--out", str(manifests)]) == 0
    assert run(manifests / "calls.jsonl", "--batch-size", "4", out="heard.jsonl") == 0
    found = {row.id: row for row in read_manifest(manifests / "heard.jsonl")}
    assert [found[name].text for name in "ab"] == [row.text for row in spoken[:2]]
    assert list(found) == ["a", "b", "meeting-1", "meeting-2"]
    listener, root = load_listener(WHISPER), find_root(manifests / "heard.jsonl")
    for row in found.values():
        audio = load_audio(row.audio, start=row.start, duration=row.duration, root=root)
        [alone] = listener.hear([audio], "en", TranscriptionConfig())
        assert row.text == alone.text
        written = row.extra["mean_log_probability"]
        assert written == pytest.approx(alone.mean_log_probability, abs=1e-3)
    out = tmp_path / "c.jsonl"
    ask = ["continuations", str(manifests / "heard.jsonl"), "--llm", "blsp/tiny-llm"]
    assert main([*ask, "--behaviours", "tiny", "--out", str(out)]) == 0
    assert main(["data", "validate", str(out), "--decode"]) == 0
    heard_parts = {row.recordings[0].transcript for row in read_conversations(out)}
    assert heard_parts == {row.text for row in found.values()}
