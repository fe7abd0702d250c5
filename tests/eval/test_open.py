"""Open requests: they are asked without a right answer, and a judge finds what it needs."""

import json
from pathlib import Path

import pytest
from completions import serve
from test_benchmark import values, write_spoken

from blsp.cli import main


def test_open_requests_are_asked_and_then_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_spoken(tmp_path)
    said = ("Done.", "I'm sorry, but I can't help with that.", "", "Three minutes.")
    rows = [{"id": f"u{i}", "prediction": text} for i, text in enumerate(said)]
    Path("omni.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    call = ["bench", "open", "--manifest", "test.jsonl", "--predictions", "omni.jsonl"]
    assert main([*call, "--systems", "empty"]) == 0
    out = Path("runs/eval/open")
    results = json.loads((out / "results.json").read_text())
    assert values(results, "open", "answered") == {"omni": 0.75, "empty": 0}
    assert values(results, "open", "refusal_rate")["omni"] == 0.5  # a blank one counts as one
    with serve(judge=lambda text: "4" if "minutes" in text else "1") as server:
        assert main(["bench", "judge", str(out), "--judge", server.address]) == 0
        # blank answers are one answer, whoever gave it; "set a timer" is what was asked
        assert len(server.bodies) == (4 + 3) * 3
        asked = [body["messages"][1]["content"] for body in server.bodies]
    assert all("set a timer" in text for text in asked if "minutes" in text)
    found = json.loads((out / "results.json").read_text())
    assert values(found, "open", "judge_open") == {
        "omni": pytest.approx((4 + 1 + 1 + 1) / 20),
        "empty": pytest.approx(0.2),
    }
