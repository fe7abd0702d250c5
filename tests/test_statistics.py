"""`blsp data stats`: numbers of hand-made files, as text and as a page."""

from array import array
from pathlib import Path

import pytest

from blsp.cli import main
from blsp.manifest import (
    AudioPart,
    Conversation,
    Message,
    Meta,
    TextPart,
    Utterance,
    write_rows,
)
from blsp.statistics import Share, build_histogram, compute_spread, compute_statistics

META = Meta(command="test")


def write_speech(folder: Path) -> Path:
    """Six seconds of two speakers; one recording has no words."""
    rows = [
        Utterance(id="a", audio="a.wav", duration=2.0, text="turn it on", speaker="ann"),
        Utterance(id="b", audio="b.wav", duration=1.0, text="off", speaker="ann", language="en"),
        Utterance(id="c", audio="c.wav", duration=3.0, text=None, speaker="<bob>"),
    ]
    write_rows(folder / "m.jsonl", rows, META)
    return folder / "m.jsonl"


def test_recordings_are_measured(tmp_path: Path) -> None:
    found = compute_statistics(write_speech(tmp_path))
    assert (found.rows, found.recordings, found.without_words) == (3, 3, 1)
    assert found.hours == 6 / 3600
    assert found.values["seconds"].tolist() == [2.0, 1.0, 3.0]
    assert found.values["words per second"].tolist() == [1.5, 1.0]
    assert found.values["characters per second"].tolist() == [5.0, 3.0]


def test_labels_are_counted_with_their_seconds(tmp_path: Path) -> None:
    found = compute_statistics(write_speech(tmp_path))
    assert found.labels == {
        "speaker": {"ann": Share(2, 3.0), "<bob>": Share(1, 3.0)},
        "language": {"en": Share(1, 1.0)},
    }


def test_recordings_and_answers_of_conversations_are_measured(tmp_path: Path) -> None:
    heard = AudioPart(audio="a.wav", duration=2.0, transcript="turn on", language="en")
    messages = (
        Message(role="user", content=(TextPart(text="Repeat:\n"), heard, heard)),
        Message(role="assistant", content=(TextPart(text="turn on, turn on"),)),
    )
    write_rows(tmp_path / "c.jsonl", [Conversation(id="a", messages=messages, kind="r")], META)
    found = compute_statistics(tmp_path / "c.jsonl")
    assert (found.rows, found.recordings, found.hours) == (1, 2, 4 / 3600)
    assert found.values["words per response"].tolist() == [4.0]
    assert found.labels == {"language": {"en": Share(2, 4.0)}, "kind": {"r": Share(1, 4.0)}}


def test_bins_have_one_round_width() -> None:
    bins = build_histogram(array("d", [0.5, 1.0, 1.9, 10.9]))
    assert [tuple(one) for one in bins if one.size] == [(0, 1, 1), (1, 2, 2), (10, 11, 1)]
    assert len(bins) == 11


def test_the_last_bin_holds_stragglers() -> None:
    bins = build_histogram(array("d", [1.0] * 999 + [5000.0]))
    assert tuple(bins[-1]) == (1.1, None, 1)
    assert sum(one.size for one in bins) == 1000


def test_a_spread_is_that_of_all_values() -> None:
    spread = compute_spread(array("d", range(101)))
    assert spread == (0, 1, 50, 50, 99, 100)


def test_the_terminal_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_speech(tmp_path)
    assert main(["data", "stats", str(path)]) == 0
    told = capsys.readouterr().out
    assert told.startswith(
        f"{path}: manifest, 3 lines, 0.00 h of audio, 1 recordings without words\n\nseconds: median"
    )
    assert f"speaker: 2 values\n  ann    2      0.00 h  {'█' * 40}\n" in told


def test_the_page_stands_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "s.html"
    assert main(["data", "stats", str(write_speech(tmp_path)), "--html", str(page)]) == 0
    text = page.read_text()
    assert "&lt;bob&gt;" in text and "<bob>" not in text
    assert text.count("<svg") == 3
    assert "<script" not in text and "http" not in text


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "expected at least one line"), ('{"id": "a"}\n', ":1: expected the key 'audio'")],
)
def test_a_file_without_statistics_is_one_line(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.jsonl").write_text(content)
    assert main(["data", "stats", str(tmp_path / "m.jsonl")]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
