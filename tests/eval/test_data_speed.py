"""`blsp bench data_speed`: both sides do the same work, in turns."""

import json
from pathlib import Path

import pytest

import eval.data_speed as program
from blsp.cli import main as run_blsp
from blsp.manifest import Meta, Utterance, write_rows
from tests.data_prep.conftest import write_audio


def test_ours_and_the_bare_loops_are_timed_in_turns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "MAX_NEW_TOKENS", 3)
    rows = []
    for at in range(3):
        write_audio(tmp_path / f"{at}.wav")
        rows.append(Utterance(id=f"u{at}", audio=f"{at}.wav", duration=0.5, text="call anna"))
    write_rows(tmp_path / "m.jsonl", rows, Meta(command="test"))
    models = ["--llm", "blsp/tiny-llm", "--encoder", "blsp/tiny-whisper", "--behaviours", "tiny"]
    manifest = str(tmp_path / "m.jsonl")
    assert run_blsp(["bench", "data_speed", manifest, *models, "--rounds", "2"]) == 0
    out = capsys.readouterr().out
    found = json.loads(out[out.index("{") :])
    for name in ("features", "continuations"):
        assert len(found[name]["ratios"]) == 2 and found[name]["ours_per_second"] > 0


def test_the_first_round_warms_up_and_who_begins_takes_turns() -> None:
    calls: list[str] = []

    def work(name: str) -> float:
        calls.append(name)
        return 1.0

    found = program.take_turns(lambda: work("a"), lambda: work("b"), 2)
    assert calls == ["b", "a", "a", "b", "b", "a"]
    assert len(found["ratios"]) == 2
