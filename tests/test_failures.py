"""Where speech fails: losses beside errors of recognition, their picture, the recordings."""

import base64
import io
import json
import re
from pathlib import Path

import pytest
import soundfile
from test_benchmark import TASKS, WORDS, Fakes, benchmark, understand, write_spellings, write_spoken
from test_report import Page

from blsp.charts import draw_scatter
from blsp.cli import main
from blsp.failures import Loss, average_losses, describe_losses, find_losses
from blsp.prediction_log import PredictionLog
from blsp.report import write_report
from blsp.running import run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Whisper mishears the third of four ("call other" for "call ada"), speech the last two."""
    whisper, manifest = write_spellings(tmp_path), write_spoken(tmp_path)
    fakes = Fakes(whisper, lambda prompt, i: understand(prompt, WORDS[i] if i < 2 else "?"))
    run(benchmark(manifest, tasks=TASKS[:2]), fakes.models, tmp_path / "out")
    return tmp_path / "out"


def losses(folder: Path, task: int) -> list[Loss]:
    results = json.loads((folder / "results.json").read_text())
    return find_losses(PredictionLog(folder), results, TASKS[task], "clean", folder)


def test_each_utterance_has_its_error_and_its_loss(folder: Path) -> None:
    expected = [("u0", 0, 0), ("u1", 0, 0), ("u2", 0.5, 1), ("u3", 0, 1)]
    assert losses(folder, 1) == expected  # right or wrong
    assert losses(folder, 0) == expected  # "what?" for two words and for three: all are wrong


def test_what_is_lost_is_said_in_words(folder: Path) -> None:
    assert describe_losses(losses(folder, 1)) == (
        "Where Whisper's transcript is right (3 utterances), speech loses 33.3%; where Whisper's "
        "transcript has an error (1 utterances), speech loses 100.0%."
    )
    assert average_losses(losses(folder, 1)) == [(0, pytest.approx(1 / 3)), (0.5, 1)]
    assert describe_losses([]) == ""


def test_more_errors_than_words_count_as_all_of_them() -> None:
    assert average_losses([Loss("a", 3.0, 1.0), Loss("b", 0.6, 0.0)]) == [(0.8, 0.5)]


def test_the_page_shows_a_point_an_utterance(folder: Path) -> None:
    page = Page(write_report(folder).read_text())
    assert "Does speech fail where recognition fails?" in page.text
    points = [a for tag, a in page.seen if tag == "circle" and a["class"] == "point"]
    assert len(points) == 2 * 4  # two tasks


def test_without_a_cascade_there_is_no_such_picture(folder: Path) -> None:
    (folder / "predictions" / "whisper.jsonl").unlink()
    assert losses(folder, 1) == []
    assert "recognition fails?" not in write_report(folder).read_text()


def test_equal_points_are_drawn_apart_and_always_alike() -> None:
    pictures = [draw_scatter([(0, 1)] * 3, [(0, 1)], title="t") for _ in range(2)]
    assert pictures[0] == pictures[1]
    circles = {(a["cx"], a["cy"]) for tag, a in Page(pictures[0]).seen if tag == "circle"}
    assert len(circles) == 3 + 1  # and the mean


def test_recordings_are_in_the_page_only_if_asked_for(folder: Path) -> None:
    assert "<audio" not in write_report(folder).read_text()
    assert main(["report", str(folder), "--with-audio"]) == 0
    found = re.findall(
        r'src="data:audio/flac;base64,([^"]+)"', (folder / "report.html").read_text()
    )
    lengths = {len(soundfile.read(io.BytesIO(base64.b64decode(data)))[0]) for data in found}
    assert lengths == {3 * 1600, 4 * 1600}  # of the two that speech got wrong
    assert main(["report", str(folder), str(folder.parent), "--with-audio"]) == 2
