"""`blsp prep esd` on two speakers, in both forms in which the corpus goes round."""

import json
from functools import partial
from pathlib import Path

import pytest

from blsp.manifest import find_root, read_manifest
from blsp.validation import validate
from tests.data_prep.conftest import run_prep, write_audio

MANDARIN = "0001_000001\t是的\t中立\r\n0001_001051\t不是\t伤心\r\n"
NINE = "The nine the eggs, I keep."


def build(home: Path) -> Path:
    """The folder in which the archive was unpacked: one speaker with folders of parts, one not."""
    corpus = home / "corpora" / "Emotion Speech Dataset"
    for name in (
        "0001/Neutral/evaluation/0001_000001",
        "0001/Sad/train/0001_001051",
        "0011/Angry/0011_000351",
        "0011/Angry/0011_000371",
        "0011/Angry/0011_000401",
        "0011/Surprise/0011_001750",
    ):
        write_audio(corpus / f"{name}.wav", seconds=1.5)
    (corpus / "0011" / "Angry" / "._0011_000351.wav").write_bytes(b"macOS")
    (corpus / "0001" / "0001.txt").write_bytes(MANDARIN.encode("gbk"))
    lines = [f"0011_{number}\t{NINE}\tAngry" for number in ("000351", "000371", "000401")]
    text = "\n".join([*lines, "0011_001750\tNo.\tSurprise", "", "0011_9 no tab"])
    (corpus / "0011" / "0011.txt").write_text(text)
    return home / "corpora"


def texts(root: Path, speaker: str) -> Path:
    return root / "Emotion Speech Dataset" / speaker / f"{speaker}.txt"


prepare = partial(run_prep, "esd")


def ids(path: Path) -> list[str]:
    return [row.id for row in read_manifest(path)]


def test_a_recording_has_the_emotion_of_its_folder(root: Path, tmp_path: Path) -> None:
    assert prepare(root, tmp_path, "--splits", "en-evaluation") == 0
    path = tmp_path / "en-evaluation.jsonl"
    assert json.loads(path.read_text()) == {
        "id": "0011_000351",
        "audio": "0011/Angry/0011_000351.wav",
        "duration": 1.5,
        "text": NINE,
        "language": "en",
        "speaker": "0011",
        "emotion": "angry",
        "license": "research-only",
        "source": "ESD",
        "emotion_label": "Angry",
        "gender": "male",
    }
    report = validate(path)
    assert (report.rows, report.seconds, report.problems, report.warnings) == (1, 1.5, [], [])
    assert (find_root(path) / "0011/Angry/0011_000351.wav").exists()


def test_of_each_emotion_come_20_for_evaluation_30_for_test_and_the_rest_for_train(
    root: Path, tmp_path: Path
) -> None:
    prepare(root, tmp_path, "--splits", "en-train", "en-test")
    assert ids(tmp_path / "en-test.jsonl") == ["0011_000371"]
    assert ids(tmp_path / "en-train.jsonl") == ["0011_000401", "0011_001750"]


def test_folders_of_parts_count_where_there_are_some(root: Path, tmp_path: Path) -> None:
    """The numbers would put both into evaluation."""
    prepare(root / "Emotion Speech Dataset", tmp_path, "--splits", "zh-train", "zh-evaluation")
    (row,) = read_manifest(tmp_path / "zh-train.jsonl")
    assert (row.id, row.language, row.emotion) == ("0001_001051", "zh", "sad")
    assert row.extra["gender"] == "female"
    assert ids(tmp_path / "zh-evaluation.jsonl") == ["0001_000001"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gbk"])
def test_texts_come_in_several_encodings(root: Path, tmp_path: Path, encoding: str) -> None:
    texts(root, "0001").write_bytes(MANDARIN.encode(encoding))
    prepare(root, tmp_path, "--splits", "zh-train")
    assert [row.text for row in read_manifest(tmp_path / "zh-train.jsonl")] == ["不是"]


def test_what_cannot_be_used_is_counted(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = root / "Emotion Speech Dataset" / "0011" / "Sad"
    folder.mkdir()
    for name in ("0011_001200", "copy", "0011_001201"):
        (folder / f"{name}.wav").write_bytes(b"RIFF")
    with texts(root, "0011").open("a") as file:
        file.write("\n0011_001201\tYes.\tSad\n")
    assert prepare(root, tmp_path, "--splits", "en-train") == 0
    out = capsys.readouterr().out
    assert "en-train.jsonl: 2 utterances" in out
    assert "  dropped 1: audio without a transcript\n" in out
    assert "  dropped 1: a name of another form\n" in out
    assert "  dropped 1: audio that cannot be read\n" in out


def test_a_text_that_cannot_be_read_is_named(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = texts(root, "0011")
    path.write_bytes(b"0011_000351\t\xff\xff\n")
    assert prepare(root, tmp_path, "--splits", "en-train") == 2
    assert f"{path}: expected text in utf-8-sig, utf-16, gbk" in capsys.readouterr().err
    path.unlink()
    assert prepare(root, tmp_path, "--splits", "en-train") == 2
    assert f"{path}: expected a text file, found: No such file" in capsys.readouterr().err
