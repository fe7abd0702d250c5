"""Speech is made once, in plan order, by a worker that may be killed or run out of disk."""

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blsp.audio import load_audio
from blsp.errors import InputError
from blsp.tiny.speech import Plan, compute_plan_digest, make_speech, plan_emotions, plan_utterances
from blsp.tiny.voices import EMOTIONS, voices_of

SMALL = plan_utterances(1, "train", 12, snr_db=10.0)
LONG = plan_utterances(1, "train", 400)  # seconds of work: time to be killed in the middle


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_speech(SMALL, tmp_path_factory.mktemp("speech"), "small")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The whole lines of JSON in a manifest or a journal."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def wait_for(condition: Callable[[], object], *, limit: float = 120.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# What is made


def test_a_manifest_has_every_plan_in_order(manifest: Path) -> None:
    rows = read_rows(manifest)
    assert [row["id"] for row in rows] == [plan.id for plan in SMALL]
    assert [row["text"] for row in rows] == [plan.sentence.text for plan in SMALL]
    assert names(manifest.parent) == [
        "small",
        "small.jsonl",
        "small.meta.json",
        "small.timing.jsonl",
    ]


def test_the_audio_is_what_the_manifest_says(manifest: Path) -> None:
    for row, plan in zip(read_rows(manifest), SMALL, strict=True):
        path = manifest.parent / row["audio"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"]
        audio = load_audio(row["audio"], root=manifest.parent, expected_seconds=row["duration"])
        assert len(audio) / 16_000 == pytest.approx(row["duration"], abs=5e-5)
        assert 20 * np.log10(np.abs(audio).max()) == pytest.approx(plan.level_db, abs=0.05)


def test_timings_count_from_the_start_of_the_file(manifest: Path) -> None:
    timings = read_rows(manifest.with_name("small.timing.jsonl"))
    for row, timing, plan in zip(read_rows(manifest), timings, SMALL, strict=True):
        starts = [start for _, start in timing["words"]]
        words = [row["text"][place:].split()[0] for place, _ in timing["words"]]
        assert timing["id"] == row["id"]
        assert starts == sorted(starts)
        assert starts[0] >= round(plan.lead_seconds, 3)
        assert starts[-1] < row["duration"] - plan.trail_seconds
        assert set(words) <= set(row["text"].split())


def test_labels_are_those_of_the_sentence(manifest: Path) -> None:
    row, sentence = read_rows(manifest)[0], SMALL[0].sentence
    assert row["intent"] == sentence.intent
    assert row["translation"] == {"de": sentence.german}
    assert [(e["type"], e["filler"]) for e in row["entities"]] == sentence.fillers
    assert (row["speaker"], row["emotion"]) == (SMALL[0].voice, SMALL[0].emotion)
    assert (row["noise"], row["snr_db"]) == (SMALL[0].noise, 10.0)


def test_the_same_plan_in_two_fresh_folders_gives_the_same_files(
    manifest: Path, tmp_path: Path
) -> None:
    """eSpeak seeds itself with the clock: the second run starts in another second."""
    time.sleep(1.0)
    again = make_speech(SMALL, tmp_path, "small")
    assert again.read_bytes() == manifest.read_bytes()


def test_five_emotions_share_words_and_voice() -> None:
    plans = plan_emotions(1, "test", 3)
    for first in (0, 5, 10):
        five = plans[first : first + 5]
        assert [plan.emotion for plan in five] == list(EMOTIONS)
        assert len({plan.sentence.text for plan in five}) == 1
        assert len({plan.voice for plan in five}) == 1
        assert len({plan.prosody for plan in five}) == 5
    assert {plan.voice for plan in plans} <= set(voices_of("test"))


def test_clean_and_noisy_plans_of_a_seed_are_different_speech() -> None:
    clean, noisy = plan_utterances(1, "dev", 20), plan_utterances(1, "dev", 20, snr_db=5.0)
    assert {plan.noise for plan in clean} == {None}
    assert {plan.snr_db for plan in noisy} == {5.0}
    assert compute_plan_digest(clean) != compute_plan_digest(noisy)
    assert compute_plan_digest(clean) == compute_plan_digest(plan_utterances(1, "dev", 20))


# What was made before


def test_speech_that_is_there_is_not_made_again(manifest: Path) -> None:
    before = manifest.stat().st_mtime_ns
    assert make_speech(SMALL, manifest.parent, "small") == manifest
    assert manifest.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "other", [SMALL[:-1], [replace(SMALL[0], level_db=-3.0), *SMALL[1:]]], ids=["fewer", "louder"]
)
def test_speech_of_another_plan_under_that_name_is_refused(
    manifest: Path, other: list[Plan]
) -> None:
    with pytest.raises(InputError, match=r"small\.meta\.json: expected the plan .* choose another"):
        make_speech(other, manifest.parent, "small")


def test_speech_that_does_not_say_of_which_plan_it_is_is_refused(tmp_path: Path) -> None:
    (tmp_path / "small.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="found none; remove the speech called 'small'"):
        make_speech(SMALL, tmp_path, "small")


def interrupt(folder: Path, *, keep: int) -> list[dict[str, Any]]:
    """Leave `SMALL` in `folder` as a run that was stopped after `keep` utterances."""
    rows = read_rows(make_speech(SMALL, folder, "small"))
    timings = read_rows(folder / "small.timing.jsonl")
    for path in ("small.jsonl", "small.timing.jsonl"):
        (folder / path).unlink()
    for row, timing in zip(rows, timings, strict=True):
        row["timing"] = {name: timing[name] for name in ("phonemes", "words")}
    for row in rows[keep:]:
        (folder / row["audio"]).unlink()
    journal = "".join(json.dumps(row) + "\n" for row in rows[:keep])
    (folder / "small.journal").write_text(journal)
    return rows


def test_a_torn_last_line_of_the_journal_is_made_again(tmp_path: Path) -> None:
    before = interrupt(tmp_path, keep=5)
    journal = tmp_path / "small.journal"
    journal.write_text(journal.read_text()[:-40])
    after = read_rows(make_speech(SMALL, tmp_path, "small"))
    assert [row["id"] for row in after] == [plan.id for plan in SMALL]
    assert [row["sha256"] for row in after[:4]] == [row["sha256"] for row in before[:4]]
    assert not journal.exists()


def test_a_torn_line_spoils_no_later_line(tmp_path: Path) -> None:
    """Two runs stop at an unknown voice; between them the last line of the journal is torn."""
    plans = [*SMALL[:6], replace(SMALL[6], voice="en-us+nosuch")]
    journal = tmp_path / "small.journal"
    with pytest.raises(InputError):
        make_speech(plans, tmp_path, "small")
    journal.write_text(journal.read_text()[:-40])
    with pytest.raises(InputError):
        make_speech(plans, tmp_path, "small")
    lines = journal.read_text().splitlines()
    assert [json.loads(lines[i])["id"] for i in (0, 1, 2, 3, 4, 6)] == [p.id for p in SMALL[:6]]


def test_a_damaged_flac_is_made_again(tmp_path: Path) -> None:
    before = interrupt(tmp_path, keep=5)
    flac = tmp_path / before[2]["audio"]
    flac.write_bytes(flac.read_bytes()[:-100])
    (tmp_path / before[3]["audio"]).unlink()
    after = read_rows(make_speech(SMALL, tmp_path, "small"))
    for row in after:
        load_audio(row["audio"], root=tmp_path, expected_seconds=row["duration"])
        assert hashlib.sha256((tmp_path / row["audio"]).read_bytes()).hexdigest() == row["sha256"]
    assert [row["id"] for row in after] == [plan.id for plan in SMALL]


# What goes wrong on the way


def test_a_killed_worker_is_one_line_and_the_next_run_goes_on(tmp_path: Path) -> None:
    caught: list[Exception] = []

    def run() -> None:
        try:
            make_speech(LONG, tmp_path, "long")
        except InputError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    journal = tmp_path / "long.journal"
    wait_for(lambda: len(read_rows(journal)) >= 5)
    for worker in multiprocessing.active_children():
        assert worker.pid
        os.kill(worker.pid, signal.SIGKILL)
    thread.join()
    assert "found that the worker stopped with code -9; run it again to go on" in str(caught[0])
    assert not (tmp_path / "long.jsonl").exists()
    recorded = {row["id"]: row["sha256"] for row in read_rows(journal)}
    rows = read_rows(make_speech(LONG, tmp_path, "long"))
    assert [row["id"] for row in rows] == [plan.id for plan in LONG]
    assert recorded.items() <= {row["id"]: row["sha256"] for row in rows}.items()
    assert len(names(tmp_path / "long")) == len(LONG)


def program(folder: Path, *, before: str = "") -> list[str]:
    lines = (
        "import resource, sys",
        "from pathlib import Path",
        "from blsp.errors import InputError",
        "from blsp.tiny.speech import make_speech, plan_utterances",
        before,
        "try:",
        f"    make_speech(plan_utterances(1, 'train', 400), Path({str(folder)!r}), 'long')",
        "except InputError as error:",
        "    sys.exit(str(error))",
    )
    return [sys.executable, "-c", "\n".join(lines)]


def test_the_worker_does_not_outlive_a_killed_parent(tmp_path: Path, checkout: Path) -> None:
    parent = subprocess.Popen(program(tmp_path), cwd=checkout)
    journal = tmp_path / "long.journal"
    wait_for(lambda: len(read_rows(journal)) >= 5)
    parent.kill()
    parent.wait()
    said = -1
    while said < (said := len(read_rows(journal))):
        time.sleep(0.5)  # a living worker makes dozens of utterances in that time
    assert said < len(LONG)
    assert not (tmp_path / "long.jsonl").exists()


@pytest.mark.parametrize("limit", [100, 20_000, 200_000], ids=["record", "flac", "journal"])
def test_a_full_disk_is_one_line_and_leaves_no_manifest(
    tmp_path: Path, checkout: Path, limit: int
) -> None:
    """A limit on the size of files stands for the disk; Python ignores the signal it brings."""
    limited = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    done = subprocess.run(
        program(tmp_path, before=limited), cwd=checkout, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "File too large" in done.stderr
    assert not (tmp_path / "long.jsonl").exists()


def test_an_unknown_voice_is_one_line(tmp_path: Path) -> None:
    plans = [replace(SMALL[0], voice="en-us+nosuch")]
    with pytest.raises(InputError, match=r"^expected a voice like .* found 'en-us\+nosuch'"):
        make_speech(plans, tmp_path, "small")
