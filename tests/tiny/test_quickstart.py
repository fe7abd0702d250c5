"""``blsp quickstart``: the table it prints is the one it writes."""

import json
from pathlib import Path

import pytest

from blsp.cli import main


def test_it_scores_both_yardsticks_on_unseen_sentences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quickstart", "--count", "6", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert {row["system"] for row in result["rows"]} == {"whisper", "text bound", "cascade"}
    assert all(row["n"] == 6 and 0 <= row["value"] <= 1 for row in result["rows"])
    printed = capsys.readouterr().out
    assert "spoken" in printed
    assert "heard" in printed


def test_a_count_of_none_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quickstart", "--count", "0"]) == 2
    assert capsys.readouterr().err.startswith("blsp: expected --count")
