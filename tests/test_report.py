"""The page: what it shows, and that it needs nothing and lets nothing through."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from blsp.charts import Bar, Curve, draw_bars, draw_curves, draw_map, series_of
from blsp.errors import InputError
from blsp.failures import find_worst
from blsp.prediction_log import Prediction, PredictionLog
from blsp.report import write_report
from blsp.results import recompute
from blsp.tasks import Task

EVIL = '<script>alert("x")</script>&'
TASKS = [
    Task(name="reply", prompts=("",), reference="reply", metrics=("exact_match",)),
    Task(name=f"st{EVIL}", prompts=(EVIL,), reference="r", metrics=("exact_match",), held_out=True),
]
ANSWERS = {
    "speech": ["yes", "no", EVIL, "four", ""],
    "text bound": ["yes", "two", "three", "vier", "five"],
    "cascade": ["yes", "two", "no", "four", "five"],
    "shuffled audio": ["no"] * 5,
    "shuffled_text": ["no"] * 5,
}
REFERENCES = ["yes", "two", "three", "four", "five"]


class Page(HTMLParser):
    """Collects elements, attributes and text; complains about what is not closed."""

    VOID = frozenset({"meta"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if self.open[-1:] != ["style"] else ""

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.seen)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    record = {
        "format_version": 1,
        "command": f"blsp eval {EVIL}",
        "versions": {"blsp": "0"},
        "seconds": 1.5,
        "finished": True,
        "tasks": [task.to_dict() for task in TASKS],
        "sets": [{"condition": "clean"}, {"condition": "5 dB"}],
    }
    (tmp_path / "run.json").write_text(json.dumps(record))
    PredictionLog(tmp_path).append(
        Prediction(
            id=f"u{i}",
            system=system,
            task=task.name,
            condition=condition,
            reference=REFERENCES[i],
            prediction=text,
        )
        for task in TASKS
        for condition in ("clean", "5 dB")
        for system, texts in ANSWERS.items()
        for i, text in enumerate(texts)
    )
    recompute(tmp_path)
    return tmp_path


def add_training(folder: Path) -> None:
    lines: list[dict[str, Any]] = [{"step": s, "loss": 3 / s} for s in range(1, 5)]
    meters = {"eval_kl": 1.0, "eval_kl_floor": 3.0, "eval_kl_ceiling": 0.0, "eval_recovered": 0.66}
    lines.append({"step": 4, **meters})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    similarity = {"text": EVIL, "tokens": ["call", EVIL], "values": [[0.9, 0.1], [0.2, 0.8]]}
    (folder / "similarity.json").write_text(json.dumps(similarity))


def test_the_page_is_whole_and_needs_nothing_from_anywhere(folder: Path) -> None:
    add_training(folder)
    page = Page(write_report(folder).read_text())
    assert {"script", "link", "img", "iframe", "object"}.isdisjoint(tag for tag, _ in page.seen)
    loads = {"src", "href", "srcset", "onload", "onclick", "xlink:href"}
    assert all(loads.isdisjoint(attributes) for _, attributes in page.seen)
    assert "url(" not in (folder / "report.html").read_text()
    assert "@import" not in (folder / "report.html").read_text()


def test_whatever_a_text_holds_is_shown_as_text(folder: Path) -> None:
    add_training(folder)
    page = Page(write_report(folder).read_text())
    assert "<script" not in (folder / "report.html").read_text()
    # task name, prompt, command, answer, similarity sentence and token
    assert page.text.count(EVIL) >= 6


def test_systems_stand_side_by_side_with_intervals_and_gaps(folder: Path) -> None:
    text = Page(write_report(folder).read_text()).text
    # speech 2 of 5 right, text bound 4, cascade 4; Wilson interval of 2 in 5
    assert "40.0 11.8 to 76.9" in text
    assert "80.0 37.6 to 96.4" in text
    assert "-40.0 p " in text and ", 50.0%" in text
    assert text.count("held out") == 2 * 2  # two conditions, in two tables
    assert "Lower is better" not in text  # for exact_match it is not


def test_every_task_and_condition_has_its_bars(folder: Path) -> None:
    page = Page(write_report(folder).read_text())
    assert page.count("svg") == len(TASKS) * 2
    names = [attributes.get("aria-label") for tag, attributes in page.seen if tag == "svg"]
    assert names[0] == "reply, exact_match, clean"


def test_training_and_similarity_are_shown_where_they_are_known(folder: Path) -> None:
    without = Page(write_report(folder).read_text())
    add_training(folder)
    page = Page(write_report(folder).read_text())
    assert page.count("svg") == without.count("svg") + 4  # loss, recovered, kl, similarity
    assert "floor: another recording (3)" in page.text
    assert "ceiling: the transcript (0)" in page.text


def test_the_worst_answers_are_those_where_reading_was_right(folder: Path) -> None:
    found = find_worst(PredictionLog(folder), TASKS[0], "clean", folder)
    assert [example["id"] for example in found] == ["u1", "u2", "u4"]
    assert found[0] == {
        "id": "u1",
        "expected": "two",
        "speech": "no",
        "text bound": "two",
        "cascade": "two",
    }


def test_worst_of_an_error_rate_is_the_highest(tmp_path: Path) -> None:
    task = Task(name="a", prompts=("",), reference="text", metrics=("wer",), language="de")
    PredictionLog(tmp_path).append(
        Prediction(
            id=identity, system="speech", task="a", condition="c", reference="ja", prediction=said
        )
        for identity, said in (("good", "Ja."), ("bad", "nein"), ("worse", "nein und nein"))
    )
    found = find_worst(PredictionLog(tmp_path), task, "c", tmp_path)
    assert [example["id"] for example in found] == ["worse", "bad"]


def test_metrics_of_which_less_is_better_are_named_where_they_are_shown(folder: Path) -> None:
    path = folder / "results.json"
    results = json.loads(path.read_text())
    results["rows"] += [row | {"metric": "wer"} for row in results["rows"]]
    path.write_text(json.dumps(results))
    assert "Lower is better for wer. " in Page(write_report(folder).read_text()).text


def test_scores_are_drawn_over_the_level_of_noise(folder: Path) -> None:
    path = folder / "results.json"
    results = json.loads(path.read_text())
    assert "Under noise" not in write_report(folder).read_text()
    for test_set, level in zip(results["sets"], (20.0, -5.0), strict=True):
        test_set["noise"] = {"kind": "babble", "snr_db": level}
    path.write_text(json.dumps(results))
    html = write_report(folder).read_text()
    pictures = html.partition("Under noise")[2].partition("<h2>")[0]
    assert pictures.count("<svg") == len(results["tasks"])
    assert "dB 20" in pictures and ">-5<" in pictures


def test_a_leak_is_marked(folder: Path) -> None:
    path = folder / "results.json"
    results = json.loads(path.read_text())
    assert [check["verdict"] for check in results["checks"]] == ["inside"] * 4
    results["checks"][0] |= {"verdict": "better", "passed": False}
    path.write_text(json.dumps(results))
    html = write_report(folder).read_text()
    assert '<span class="bad">better</span>' in html
    assert '<span class="bad">3 of 4</span>' in html


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"results\.json: expected a JSON object"):
        write_report(tmp_path)


def test_a_bar_is_as_long_as_its_value() -> None:
    bars = [Bar(label=EVIL, value=v, low=v, high=v, style="s") for v in (0.5, 1.0, 2.0)]
    page = Page(draw_bars(bars, title=EVIL))
    widths = [float(a["width"] or 0) for tag, a in page.seen if tag == "rect"]
    assert widths == [40.0, 80.0, 160.0]  # 320 wide, 104 of labels, 56 of numbers; 2.0 fills it
    assert "200.0%" in page.text


def test_a_curve_leaves_out_what_is_no_number() -> None:
    points = [(0, 1.0), (1, float("nan")), (2, 3.0)]
    page = Page(draw_curves([Curve(label="loss", points=points, style="s")], title="t"))
    path = next(a["d"] for tag, a in page.seen if tag == "path" and "curve" in str(a["class"]))
    assert path == "M44.0 110.0L314.0 10.0"
    assert draw_curves([Curve(label="loss", points=[], style="s")], title="t") == ""


def test_a_map_has_a_cell_for_every_pair() -> None:
    page = Page(draw_map([[0.0, 1.0], [0.5, 0.25], [1.0, 0.0]], ["a", "b"], title="t"))
    cells = [a["fill-opacity"] for tag, a in page.seen if tag == "rect"]
    assert cells == ["0.00", "1.00", "0.50", "0.25", "1.00", "0.00"]
    assert draw_map([], [], title="t") == ""


def test_a_series_is_what_has_a_step_and_a_number() -> None:
    log = [{"step": 1, "loss": 2.0}, {"step": 2, "kl": 1}, {"step": 3, "loss": "x"}, {"loss": 1}]
    assert series_of(log, "loss") == [(1.0, 2.0)]
