"""`blsp prep snips` on a set of lights and one of a loudspeaker."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from blsp.manifest import Entity, find_root, read_manifest
from blsp.validation import validate
from tests.data_prep.conftest import run_prep, write_audio

LIGHTS, SPEAKER = "smart-lights-en-close-field", "smart-speaker-en-close-field"
BRIGHTNESS = [
    {"text": "Set lights to "},
    {"text": "twenty two", "entity": "snips/number", "slot_name": "brightness"},
    {"text": " percent in the "},
    {"text": "basement", "entity": "room", "slot_name": "room"},
]
WORKER = {"id": 7, "age": 27, "gender": "Female", "country": "us"}


def dataset(intent: str, *queries: list[dict[str, str]]) -> str:
    utterances = [{"data": query} for query in queries]
    return json.dumps({"language": "en", "intents": {intent: {"utterances": utterances}}})


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def build(home: Path) -> Path:
    """The folder in which the archive was unpacked, with two sets."""
    corpus = home / "corpora" / "snips_slu_data_v1.0"
    lights, speaker = corpus / LIGHTS, corpus / SPEAKER
    write(lights / "config.json", {"dataset": "dataset.json", "speech_corpus": "speech_corpus"})
    write(
        lights / "dataset.json",
        dataset("SetLightBrightness", BRIGHTNESS, [{"text": "Turn the lights up"}]),
    )
    first = {"text": "Set lights to twenty two percent in the\nbasement", "worker": WORKER}
    second = {"text": "Nobody asked", "filename": "1.wav", "worker": WORKER}
    metadata = {"0": first | {"filename": "0.wav"}, "1": second}
    write(lights / "speech_corpus" / "metadata.json", metadata)
    write_audio(lights / "speech_corpus" / "audio" / "0.wav", seconds=1.5)
    play = [{"text": "play some music by "}, {"text": "Abba", "entity": "a", "slot_name": "artist"}]
    write(speaker / "test_dataset.json", dataset("PlayMusic", play))
    write(speaker / "training_dataset.json", "not read")
    listed = {"text": "play some music by Abba", "path_file": "audio/12.wav"}
    write(speaker / "metadata.json", [listed, listed | {"path_file": "audio/13.wav"}])
    write_audio(speaker / "audio" / "12.wav")
    return home / "corpora"


prepare = partial(run_prep, "snips")


def test_a_set_of_lights_becomes_a_manifest(root: Path, tmp_path: Path) -> None:
    assert prepare(root, tmp_path) == 0
    path = tmp_path / f"{LIGHTS}.jsonl"
    assert json.loads(path.read_text()) == {
        "id": f"{LIGHTS}-0",
        "audio": f"{LIGHTS}/speech_corpus/audio/0.wav",
        "duration": 1.5,
        "text": "Set lights to twenty two percent in the basement",
        "language": "en",
        "speaker": "7",
        "intent": "SetLightBrightness",
        "entities": [
            {"type": "brightness", "filler": "twenty two"},
            {"type": "room", "filler": "basement"},
        ],
        "license": "research-only",
        "source": "SNIPS SLU",
        "fold": 3,
        "gender": "female",
        "age": 27,
        "country": "us",
    }
    report = validate(path)
    assert (report.rows, report.seconds, report.problems, report.warnings) == (1, 1.5, [], [])
    assert (find_root(path) / f"{LIGHTS}/speech_corpus/audio/0.wav").exists()


def test_of_a_loudspeaker_the_test_was_recorded(root: Path, tmp_path: Path) -> None:
    prepare(root / "snips_slu_data_v1.0", tmp_path, "--splits", SPEAKER)
    (row,) = read_manifest(tmp_path / f"{SPEAKER}.jsonl")
    assert (row.audio, row.intent) == (f"{SPEAKER}/audio/12.wav", "PlayMusic")
    assert row.entities == (Entity(type="artist", filler="Abba"),)


def test_what_cannot_be_used_is_counted(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(root, tmp_path)
    out = capsys.readouterr().out
    assert "  dropped 1: a recording of no query\n" in out
    assert "  dropped 1: a query without a recording\n" in out
    assert ": Turn the lights up\n" in out
    assert "  dropped 1: no audio file\n" in out


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("dataset.json", "{}", "expected intents with utterances of chunks of text, found Key"),
        ("speech_corpus/metadata.json", "[]", "expected an object of filename, text and worker"),
        ("speech_corpus/metadata.json", "{", "expected an object of filename, text and worker"),
    ],
)
def test_a_file_of_another_form_is_named(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
    content: str,
    message: str,
) -> None:
    path = root / "snips_slu_data_v1.0" / LIGHTS / file
    path.write_text(content)
    assert prepare(root, tmp_path, "--splits", LIGHTS) == 2
    error = capsys.readouterr().err
    assert f"{path}: {message}" in error
    assert error.count("\n") == 1
