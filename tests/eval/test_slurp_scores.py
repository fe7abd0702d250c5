"""SLURP's scores from the corpus's own files."""

import json
from pathlib import Path
from typing import Any

import pytest

from blsp.cli import main
from blsp.errors import InputError
from eval.slurp import main as run_slurp


def sentence(words: str, scenario: str, action: str, files: list[str], **entities: Any) -> Any:
    return {
        "slurp_id": 1,
        "sentence": words,
        "intent": "anything",  # the corpus's own is not scenario and action in some rows
        "scenario": scenario,
        "action": action,
        "tokens": [{"surface": word, "id": at} for at, word in enumerate(words.split())],
        "entities": [{"type": kind, "span": span} for kind, span in entities.items()],
        "recordings": [{"file": file, "wer": 0.0} for file in files],
    }


def predict(file: str, scenario: str, action: str, **fillers: str) -> dict[str, Any]:
    entities = [{"type": kind, "filler": filler} for kind, filler in fillers.items()]
    return {"file": file, "scenario": scenario, "action": action, "entities": entities}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Three recordings: right, with an entity misheard, and one that nobody predicted."""
    gold = [
        sentence("Wake me at eight", "alarm", "set", ["a.flac", "b.flac"], time=[3]),
        sentence("call Ada", "call", "make", ["c.flac"], person=[1]),
    ]
    found = [
        predict("a.flac", "alarm", "set", time="eight"),
        predict("b.flac", "alarm", "query", time="eighty"),
    ]
    paths = tmp_path / "test.jsonl", tmp_path / "predictions.jsonl"
    for path, rows in zip(paths, (gold, found), strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(path) for path in paths]


def test_scores_are_those_worked_out_by_hand(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """`eighty` for `eight` is one word of one wrong, and one of six letters, on both sides."""
    assert main(["bench", "slurp", *files]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert float(lines["intent_f1"][1]) == pytest.approx(1 / 2)
    assert float(lines["scenario_f1"][1]) == pytest.approx(1)
    assert float(lines["scenario_f1"][2]) == pytest.approx(2 / (2 + 0.5))
    assert float(lines["span_f1"][1]) == pytest.approx(1 / 2)
    # Two entities in each of two counts, wrong by one word and by a sixth of the letters.
    wrong = 1 + 1 / 6
    assert float(lines["slu_f1"][1]) == pytest.approx(2 * 4 / (2 * 4 + 2 * wrong))
    assert float(lines["slu_f1"][2]) == pytest.approx(2 * 4 / (2 * 4 + 2 * wrong + 2))
    assert lines["3"] == ["3", "recordings,", "1", "not", "predicted"]


@pytest.mark.parametrize(
    ("which", "row", "message"),
    [
        (0, {"scenario": "a"}, r"test.jsonl:1: expected scenario, action, tokens, entities and"),
        (1, {"file": "a.flac"}, r"predictions.jsonl:1: expected file, scenario, action and"),
        (1, predict("z.flac", "a", "b"), "z.flac"),
    ],
)
def test_a_file_of_another_kind_is_one_line(
    which: int, row: dict[str, Any], message: str, files: list[str]
) -> None:
    Path(files[which]).write_text(json.dumps(row))
    with pytest.raises(InputError, match=message):
        run_slurp(files)
