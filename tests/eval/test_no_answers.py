"""Answers that are none, on every task: the prompt repeated, nothing, another language.

They come from a file, so that no model is loaded. What each must score is worked out by hand.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from blsp.cli import main
from blsp.manifest import Entity, Meta, Utterance, write_rows

PROMPT = "(the prompt)"
FOREIGN = "ich habe das leider nicht gehört"
NOTHING = ""
WRONG = {"accuracy": 0, "invalid_rate": 1}
NO_FRAME = {"intent_accuracy": 0, "slurp_f1": 0, "slot_f1": 0, "invalid_frames": 1}
NO_WORDS = {"squad_em": 0, "squad_f1": 0, "contains_gold": 0, "spoken_em": 0, "spoken_f1": 0}


@pytest.fixture(scope="module")
def folder(whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three utterances for all tasks; recordings are never opened."""
    folder = tmp_path_factory.mktemp("data")
    texts, emotions = ("call ada", "call ada", "play jazz"), ("sad", "happy", "sad")
    rows = [
        Utterance(
            id=f"u{i}",
            audio="a.wav",
            duration=1.0,
            language="en",
            text=text,
            intent=text.split()[0],
            emotion=emotions[i],
            entities=(Entity(type="name", filler=text.split()[1]),),
            translation={"fr": ("appelle", "appelle", "joue")[i]},
            extra={"golds": [text, "x"], "letter": "ABA"[i], "reply": "Gladly."},
        )
        for i, text in enumerate(texts)
    ]
    write_rows(folder / "test.jsonl", rows, Meta(command="test"))
    return folder


def score(folder: Path, whisper: Path, out: Path, words: list[str], said: str) -> dict[str, Any]:
    """The results of a system that always says the same."""
    out.mkdir()
    answers = [json.dumps({"id": f"u{i}", "prediction": said}) + "\n" for i in range(3)]
    (out / "same.jsonl").write_text("".join(answers))
    call = ["bench", *words, "--manifest", str(folder / "test.jsonl"), "--systems", "empty"]
    call += ["--predictions", str(out / "same.jsonl"), "--whisper", str(whisper)]
    assert main([*call, "--out", str(out / "run")]) == 0
    return json.loads((out / "run" / "results.json").read_text())


@pytest.mark.parametrize("said", [PROMPT, FOREIGN, NOTHING])
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["st", "--target", "fr"], {"bleu": 0}),
        (["slu"], WRONG),
        (["slu", "--slots"], NO_FRAME),
        (["ser"], WRONG | {"unweighted_accuracy": 0}),
        (["sqa", "--reference", "golds"], NO_WORDS),
        (["sqa", "--reference", "letter"], {"choice_accuracy": 0, "unparsed_choices": 1}),
        (["reply", "--instruction", "Be kind.\n{audio}"], {"exact_match": 0}),
        (["empathy", "--instruction", "Be kind.\n{audio}"], {"distinct": 0}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_answers_that_are_none_score_what_they_should(
    words: list[str],
    expected: dict[str, float],
    said: str,
    folder: Path,
    whisper: Path,
    tmp_path: Path,
) -> None:
    if said == PROMPT:  # as the run itself has written it down
        (task,) = score(folder, whisper, tmp_path / "asked", words, NOTHING)["tasks"]
        said = task["prompts"][0].replace("{audio}", "").strip()
    results = score(folder, whisper, tmp_path / "said", words, said)
    found = {row["metric"]: row["value"] for row in results["rows"] if row["system"] == "same"}
    assert expected.items() <= found.items()
    if "chrf" in found:  # some characters are always shared
        assert found["chrf"] == 0 if said == NOTHING else found["chrf"] < 0.3
    (counts,) = [row for row in results["counts"] if row["system"] == "same"]
    assert counts["empty"] == (counts["n"] if said == NOTHING else 0)
    assert counts["missing"] == 0 and counts.get("invalid", counts["n"]) == counts["n"]
