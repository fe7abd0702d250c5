"""Commands under a real `accelerate launch`: several processes write the file that one writes."""

import re
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from test_processes import finish, launch

from blsp.audio import save_audio
from blsp.cli import main as run_blsp
from blsp.journal import find_journals
from blsp.manifest import Meta, Utterance, read_meta, write_rows
from tests.model.conftest import make_audio, save_llm

ROWS = 36
CONTINUATIONS = "continuations {folder}/m.jsonl --llm {folder}/llm --behaviours tiny --batch-size 2"
TRANSCRIBE = (
    "data transcribe {folder}/mute.jsonl --whisper blsp/tiny-whisper --batch-size 1 "
    "--max-compression-ratio 99 --min-log-probability -99"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model, transcripts, and recordings without any."""
    folder = tmp_path_factory.mktemp("shared")
    save_llm(folder / "llm", "qwen3", tie_word_embeddings=False)
    said = [
        Utterance(id=f"u{at}", audio=f"{at}.wav", duration=2.0, text="word " * (1 + at % 7))
        for at in range(ROWS)
    ]
    write_rows(folder / "m.jsonl", said, Meta(command="test"))
    mute = [Utterance(id=one.id, audio=one.audio, duration=2.0, text=None) for one in said]
    write_rows(folder / "mute.jsonl", mute, Meta(command="test"))
    for at, one in enumerate(mute):
        save_audio(folder / one.audio, make_audio(32_000, seed=at))
    return folder


def words(command: str, folder: Path, out: Path, *more: str) -> list[str]:
    return [*command.format(folder=folder).split(), "--out", str(out / "o.jsonl"), *more]


def test_two_processes_write_the_continuations_that_one_writes(
    folder: Path, tmp_path: Path
) -> None:
    short = "--max-new-tokens", "5"
    assert run_blsp(words(CONTINUATIONS, folder, tmp_path / "one", *short)) == 0
    told = finish(launch(2, "-m", "blsp", *words(CONTINUATIONS, folder, tmp_path / "two", *short)))
    assert told.count("this process has done its part") == 1  # the other one wrote the file
    check_same(tmp_path / "one", tmp_path / "two")


def check_same(one: Path, other: Path) -> None:
    """The rows to the byte, all that the side file says of them, and nothing beside."""
    assert (other / "o.jsonl").read_bytes() == (one / "o.jsonl").read_bytes()
    metas = [read_meta(path / "o.jsonl") for path in (one, other)]
    assert metas[0] is not None and metas[1] is not None
    assert (metas[0].plan, metas[0].counts) == (metas[1].plan, metas[1].counts)
    assert {path.name for path in other.iterdir()} == {"o.jsonl", "o.meta.json"}


# --- one of them is killed ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "more"),
    [(CONTINUATIONS, ("--max-new-tokens", "150")), (TRANSCRIBE, ())],
    ids=["continuations", "transcribe"],
)
def test_a_process_that_is_killed_takes_nothing_with_it(
    command: str, more: tuple[str, ...], folder: Path, tmp_path: Path
) -> None:
    """Two processes, one killed at work; then three, which keep what was done and do the rest."""
    one, killed = tmp_path / "one", tmp_path / "killed"
    finish(launch(1, "-m", "blsp", *words(command, folder, one, *more)))
    again = ["-m", "blsp", *words(command, folder, killed, *more)]
    started = launch(2, *again)
    kill_at_work(started, 1, killed / "o.jsonl.journal.1")
    told, _ = started.communicate(timeout=120)
    assert started.returncode != 0, told
    assert not (killed / "o.jsonl").exists()
    kept = mark_answers(killed / "o.jsonl")
    finish(launch(3, *again))
    text = (killed / "o.jsonl").read_text(encoding="utf-8")
    assert 0 < kept == text.count("(kept) ") < ROWS
    (killed / "o.jsonl").write_text(text.replace("(kept) ", ""), encoding="utf-8")
    check_same(one, killed)


def kill_at_work(started: subprocess.Popen[str], rank: int, journal: Path) -> None:
    """Kill one process of a launch as soon as it has noted two batches in its journal."""
    while not journal.is_file() or journal.read_bytes().count(b"\n") < 3:  # the first is its plan
        assert started.poll() is None, started.communicate()[0]
        time.sleep(0.01)
    for process in psutil.Process(started.pid).children(recursive=True):
        if process.environ().get("RANK") == str(rank):
            process.send_signal(signal.SIGKILL)
            return
    raise AssertionError(f"expected a process of rank {rank}, found none")


def mark_answers(out: Path) -> int:
    """Mark what the journals keep, so that it can be told from what is done anew; returns how many
    answers that are."""
    count = 0
    for path in find_journals(out):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        marked = [re.subn(r'"text": "(?=[^"])', '"text": "(kept) ', line) for line in lines]
        path.write_text("".join(line for line, _ in marked), encoding="utf-8")
        # What was cut in mid-line is a batch to be done again.
        count += sum(found for line, found in marked if line.endswith("\n"))
    return count
