"""Several runs: what is compared, what is refused, and what is said of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results
from test_report import EVIL, Page

from blsp.cards import build_markdown, build_model_index
from blsp.cli import main
from blsp.comparison import compare_runs
from blsp.errors import InputError
from blsp.prediction_log import Prediction, PredictionLog
from blsp.tasks import Task

N = 60
REPLY = Task(name="reply", prompts=("Say",), reference="reply", metrics=("exact_match",))
ERRORS = Task(name="asr", prompts=("",), reference="text", metrics=("wer",), language="de")


def write_run(
    folder: Path, right: dict[str, int], *tasks: Task, n: int = N, what: str = ""
) -> Path:
    """A run in which each system answers the first so many of n utterances right."""
    record = {
        "format_version": 1,
        "command": f"blsp eval {folder.name}",
        "tasks": [task.to_dict() for task in tasks or (REPLY,)],
        "sets": [{"condition": "clean"}],
        "models": {"checkpoint": f"runs/{folder.name}/checkpoint"},
    }
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(record))
    PredictionLog(folder).append(
        Prediction(
            id=f"u{i:02}",
            system=system,
            task=task.name,
            condition="clean",
            reference=f"ja {i}{what}",
            prediction=f"ja {i}{what}" if i < count else "nein",
        )
        for task in tasks or (REPLY,)
        for system, count in right.items()
        for i in range(n)
    )
    return folder


def difference(found: dict[str, Any], first: str, second: str) -> dict[str, Any]:
    (one,) = [d for d in found["differences"] if (d["first"], d["second"]) == (first, second)]
    return one


def test_differences_are_tested_in_pairs_and_corrected(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "a", {"speech": 54, "text bound": 60}),
        write_run(tmp_path / "b", {"speech": 24, "text bound": 60}),
        write_run(tmp_path / "c", {"speech": 53}),
    ]
    found = compare_runs(runs)
    assert len(found["differences"]) == 3  # of speech alone
    one = difference(found, "a", "b")
    assert one["difference"] == pytest.approx(0.5) and one["n"] == N
    assert one["ci_low"] > 0.3 and one["better"] == "a"
    assert one["p_holm"] == pytest.approx(3 * one["p_value"])
    near = difference(found, "a", "c")
    assert near["difference"] == pytest.approx(1 / 60) and near["better"] is None
    assert (
        "On reply (exact_match, clean), a is better than b: a - b is +50.0 points" in one["words"]
    )
    assert "a is not told apart from c" in near["words"]
    rows = {(row["run"], row["system"]): row["value"] for row in found["rows"]}
    assert rows["a", "text bound"] == 1 and rows["b", "speech"] == pytest.approx(0.4)


def test_one_run_may_be_what_the_others_are_compared_with(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, {"speech": 54}) for name in "abc"]
    found = compare_runs(folders, against=folders[1])
    assert [(one["first"], one["second"]) for one in found["differences"]] == [
        ("a", "b"),
        ("c", "b"),
    ]
    with pytest.raises(InputError, match="expected one of the runs to compare against, found"):
        compare_runs(folders, against=tmp_path)


def test_of_an_error_rate_the_lower_is_better(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, {"speech": n}, ERRORS) for name, n in (("a", 10), ("b", 50))]
    one = difference(compare_runs(runs), "a", "b")
    assert one["difference"] > 0 and one["better"] == "b"
    assert "b is better than a" in one["words"]


def test_equal_runs_are_not_told_apart(tmp_path: Path) -> None:
    found = compare_runs([write_run(tmp_path / name, {"speech": 40}) for name in "ab"])
    one = difference(found, "a", "b")
    assert (one["difference"], one["p_holm"], one["better"]) == (0, 1, None)


def test_systems_from_elsewhere_are_entrants_too(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a", {"speech": 50, "qwen": 20, "cascade": 60})]
    runs.append(write_run(tmp_path / "b", {"omni": 55}))
    pairs = {(one["first"], one["second"]) for one in compare_runs(runs)["differences"]}
    assert pairs == {("a", "a: qwen"), ("a", "b: omni"), ("a: qwen", "b: omni")}


def test_what_only_some_runs_were_asked_is_left_out_and_named(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "a", {"speech": 40}, REPLY, ERRORS),
        write_run(tmp_path / "b", {"speech": 40}, ERRORS),
    ]
    found = compare_runs(runs)
    assert {row["task"] for row in found["rows"]} == {"asr"}
    assert found["notes"] == ["Left out: reply in clean, which was not asked in b."]


def test_other_prompts_are_named(tmp_path: Path) -> None:
    other = Task(name="reply", prompts=("Tell",), reference="reply", metrics=("exact_match",))
    runs = [
        write_run(tmp_path / "a", {"speech": 4}),
        write_run(tmp_path / "b", {"speech": 4}, other),
    ]
    assert compare_runs(runs)["notes"] == ["The prompts of reply are not the same in all runs."]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"n": 59}, "found 1 that differ or that one lacks \\(the first is 'u59'\\)"),
        ({"what": "!"}, "found 60 that differ"),
        ({"metrics": ("chrf",)}, "expected the same metrics in task 'reply'"),
        ({"name": "other"}, "expected a task that all runs were asked, found none"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(
    second: dict[str, Any], message: str, tmp_path: Path
) -> None:
    first = write_run(tmp_path / "a", {"speech": 10})
    changed = {key: second.pop(key) for key in ("metrics", "name") if key in second}
    task = Task(**(REPLY.to_dict() | changed))
    with pytest.raises(InputError, match=message):
        compare_runs([first, write_run(tmp_path / "b", {"speech": 10}, task, **second)])


def test_the_same_folder_twice_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", {"speech": 10})
    with pytest.raises(InputError, match="expected different run folders"):
        compare_runs([folder, folder])


def test_the_command_writes_page_table_and_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = Task(name=f"t{EVIL}", prompts=("",), reference="r", metrics=("exact_match",))
    a = write_run(tmp_path / "a", {"speech": 54}, task)
    b = write_run(tmp_path / "b", {"speech": 24, f"q{EVIL}": 3}, task)
    out = tmp_path / "out"
    assert main(["report", str(a), str(b), "--out", str(out)]) == 0
    page = Page((out / "report.html").read_text())
    assert "<script" not in (out / "report.html").read_text() and EVIL in page.text
    assert "is better than" in page.text and "| 90.0 (" in (out / "table.md").read_text()
    found = json.loads((out / "comparison.json").read_text())
    assert found == json.loads(json.dumps(compare_runs([a, b])))
    assert "written:" in capsys.readouterr().out
    assert (out / "model-index.yaml").is_file()
    assert main(["report", str(a), "--out", str(out)]) == 2
    assert main(["report", str(a)]) == 0 and (a / "table.md").is_file()


def test_a_markdown_table_has_a_column_a_system(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", {"speech": 30, "x|y": 60, "empty": 0})
    main(["report", str(folder)])
    lines = build_markdown(json.loads((folder / "results.json").read_text())).splitlines()
    assert lines[:2] == [
        "| task | condition | metric | speech | x\\|y | n |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    assert lines[2].startswith("| reply | clean | exact_match | 50.0 (") and lines[2].endswith(
        "| 60 |"
    )


def test_a_model_card_can_be_read_by_the_hub(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", {"speech": 30, "text bound": 60}, ERRORS)
    main(["report", str(folder)])
    text = build_model_index(json.loads((folder / "results.json").read_text()))
    name, (result,) = model_index_to_eval_results(yaml.safe_load(text)["model-index"])
    assert name == "checkpoint"
    assert (result.task_type, result.metric_type) == ("automatic-speech-recognition", "wer")
    assert result.metric_value == 50.0  # half of the answers, wrong in both words
    assert result.dataset_name == "clean"
