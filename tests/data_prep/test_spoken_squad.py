"""`blsp prep spoken_squad` on a topic of four paragraphs."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from blsp.manifest import find_root, read_manifest
from blsp.validation import validate
from tests.data_prep.conftest import run_prep

CONTEXT = "super bowl fifty was an american football game"
QUESTION = {
    "id": "56be4db0acb8001400a502ec",
    "question": "Which NFL team represented the AFC at Super Bowl 50?",
    "answers": [{"answer_start": 190, "text": "denver broncos"}] * 3,
}


def corpus_of(*questions: dict) -> dict:
    """A topic with one question a paragraph."""
    paragraphs = [{"context": CONTEXT, "qas": [question]} for question in questions]
    return {"version": "1.1", "data": [{"title": "Super_Bowl_50", "paragraphs": paragraphs}]}


def build(home: Path) -> Path:
    """The repository and the test's audio: sentences at 24 kHz, the first paragraph's whole."""
    root = home / "Spoken-SQuAD"
    wavs = root / "Spoken-SQuAD_audio" / "dev_wav"
    wavs.mkdir(parents=True)
    for i, name in enumerate(("0_0_0", "0_0_1", "0_1_1", "0_3_0")):
        soundfile.write(wavs / f"{name}.wav", np.full(24_000 * (i + 1), 0.1 * i), 24_000)
    (wavs / "0_3_0.wav").write_bytes(b"RIFF")
    (wavs / "._0_2_0.wav").write_bytes(b"macOS")
    questions = [QUESTION | {"id": name} for name in (QUESTION["id"], "b", "c", "d")]
    (root / "spoken_test-v1.1.json").write_text(json.dumps(corpus_of(*questions)))
    return root


prepare = partial(run_prep, "spoken_squad")


def test_a_question_is_a_row_with_its_answers_and_the_whole_paragraph(
    root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert prepare(root, out) == 0
    assert json.loads((out / "test.jsonl").read_text()) == {
        "id": "56be4db0acb8001400a502ec",
        "audio": "audio/test/0_0.flac",
        "duration": 3.0,
        "text": CONTEXT,
        "language": "en",
        "license": "none stated",
        "source": "Spoken-SQuAD",
        "question": "Which NFL team represented the AFC at Super Bowl 50?",
        "answer": "denver broncos",
        "answers": ["denver broncos"],
    }
    report = validate(out / "test.jsonl")
    assert (report.rows, report.seconds, report.problems, report.warnings) == (1, 3.0, [], [])
    assert find_root(out / "test.jsonl").samefile(out)


def test_sentences_are_joined_in_order(root: Path, tmp_path: Path) -> None:
    """One second of silence, then two at a tenth of full scale."""
    prepare(root, tmp_path)
    sound, rate = soundfile.read(tmp_path / "audio" / "test" / "0_0.flac")
    assert (rate, len(sound)) == (16_000, 48_000)
    assert np.abs(sound[:15_000]).max() < 0.01
    assert np.allclose(sound[17_000:47_000], 0.1, atol=0.01)


def test_questions_about_one_paragraph_share_its_audio(root: Path, tmp_path: Path) -> None:
    data = corpus_of(QUESTION)
    data["data"][0]["paragraphs"][0]["qas"].append(QUESTION | {"id": "second"})
    (root / "spoken_test-v1.1.json").write_text(json.dumps(data))
    prepare(root, tmp_path)
    assert [row.audio for row in read_manifest(tmp_path / "test.jsonl")] == [
        "audio/test/0_0.flac",
        "audio/test/0_0.flac",
    ]


def test_what_cannot_be_used_is_counted(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(root, tmp_path) == 0
    out = capsys.readouterr().out
    assert f"  dropped 1: a paragraph that lacks a sentence\n    {root}" in out
    assert "  dropped 1: a paragraph without audio\n" in out
    assert "  dropped 1: a paragraph with audio that cannot be read\n" in out


def test_paragraphs_are_joined_once(root: Path, tmp_path: Path) -> None:
    prepare(root, tmp_path)
    joined = (tmp_path / "audio" / "test" / "0_0.flac").stat()
    (tmp_path / "test.jsonl").unlink()
    prepare(root, tmp_path)
    again = (tmp_path / "audio" / "test" / "0_0.flac").stat()
    assert (again.st_ino, again.st_mtime_ns) == (joined.st_ino, joined.st_mtime_ns)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"data": [{"title": "x"}]},
            "topic 0: expected paragraphs with context and qas, found Key",
        ),
        (
            corpus_of(QUESTION | {"answers": []}),
            "topic 0: expected paragraphs with context and qas",
        ),
        ({"rows": []}, "expected a JSON object with a list of objects under 'data', found none"),
    ],
)
def test_a_file_of_another_form_is_named(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], data: dict, message: str
) -> None:
    path = root / "spoken_test-v1.1.json"
    path.write_text(json.dumps(data))
    assert prepare(root, tmp_path) == 2
    error = capsys.readouterr().err
    assert f"{path}: {message}" in error
    assert error.count("\n") == 1
