"""Runs that are killed at random moments, again and again: nothing is lost, nothing comes twice."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from completions import serve

from blsp.audio import save_audio
from blsp.cli import main as run_blsp
from blsp.manifest import Meta, Utterance, read_conversations, write_rows
from tests.model.conftest import save_llm

SLOW = """
import sys, time
from blsp import {module}
real = {module}.{name}
def slow(*arguments, **options):
    time.sleep({seconds})
    return real(*arguments, **options)
{module}.{name} = slow
from blsp.cli import main
sys.exit(main(sys.argv[1:]))
"""
ANSWERS = SLOW.format(module="authors", name="answer_texts", seconds=0.1)
HEADERS = SLOW.format(module="preparation", name="read_audio_info", seconds=0.02)
OPENINGS = SLOW.format(module="shards", name="open_source", seconds=0.02)
PLAIN = "import sys; from blsp.cli import main; sys.exit(main(sys.argv[1:]))"


def run_killed(code: str, argv: Sequence[str], *, kills: int, seconds: float, ready: Path) -> None:
    """Start again and again, kill after up to so many seconds of work, and let the last one end.

    Fails unless exactly so many processes died, each of them at work.

    Args:
        code: of the process.
        argv: the command.
        kills: processes that are killed.
        seconds: the longest that one works before.
        ready: what is written while it works; what an earlier one left there does not count.
    """
    draw, codes = random.Random(0), []
    for count in range(kills + 1):
        before = sizes(ready)
        process = subprocess.Popen(
            [sys.executable, "-c", code, *argv], env=os.environ, stderr=subprocess.PIPE, text=True
        )
        while count < kills and process.poll() is None and sizes(ready) <= before:
            time.sleep(0.01)
        if count < kills:
            time.sleep(draw.uniform(0.0, seconds))
            process.send_signal(signal.SIGKILL)
        _, error = process.communicate(timeout=120)
        codes.append(process.returncode)
        assert codes[-1] in (0, -signal.SIGKILL), error
    assert codes == [-signal.SIGKILL] * kills + [0]


def sizes(pattern: Path) -> set[tuple[str, int]]:
    """Names and bytes of the files that are there."""
    files = pattern.parent.glob(pattern.name)
    return {(path.name, path.stat().st_size) for path in files if path.exists()}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llm(tmp_path_factory.mktemp("llm"), "qwen3", tie_word_embeddings=False)


def write_transcripts(folder: Path, count: int) -> Path:
    rows = [
        Utterance(id=f"u{at}", audio=f"{at}.wav", duration=1.0, text="word " * (1 + at % 7))
        for at in range(count)
    ]
    write_rows(folder / "m.jsonl", rows, Meta(command="test"))
    return folder / "m.jsonl"


def command(folder: Path, llm: Path, out: str, *more: str) -> list[str]:
    words = ["continuations", str(folder / "m.jsonl"), "--llm", str(llm)]
    return [
        *words,
        "--out",
        str(folder / out),
        "--max-new-tokens",
        "5",
        "--behaviours",
        "tiny",
        *more,
    ]


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file, hidden ones too."""
    yield from ((path.name, path.read_bytes()) for path in sorted(folder.iterdir()))


def check_continuations(folder: Path, llm: Path, kills: int) -> None:
    """The file of a killed run is that of a run that was not, byte for byte."""
    write_transcripts(folder, 12 * (kills + 1))
    greedy, drawn = ("--batch-size", "2"), ("--batch-size", "3", "--sample")
    for options in (greedy, drawn) if kills > 1 else (greedy,):
        whole, killed = folder / "whole", folder / "killed"
        assert run_blsp([*command(folder, llm, "whole/c.jsonl"), *options]) == 0
        argv = [*command(folder, llm, "killed/c.jsonl"), *options]
        ready = killed / "c.jsonl.journal"
        run_killed(ANSWERS, argv, kills=kills, seconds=0.5, ready=ready)
        names = [name for name, _ in contents(killed)]
        assert names == ["c.jsonl", "c.meta.json"]
        assert (killed / "c.jsonl").read_bytes() == (whole / "c.jsonl").read_bytes()
        for path in (*whole.iterdir(), *killed.iterdir()):
            path.unlink()


def check_server(folder: Path, llm: Path, kills: int) -> None:
    """Every transcript is answered once in the file, and few were asked twice."""
    count = 40 * (kills + 1)
    write_transcripts(folder, count)
    with serve(seconds=0.05) as server:
        argv = command(folder, llm, "c.jsonl", "--engine", server.address, "--at-once", "4")
        run_killed(PLAIN, argv, kills=kills, seconds=0.3, ready=folder / "c.jsonl.journal")
    ids = [row.id.partition("/")[0] for row in read_conversations(folder / "c.jsonl")]
    assert ids == [f"u{at}" for at in range(count)]
    assert count <= sum(server.tries.values()) <= count + 8 * kills  # those under way are lost


def check_manifest(folder: Path, llm: Path, kills: int) -> None:
    """A manifest is there whole or not at all."""
    del llm
    audio = np.full(800, 0.1, dtype=np.float32)
    for at in range(60):
        save_audio(folder / "calls" / f"{at:02}.wav", audio)
        (folder / "calls" / f"{at:02}.txt").write_text("hello")
    argv = ["prep", "folder", str(folder / "calls"), "--out", str(folder / "m")]
    ready = folder / "m" / ".calls.jsonl.*.tmp"
    run_killed(HEADERS, argv, kills=kills, seconds=0.1, ready=ready)
    lines = (folder / "m" / "calls.jsonl").read_text().splitlines()
    assert len(lines) == 60 and (folder / "m" / "calls.meta.json").exists()


def check_shards(folder: Path, llm: Path, kills: int) -> None:
    """Every file is in one shard, and the bytes are those of a run that nobody killed."""
    del llm
    for at in range(40):
        (folder / f"{at}.wav").write_bytes(bytes([at]) * 1000)
    write_transcripts(folder, 40)
    for out in ("packed", "whole"):
        argv = ["data", "shard", str(folder / "m.jsonl"), "--out", str(folder / out)]
        argv += ["--size", "3KB"]
        if out == "whole":
            assert run_blsp(argv) == 0
            break
        ready = folder / out / ".m-*.tmp"
        run_killed(OPENINGS, argv, kills=kills, seconds=0.2, ready=ready)
    assert [*contents(folder / "packed")][:-1] == [*contents(folder / "whole")][:-1]
    assert len([*(folder / "packed").iterdir()]) == 16  # 14 shards, the rows and their side file


Check = Callable[[Path, Path, int], None]


@pytest.mark.parametrize("check", [check_continuations, check_server, check_manifest, check_shards])
def test_a_run_that_is_killed_loses_nothing(check: Check, llm: Path, tmp_path: Path) -> None:
    check(tmp_path, llm, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("check", "kills"),
    [(check_continuations, 5), (check_server, 6), (check_manifest, 4), (check_shards, 5)],
)
def test_a_run_that_is_killed_many_times_loses_nothing(
    check: Check, kills: int, llm: Path, tmp_path: Path
) -> None:
    """Twenty-five kills in all, each of them counted, as continuations are written twice."""
    check(tmp_path, llm, kills)
