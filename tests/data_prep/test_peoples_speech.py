"""`blsp prep peoples_speech` on JSON lines of documents with FLAC files."""

import json
from functools import partial
from pathlib import Path

import pytest

from blsp.manifest import read_manifest, read_meta
from blsp.validation import validate
from tests.data_prep.conftest import run_prep, write_audio

DOCUMENT = "gov_DOT_uscourts_DOT_scotus_DOT_19-161"
NAME = f"{DOCUMENT}/{DOCUMENT}_DOT_2020-03-02_DOT_mp3_00002.flac"
WORDS = "contends that the suspension clause requires"


def document(**data: list[object]) -> str:
    ids = {"audio_document_id": "a", "identifier": DOCUMENT, "text_document_id": "t"}
    return json.dumps(ids | {"training_data": data}) + "\n"


def add_part(root: Path, name: str, lines: str) -> None:
    path = root / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lines)
    write_audio(root / name / NAME, seconds=1.5)


def build(home: Path) -> Path:
    """Two parts of the training set and the test."""
    root = home / "peoples"
    lines = document(
        duration_ms=[1500, 900, 900], label=[WORDS, "gone", ""], name=[NAME, "x/1.flac", "x/2.flac"]
    )
    add_part(root, "train/clean", lines)
    by_order = document(ms=[1500], words=[WORDS], path=[NAME])
    add_part(root, "train/dirty_sa", by_order)
    add_part(root, "test/test", by_order)
    return root


prepare = partial(run_prep, "peoples_speech")


def test_a_recording_of_a_document_becomes_a_row(corpus: Path, tmp_path: Path) -> None:
    assert prepare(corpus, tmp_path / "out") == 0
    path = tmp_path / "out" / "clean.jsonl"
    assert path.read_text() == (
        f'{{"id": "{NAME.removesuffix(".flac")}", "audio": "train/clean/{NAME}", "duration": 1.5, '
        f'"text": "{WORDS}", "language": "en", "license": "CC-BY", '
        '"source": "People\'s Speech"}\n'
    )
    report = validate(path)
    assert (report.rows, report.problems, report.warnings) == (1, [], [])


def test_lists_of_other_names_are_read_in_their_order_and_sa_keeps_its_licence(
    corpus: Path, tmp_path: Path
) -> None:
    prepare(corpus, tmp_path / "out", "--splits", "dirty_sa")
    (row,) = read_manifest(tmp_path / "out" / "dirty_sa.jsonl")
    assert (row.text, row.license) == (WORDS, "CC-BY-SA")


def test_what_cannot_be_used_is_counted(corpus: Path, tmp_path: Path) -> None:
    prepare(corpus, tmp_path / "out", "--splits", "clean")
    meta = read_meta(tmp_path / "out" / "clean.jsonl")
    assert meta is not None
    assert meta.counts == {"written": 1, "no words": 1, "no audio file": 1}


@pytest.mark.parametrize("line", ["no JSON\n", "{}\n", document(label=["a"], name=[])])
def test_another_form_is_one_line(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    (corpus / "train/clean.json").write_text(line)
    assert prepare(corpus, tmp_path / "out") == 2
    assert "clean.json:1: expected a document with duration_ms, label" in capsys.readouterr().err
