"""``blsp quickstart``, small: the whole pipeline; what it writes can be recomputed and opened."""

import json
from itertools import combinations
from pathlib import Path

import pytest

from blsp.cli import main
from blsp.results import recompute
from blsp.tiny.quickstart import build_tasks, plan_speech
from blsp.tiny.voices import EMOTIONS
from blsp.tiny.world import kinds

SMALL = ("--utterances", "24", "--count", "4", "training.steps=3", "training.eval_steps=3")
SEALED_KINDS = {"what", "last_word", "names_person"}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quickstart")
    assert main(["quickstart", "--out", str(folder), *SMALL]) == 0
    return folder


def test_it_leaves_results_a_report_and_a_checkpoint(out: Path) -> None:
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    systems = {row["system"] for row in results["rows"]}
    assert {"speech", "text bound", "cascade", "shuffled audio", "shuffled_text"} <= systems
    assert {row["condition"] for row in results["rows"]} == {"clean", "5 dB", "moods"}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "What it hears, beside what it would read" in page
    assert "over training steps" in page
    assert (out / "checkpoint" / "complete").exists()


def test_results_can_be_recomputed_from_predictions(out: Path) -> None:
    written = json.loads((out / "results.json").read_text(encoding="utf-8"))
    (out / "results.json").unlink()
    recompute(out)
    assert json.loads((out / "results.json").read_text(encoding="utf-8")) == written


def test_a_second_call_goes_on_from_what_is_there(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (out / "checkpoint" / "complete").stat().st_mtime_ns
    assert main(["quickstart", "--out", str(out), *SMALL]) == 0
    assert (out / "checkpoint" / "complete").stat().st_mtime_ns == before
    printed = capsys.readouterr().out
    assert "trained already" in printed
    assert "Translate into German" in printed


def test_another_recipe_in_the_same_folder_is_refused(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quickstart", "--out", str(out), *SMALL, "training.seed=5"]) == 2
    assert "choose another folder with --out" in capsys.readouterr().err


def test_the_checkpoint_is_verified(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(out / "checkpoint")]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", ["count", "utterances"])
def test_too_few_are_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quickstart", f"--{name}", "0"]) == 2
    assert capsys.readouterr().err.startswith(f"blsp: expected --{name}")


def test_splits_share_neither_sentence_nor_voice() -> None:
    plans = plan_speech(400, 100)
    sides: dict[str, list] = {}
    for name, some in plans.items():
        sides.setdefault(name.split("-")[0], []).extend(some)
    assert set(sides) == {"train", "dev", "test"}
    for one, other in combinations(sides.values(), 2):
        assert not {p.sentence.text for p in one} & {p.sentence.text for p in other}
        assert not {p.voice for p in one} & {p.voice for p in other}


def test_sealed_kinds_are_neither_trained_nor_scored() -> None:
    asked = {task.name for task in build_tasks()}
    assert set(kinds()) >= SEALED_KINDS
    assert not asked & SEALED_KINDS
    assert {task.name for task in build_tasks() if task.held_out} == {
        "translate_de",
        "intent",
        "reply",
        "reply_to_mood",
    }


def test_words_are_tested_on_plain_speech_and_moods_on_the_same_words() -> None:
    plans = plan_speech(4, 10)
    assert {p.emotion for name in ("clean", "noisy") for p in plans[f"test-{name}-10"]} == {
        "neutral"
    }
    moods = plans["test-moods-10"]
    assert sorted({p.emotion for p in moods}) == sorted(EMOTIONS)
    assert len(moods) == 5 * len({p.sentence.text for p in moods})
