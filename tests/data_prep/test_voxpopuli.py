"""`blsp prep voxpopuli` on its own manifests with OGG Vorbis files."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from blsp.manifest import read_manifest, read_meta
from blsp.validation import validate
from tests.data_prep.conftest import run_prep

NAME = "20131007-0900-PLENARY-19-en_20131007-21:26:04_7"
HEADER = "id\traw_text\tnormalized_text\tspeaker_id\tsplit\tgender\tis_gold_transcript\taccent\n"
LINES = (
    f"{NAME}\t\tthis could be done by looking\t28192\ttest\tfemale\tTrue\tNone\n"
    "20100101-gone_0\tGone.\tgone\t1\ttest\tmale\tFalse\tNone\n"
    "20100101-empty_0\t\t\t1\ttest\tmale\tFalse\tNone\n"
)


def add_language(root: Path, name: str) -> None:
    """The test of a language, of whose recordings one is there."""
    folder = root / "transcribed_data" / name
    (folder / "2013").mkdir(parents=True)
    (folder / "asr_test.tsv").write_text(HEADER + LINES)
    (folder / "asr_en.tsv.gz").write_bytes(b"")
    tone = np.sin(np.arange(24_000) / 9) / 2
    path = folder / "2013" / f"{NAME}.ogg"
    soundfile.write(path, tone, 16_000, format="OGG", subtype="VORBIS")


def build(home: Path) -> Path:
    """One language."""
    add_language(home / "voxpopuli", "en")
    return home / "voxpopuli"


prepare = partial(run_prep, "voxpopuli")


def test_a_recording_becomes_a_row(corpus: Path, tmp_path: Path) -> None:
    assert prepare(corpus, tmp_path / "out") == 0
    path = tmp_path / "out" / "test.jsonl"
    assert path.read_text() == (
        f'{{"id": "{NAME}", "audio": "2013/{NAME}.ogg", "duration": 1.5, '
        '"text": "this could be done by looking", "language": "en", "speaker": "28192", '
        '"license": "CC0-1.0", "source": "VoxPopuli", "gender": "female", '
        '"is_gold_transcript": true}\n'
    )
    report = validate(path)
    assert (report.rows, report.problems, report.warnings) == (1, [], [])


def test_what_cannot_be_used_is_counted(corpus: Path, tmp_path: Path) -> None:
    prepare(corpus, tmp_path / "out")
    meta = read_meta(tmp_path / "out" / "test.jsonl")
    assert meta is not None
    assert meta.counts == {"written": 1, "no words": 1, "no audio file": 1}


def test_english_with_accents_is_english(corpus: Path, tmp_path: Path) -> None:
    add_language(corpus, "en_accented")
    assert prepare(corpus, tmp_path / "out", "--language", "en_accented") == 0
    assert next(read_manifest(tmp_path / "out" / "test.jsonl")).language == "en"


def test_one_of_two_languages_must_be_named(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_language(corpus, "de")
    assert prepare(corpus, tmp_path / "out") == 2
    assert "--language: expected one of the 2 in" in capsys.readouterr().err
