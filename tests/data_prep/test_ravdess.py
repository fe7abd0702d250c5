"""`blsp prep ravdess` on the speech of three actors."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from blsp.manifest import find_root, read_manifest
from blsp.validation import validate
from tests.data_prep.conftest import run_prep

NAMES = ("03-01-06-01-02-01-12", "03-01-08-02-01-02-17", "03-01-01-01-01-01-24")


def build(home: Path) -> Path:
    """The folder with the unpacked archive; 48 kHz, one of them in stereo."""
    corpus = home / "corpora" / "Audio_Speech_Actors_01-24"
    for channels, name in enumerate(NAMES, start=1):
        path = corpus / f"Actor_{name[-2:]}" / f"{name}.wav"
        path.parent.mkdir(parents=True)
        soundfile.write(path, np.full((72_000, min(channels, 2)), 0.1), 48_000)
        path.with_name(f"._{name}.wav").write_bytes(b"macOS")
    return home / "corpora"


prepare = partial(run_prep, "ravdess")


def test_all_actors_become_one_manifest_from_the_names_of_their_files(
    root: Path, tmp_path: Path
) -> None:
    assert prepare(root, tmp_path) == 0
    path = tmp_path / "speech.jsonl"
    assert json.loads(path.read_text().partition("\n")[0]) == {
        "id": "03-01-06-01-02-01-12",
        "audio": "Actor_12/03-01-06-01-02-01-12.wav",
        "duration": 1.5,
        "text": "Dogs are sitting by the door",
        "language": "en",
        "speaker": "12",
        "emotion": "fearful",
        "license": "CC-BY-NC-SA-4.0",
        "source": "RAVDESS",
        "emotion_label": "fearful",
        "gender": "female",
        "intensity": "normal",
    }
    report = validate(path)
    assert (report.rows, report.seconds, report.problems, report.warnings) == (3, 4.5, [], [])
    assert (find_root(path) / "Actor_12/03-01-06-01-02-01-12.wav").exists()


def test_surprise_is_called_as_in_other_corpora(root: Path, tmp_path: Path) -> None:
    prepare(root / "Audio_Speech_Actors_01-24", tmp_path)
    _, row, _ = read_manifest(tmp_path / "speech.jsonl")
    assert (row.emotion, row.extra["emotion_label"]) == ("surprise", "surprised")
    assert (row.extra["intensity"], row.extra["gender"]) == ("strong", "male")


def test_three_parts_have_actors_of_their_own(root: Path, tmp_path: Path) -> None:
    assert prepare(root, tmp_path, "--parts", "three") == 0
    parts = {path.stem: path for path in tmp_path.glob("*.jsonl")}
    speakers = {name: [row.speaker for row in read_manifest(p)] for name, p in parts.items()}
    assert speakers == {"train": ["12"], "dev": ["17"], "test": ["24"]}


def test_what_cannot_be_used_is_counted(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    actor = root / "Audio_Speech_Actors_01-24" / "Actor_12"
    for name in ("03-02-06-01-02-01-12", "speech12", "03-01-06-01-01-01-12"):
        (actor / f"{name}.wav").write_bytes(b"RIFF")
    assert prepare(root, tmp_path) == 0
    out = capsys.readouterr().out
    assert "speech.jsonl: 3 utterances" in out
    assert "  dropped 1: a song\n" in out
    assert "  dropped 1: a name of another form\n" in out
    assert "  dropped 1: audio that cannot be read\n" in out
