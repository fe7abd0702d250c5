"""Latency: what is timed, how it is summed up, and the program on a tiny model."""

import json
from pathlib import Path

import numpy as np
import pytest

from blsp.cli import main
from blsp.errors import InputError
from blsp.generation import Answer, GenerationConfig
from eval.latency import WARM_UP, Timing, summarise, time_answer, time_systems
from eval.latency import main as run_latency


class Clock:
    """Time that passes only while somebody answers: 0.5 s, and 0.1 s a token."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked: list[int] = []

    def __call__(self) -> float:
        return self.now

    def answer(self, audio: np.ndarray, config: GenerationConfig) -> Answer:
        steps = min(4, config.max_new_tokens)
        self.asked.append(steps)
        self.now += 0.5 + 0.1 * steps
        return Answer("a b c", "stop", 3) if steps == 4 else Answer("a", "length", 1)


def test_the_first_token_is_timed_apart() -> None:
    clock = Clock()
    found = time_answer(clock.answer, np.zeros(8000), GenerationConfig(), clock)
    assert clock.asked == [1, 4]
    numbers = found.numbers()
    assert numbers["first_token"] == pytest.approx(0.6)
    assert numbers["whole"] == pytest.approx(0.9)
    assert numbers["real_time_factor"] == pytest.approx(1.8)  # of half a second
    assert numbers["tokens_per_second"] == pytest.approx(10)  # three more, one of them the end


def test_an_answer_of_one_token_has_no_rate() -> None:
    timing = Timing(seconds=1.0, first=0.2, whole=0.2, steps=1)
    assert set(timing.numbers()) == {"first_token", "whole", "real_time_factor"}


def test_the_slow_end_is_shown_of_everything() -> None:
    timings = [Timing(seconds=1.0, first=i / 10, whole=i / 10 + 1, steps=1 + i) for i in range(11)]
    found = summarise(timings)
    assert found["first_token"] == pytest.approx({"median": 0.5, "p90": 0.9, "n": 11})
    assert found["tokens_per_second"] == pytest.approx({"median": 5.5, "p90": 1.9, "n": 10})


def test_systems_take_turns_after_a_warm_up() -> None:
    order: list[str] = []

    def build(name: str) -> object:
        def answer(audio: np.ndarray, config: GenerationConfig) -> Answer:
            order.append(f"{name}{len(audio)}")
            return Answer("", "stop", 0)

        return answer

    systems = {"a": build("a"), "b": build("b")}
    found = time_systems(systems, [np.zeros(1), np.zeros(2)], 4)  # type: ignore[arg-type]
    assert order[4 * WARM_UP :] == ["a1", "a1", "b1", "b1", "a2", "a2", "b2", "b2"]
    assert {name: len(timings) for name, timings in found.items()} == {"a": 2, "b": 2}


def test_both_systems_of_a_checkpoint_are_timed(
    checkpoint: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "latency.json"
    call = ["bench", "latency", str(checkpoint), "--manifest", str(manifest), "--limit", "2"]
    assert main([*call, "--max-new-tokens", "3", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["command"].startswith(f"blsp bench latency {checkpoint} ")
    assert result["recordings"] == 2 and result["audio_seconds"] == pytest.approx(1.1)
    for name in ("speech", "cascade"):
        assert result["systems"][name]["first_token"]["n"] == 2
        assert result["systems"][name]["first_token"]["median"] > 0
    shown = capsys.readouterr().out
    assert "first token, s" in shown and "cascade" in shown


def test_no_recording_is_one_line(checkpoint: Path, manifest: Path) -> None:
    with pytest.raises(InputError, match="expected --limit of at least 1, found 0"):
        run_latency([str(checkpoint), "--manifest", str(manifest), "--limit", "0"])
