"""Empathy through the command line, on models whose every answer is known."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blsp.audio import save_audio
from blsp.cli import main
from blsp.generation import Answer
from blsp.manifest import AudioPart, Message, Meta, Utterance, write_rows
from blsp.systems import Models
from blsp.tiny.world import instructions
from eval.empathy import load_lexicon

MOODS = ("neutral", "sad", "happy")
WORDS = ("i am at home", "they call me")
REPLIES = {"neutral": "All right.", "sad": "Oh dear, all right.", "happy": "Hooray! All right."}
LEXICON = "neutral: []\nsad: [oh dear]\nhappy: [hooray, how nice]\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Every word in three emotions that are told apart by length, and one utterance in one."""
    rows = [
        Utterance(
            id=f"{index}-{mood}",
            audio=f"{mood}.wav",
            duration=(number + 1) / 10,
            text=text,
            emotion=mood,
            language="en",
        )
        for index, text in enumerate(WORDS)
        for number, mood in enumerate(MOODS)
    ]
    alone = Utterance(
        id="alone", audio="sad.wav", duration=0.2, text="alone", emotion="sad", language="en"
    )
    for number, mood in enumerate(MOODS):
        save_audio(tmp_path / f"{mood}.wav", np.full(1600 * (number + 1), 0.1, np.float32))
    write_rows(tmp_path / "m.jsonl", [*rows, alone], Meta(command="test"))
    (tmp_path / "lexicon.yaml").write_text(LEXICON)
    return tmp_path


@pytest.fixture
def fakes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that hears every emotion but happiness, and reads none; Whisper hears sadness ill."""

    def mood_of(audio: np.ndarray) -> str:
        return MOODS[len(audio) // 1600 - 1]

    def read(chats: Sequence[Sequence[Message]]) -> list[Answer]:
        parts = [part for chat in chats for part in chat[0].content]
        words = [part.transcript for part in parts if isinstance(part, AudioPart)]
        return [Answer(f"You said {text}.", "stop", 3) for text in words]

    def hear(chats: Sequence[Any], audio: Sequence[np.ndarray]) -> list[Answer]:
        heard = REPLIES | {"happy": REPLIES["neutral"]}
        return [Answer(heard[mood_of(one)], "stop", 3) for one in audio]

    def transcribe(audio: Sequence[np.ndarray], language: str) -> list[str]:
        return ["hm" if mood_of(one) == "sad" else "home" for one in audio]

    models = Models(
        read=read, hear=hear, transcribe=transcribe, description={"speech": "f"}, whisper=folder
    )
    (folder / "normalizer.json").write_text("{}")
    monkeypatch.setattr("blsp.evaluate.load_models", lambda *_, **__: models)


def bench(folder: Path, *arguments: str) -> int:
    command = ["bench", "empathy", "checkpoint", "--manifest", str(folder / "m.jsonl")]
    return main([*command, "--out", str(folder / "out"), *arguments])


def values(folder: Path, metric: str) -> dict[str, float]:
    rows = json.loads((folder / "out" / "results.json").read_text())["rows"]
    return {row["system"]: row["value"] for row in rows if row["metric"] == metric}


@pytest.mark.usefixtures("fakes")
def test_replies_to_the_same_words_differ_only_for_those_that_hear(folder: Path) -> None:
    assert bench(folder) == 0
    found = values(folder, "distinct")
    assert found.pop("shuffled audio") >= 0
    # Of three pairs of emotions, neutral and happy get the same reply; so they do by Whisper.
    assert found == {
        "speech": pytest.approx(2 / 3),
        "text bound": 0.0,
        "cascade": pytest.approx(2 / 3),
        "empty": 0.0,
    }


@pytest.mark.usefixtures("fakes")
def test_with_a_lexicon_replies_are_to_fit(folder: Path) -> None:
    assert bench(folder, "--lexicon", str(folder / "lexicon.yaml")) == 0
    found = values(folder, "fitting")
    assert found.pop("shuffled audio") >= 0
    # What no emotion's phrase is in fits the neutral one.
    assert found == {
        "speech": pytest.approx(2 / 3),
        "text bound": pytest.approx(1 / 3),
        "cascade": pytest.approx(1 / 3),
        "empty": 0.0,
    }
    results = json.loads((folder / "out" / "results.json").read_text())
    rows = [row for row in results["rows"] if row["system"] == "speech"]
    assert {row["metric"]: row["n"] for row in rows} == {"fitting": 6, "distinct": 2}


@pytest.mark.usefixtures("fakes")
def test_scores_can_be_made_again_from_the_predictions(folder: Path) -> None:
    assert bench(folder, "--lexicon", str(folder / "lexicon.yaml")) == 0
    first = (folder / "out" / "results.json").read_bytes()
    (folder / "out" / "results.json").unlink()
    assert main(["report", str(folder / "out")]) == 0
    assert (folder / "out" / "results.json").read_bytes() == first


@pytest.mark.usefixtures("fakes")
def test_a_run_that_was_stopped_goes_on(folder: Path) -> None:
    assert bench(folder, "--systems", "text bound", "--lexicon", "tiny") == 0
    assert bench(folder, "--systems", "speech,text bound", "--lexicon", "tiny") == 0
    assert set(values(folder, "fitting")) == {"speech", "text bound"}


def test_the_tiny_lexicon_is_that_of_the_text_world() -> None:
    assert load_lexicon("tiny") == {
        emotion: tuple(said[key] for key in ("reply", "sequel") if said[key])
        for emotion, said in instructions()["emotions"].items()
    }


@pytest.mark.parametrize(
    ("lexicon", "message"),
    [
        (None, "expected a YAML file or one of tiny, found: "),
        ("sad: [", "expected a YAML file or one of tiny, found: "),
        ("", "expected lines of `emotion: [phrases]`, found none; write some"),
        ("sad: oh dear", "expected `emotion: [phrases]` of texts, found 'sad': 'oh dear'; put"),
        ("sad: [1]", "expected `emotion: [phrases]` of texts, found 'sad': [1]; put"),
        ("sad: [oh]\nneutral: []", "every emotion of the manifests, found 'happy' missing; add"),
        (
            f"{LEXICON}bored: ['Oh, dear me']",
            "bored: expected phrases that no other emotion has, found 'Oh, dear me', which holds "
            "one of 'sad'; change one",
        ),
        (f"{LEXICON}bored: ['?']", "bored: expected phrases of letters or digits, found '?'"),
    ],
)
def test_a_lexicon_that_cannot_work_is_one_line(
    folder: Path, lexicon: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "other.yaml"
    if lexicon is not None:
        path.write_text(lexicon)
    assert bench(folder, "--lexicon", str(path)) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_a_manifest_without_contrasts_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(folder, "--limit", "1") == 2
    assert "the same text in two emotions, found none among 1 utt" in capsys.readouterr().err
