"""The guides: their commands exist or are marked as coming, and what needs no GPU is run."""

import re
import shlex
from pathlib import Path

import pytest

from blsp.cli import COMMANDS, main
from blsp.manifest import read_manifest
from blsp.shipped import Folder, list_programs
from tests.data_prep.conftest import build_librispeech, write_audio

GUIDES = sorted((Path(__file__).resolve().parent.parent / "docs" / "guides").glob("*.md"))
COMING = "(soon)"
READY = ("prep", "data", "recipes")  # commands that need neither models nor minutes


def commands(guide: Path) -> list[str]:
    """Lines of the shell blocks, comments included."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", guide.read_text(encoding="utf-8"), re.M | re.S)
    return [line for line in "".join(blocks).splitlines() if line.startswith("blsp ")]


def name(guide: Path) -> str:
    return guide.stem


def exists(words: list[str]) -> bool:
    """Whether a command line can be run in this version."""
    programs: dict[str, Folder] = {"prep": "data_prep", "bench": "eval"}
    if words[1] in programs:
        return words[2] in list_programs(programs[words[1]])
    return words[1] in COMMANDS


@pytest.mark.parametrize("guide", GUIDES, ids=name)
def test_a_command_is_marked_as_coming_exactly_while_it_is(guide: Path) -> None:
    for line in commands(guide):
        assert (COMING in line) != exists(line.split()), f"set or remove {COMING}: {line}"


@pytest.mark.parametrize("guide", GUIDES, ids=name)
def test_needs_stand_before_the_first_command(guide: Path) -> None:
    text = guide.read_text(encoding="utf-8")
    assert "\n## What it needs\n" in text.partition("```sh")[0]


@pytest.mark.parametrize("guide", GUIDES, ids=name)
def test_a_guide_says_that_no_real_run_has_been_made(guide: Path) -> None:
    text = " ".join(guide.read_text(encoding="utf-8").lower().split())
    assert "no run on real weights has been made" in text or "nobody has made this run" in text


def run_ready(guide: Path, skip: str = "conversations") -> int:
    """Run the commands of a guide that can run here; return how many those are."""
    count = 0
    for line in commands(guide):
        words = shlex.split(line, comments=True)[1:]
        if words[0] in READY and COMING not in line and skip not in line:
            assert main(words) == 0, line
            count += 1
    return count


def test_the_first_real_run_works_up_to_the_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    build_librispeech(tmp_path / "data", ("train-clean-100", "dev-clean", "test-clean"))
    assert run_ready(GUIDES[0].with_name("first-real-run.md")) == 4
    assert "starter  Qwen2.5-0.5B-Instruct hears" in capsys.readouterr().out


def test_ones_own_recordings_become_a_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_audio(tmp_path / "recordings" / "a.wav")
    (tmp_path / "recordings" / "a.txt").write_text("Hello there.")
    (tmp_path / "recordings" / "metadata.csv").write_text("path,text\na.wav,Hello there.\n")
    assert run_ready(GUIDES[0].with_name("your-own-llm.md")) == 4
    for manifest in ("recordings", "metadata"):
        (row,) = read_manifest(tmp_path / "data" / "manifests" / f"{manifest}.jsonl")
        assert row.text == "Hello there."
    assert (tmp_path / "recipes-of-mine" / "starter.yaml").exists()
