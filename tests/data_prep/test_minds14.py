"""`blsp prep minds14` on the two archives of the corpus, unpacked."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from blsp.manifest import find_root, read_manifest
from blsp.validation import validate
from tests.data_prep.conftest import run_prep

HEADER = "filepath,text_asr,text_translated,intent\r\n"
ACCOUNT = "en-US~JOINT_ACCOUNT/602ba55abb1e6d0fbce92065"
ENGLISH = (
    f"{HEADER}{ACCOUNT}.wav,I would like to set up a joint account with my partner,"
    "I would like to set up a joint account with my partner,JOINT_ACCOUNT\r\n"
)
GERMAN = (
    f'{HEADER}de-DE~CARD_ISSUES/1.wav, "Meine Karte, bitte", "My card,  please",CARD_ISSUES\r\n'
)


def write_telephone(path: Path) -> None:
    """Two seconds at 8 kHz, as the corpus has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(0).normal(0, 0.1, 16_000)
    soundfile.write(path, samples, 8000, subtype="PCM_16")


def build(home: Path) -> Path:
    """The folder in which the archive, and the two in it, were unpacked."""
    corpus = home / "corpora" / "MInDS-14"
    for name in (ACCOUNT, "de-DE~CARD_ISSUES/1"):
        write_telephone(corpus / "audio" / f"{name}.wav")
    (corpus / "text").mkdir()
    (corpus / "text" / "en-US.csv").write_bytes(ENGLISH.encode("utf-8-sig"))
    (corpus / "text" / "de-DE.csv").write_bytes(GERMAN.encode())
    (corpus / "text" / "._de-DE.csv").write_bytes(b"\xff")
    return home / "corpora"


prepare = partial(run_prep, "minds14")


def whole(root: Path, out: Path, *options: str) -> int:
    return prepare(root, out, "--parts", "one", *options)


def test_a_locale_left_whole_is_one_manifest(root: Path, tmp_path: Path) -> None:
    assert whole(root, tmp_path) == 0
    names = sorted(path.name for path in tmp_path.glob("*.jsonl"))
    assert names == ["de-DE.jsonl", "en-US.jsonl"]
    assert (tmp_path / "en-US.jsonl").read_text() == (
        f'{{"id": "{ACCOUNT}", "audio": "audio/{ACCOUNT}.wav", "duration": 2.0, "text": "I would '
        'like to set up a joint account with my partner", "language": "en", "intent": '
        '"joint_account", "license": "CC-BY-4.0", "source": "MINDS-14", "locale": "en-US"}\n'
    )
    report = validate(tmp_path / "en-US.jsonl")
    assert (report.rows, report.seconds, report.problems, report.warnings) == (1, 2.0, [], [])
    assert (find_root(tmp_path / "en-US.jsonl") / f"audio/{ACCOUNT}.wav").exists()


def test_other_languages_come_with_their_english(root: Path, tmp_path: Path) -> None:
    whole(root, tmp_path, "--splits", "de-DE")
    row = next(read_manifest(tmp_path / "de-DE.jsonl"))
    assert (row.text, row.language) == ("Meine Karte, bitte", "de")
    assert row.translation == {"en": "My card, please"}


def test_archives_may_be_unpacked_where_they_lie(root: Path, tmp_path: Path) -> None:
    corpus = root / "MInDS-14"
    for folder in ("audio", "text"):
        for path in (corpus / folder).iterdir():
            path.rename(corpus / path.name)
        (corpus / folder).rmdir()
    assert whole(corpus, tmp_path, "--splits", "en-US") == 0
    assert next(read_manifest(tmp_path / "en-US.jsonl")).audio == f"{ACCOUNT}.wav"


def test_parts_are_disjoint_and_made_of_names_alone(root: Path, tmp_path: Path) -> None:
    """SHA-256 of 30 names, worked out once: what trained on them must find them again."""
    lines, corpus = [HEADER], root / "MInDS-14"
    for i in range(30):
        write_telephone(corpus / "audio" / "en-US~FREEZE" / f"{i}.wav")
        lines.append(f"en-US~FREEZE/{i}.wav,freeze my card,freeze my card,FREEZE\n")
    (corpus / "text" / "en-US.csv").write_text("".join(lines))
    splits = ("en-US-train", "en-US-dev", "en-US-test")
    assert prepare(root, tmp_path, "--splits", *splits) == 0
    found = {
        split: [
            int(row.id.rpartition("/")[2]) for row in read_manifest(tmp_path / f"{split}.jsonl")
        ]
        for split in splits
    }
    assert found["en-US-dev"] == [28]
    assert found["en-US-test"] == [3, 4, 5, 7, 9, 10, 14, 17, 19, 22, 24]
    assert sorted(i for part in found.values() for i in part) == list(range(30))


def test_missing_audio_is_counted(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = root / "MInDS-14" / "text" / "en-US.csv"
    table.write_bytes(table.read_bytes() + b"en-US~FREEZE/gone.wav,stop,stop,FREEZE\r\n\r\n")
    assert whole(root, tmp_path, "--splits", "en-US") == 0
    out = capsys.readouterr().out
    assert f"{tmp_path}/en-US.jsonl: 1 utterances" in out
    assert f"  dropped 1: no audio file\n    {table}:3: " in out


def test_a_run_with_other_parts_makes_other_files(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole(root, tmp_path)
    assert prepare(root, tmp_path, "--splits", "en-US") == 2
    assert "did you mean 'en-US-dev'?" in capsys.readouterr().err


def test_a_line_with_other_cells_is_named(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = root / "MInDS-14" / "text" / "en-US.csv"
    table.write_text(ENGLISH + "a.wav,b,FREEZE\n")
    assert whole(root, tmp_path, "--splits", "en-US") == 2
    error = capsys.readouterr().err
    assert f"{table}:3: expected recording, words, English and intent, found 3 cells" in error
