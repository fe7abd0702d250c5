"""`blsp prep slurp` on the corpus's repository with a few of its lines."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from blsp.manifest import Entity, find_root, read_manifest
from blsp.validation import validate
from tests.data_prep.conftest import run_prep, write_audio

REMINDER = (
    '{"slurp_id": 9054, "sentence": "event reminder mona tuesday", "sentence_annotation": "event '
    'reminder [event_name : mona] [date : tuesday]", "intent": "calendar_set", "action": "set", '
    '"tokens": [{"surface": "event", "id": 0, "lemma": "event", "pos": "NN"}, {"surface": '
    '"reminder", "id": 1, "lemma": "reminder", "pos": "NN"}, {"surface": "mona", "id": 2, "lemma": '
    '"mona", "pos": "NN"}, {"surface": "tuesday", "id": 3, "lemma": "tuesday", "pos": "NN"}], '
    '"scenario": "calendar", "recordings": [{"file": "audio-1497872916-headset.flac", "wer": 0.0, '
    '"ent_wer": 0.0, "status": "correct"}, {"file": "audio-1497872916.flac", "wer": 0.0, "ent_wer":'
    ' null, "status": "correct"}], "entities": [{"span": [2], "type": "event_name"}, {"span": [3], '
    '"type": "date"}]}'
)


def sentence(words: str, *files: str, **changes: Any) -> str:
    row = {
        "slurp_id": 1,
        "sentence": words,
        "intent": "takeaway_order",
        "scenario": "takeaway",
        "action": "order",
        "tokens": [{"surface": word} for word in words.split()],
        "entities": [],
        "recordings": [{"file": file} for file in files],
    }
    return json.dumps(row | changes)


def write_split(corpus: Path, split: str, *lines: str) -> Path:
    path = corpus / "dataset" / "slurp" / f"{split}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\ufeff" + "\r\n".join(lines) + "\r\n").encode())
    return path


def build(home: Path) -> Path:
    """The folder that the repository was cloned to, with the audio that its script fetches."""
    corpus = home / "corpora" / "slurp"
    for name in ("audio-1497872916-headset", "audio-1497872916", "audio--1504194195-headset"):
        write_audio(corpus / "audio" / "slurp_real" / f"{name}.flac", seconds=1.5)
    write_audio(corpus / "audio" / "slurp_synth" / "synth-1.flac", seconds=0.5)
    write_split(corpus, "test", REMINDER)
    write_split(corpus, "train_synthetic", sentence("two pizzas", "synth-1.flac"))
    known = {"usrid": "FO-488"}, {"usrid": "UNK-323"}
    files = dict(
        zip(("audio-1497872916-headset.flac", "audio-1497872916.flac"), known, strict=True)
    )
    metadata = corpus / "dataset" / "slurp" / "metadata.json"
    metadata.write_text(json.dumps({"9054": {"nlub_id": 5027, "recordings": files}}))
    return home / "corpora"


prepare = partial(run_prep, "slurp")


def test_every_recording_is_a_row_with_intent_entities_and_quality(
    root: Path, tmp_path: Path
) -> None:
    assert prepare(root, tmp_path) == 0
    lines = (tmp_path / "test.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {
        "id": "audio-1497872916-headset",
        "audio": "audio/slurp_real/audio-1497872916-headset.flac",
        "duration": 1.5,
        "text": "event reminder mona tuesday",
        "language": "en",
        "speaker": "FO-488",
        "intent": "calendar_set",
        "entities": [
            {"type": "event_name", "filler": "mona"},
            {"type": "date", "filler": "tuesday"},
        ],
        "license": "CC-BY-NC-4.0",
        "source": "SLURP",
        "scenario": "calendar",
        "action": "set",
        "slurp_id": 9054,
        "headset": True,
        "synthetic": False,
        "wer": 0.0,
        "ent_wer": 0.0,
        "gender": "female",
        "native": False,
    }
    second = json.loads(lines[1])
    assert (second["headset"], second["speaker"], len(lines)) == (False, "UNK-323", 2)
    assert not {"ent_wer", "gender", "native"} & second.keys()
    report = validate(tmp_path / "test.jsonl")
    assert (report.rows, report.seconds, report.problems, report.warnings) == (2, 3.0, [], [])


def test_the_intent_is_scenario_and_action_whatever_the_intent_field_says(
    root: Path, tmp_path: Path
) -> None:
    line = sentence(
        "hi", "audio-1497872916.flac", intent="order", scenario="general", action="joke"
    )
    write_split(root / "slurp", "test", line)
    prepare(root, tmp_path, "--splits", "test")
    assert next(read_manifest(tmp_path / "test.jsonl")).intent == "general_joke"


def test_an_entity_is_its_tokens_in_lower_case_not_the_words_of_the_sentence(
    root: Path, tmp_path: Path
) -> None:
    line = sentence(
        "call Domino's",
        "audio--1504194195-headset.flac",
        tokens=[{"surface": word} for word in ("call", "Domino", "'s")],
        entities=[{"span": [1, 2], "type": "business_name"}],
    )
    write_split(root / "slurp", "test", line)
    prepare(root, tmp_path, "--splits", "test")
    row = next(read_manifest(tmp_path / "test.jsonl"))
    assert row.id == "audio--1504194195-headset"  # two dashes, as some have
    assert row.entities == (Entity(type="business_name", filler="domino 's"),)
    assert row.text == "call Domino's"


def test_synthetic_speech_lies_in_a_folder_of_its_own(root: Path, tmp_path: Path) -> None:
    prepare(root / "slurp", tmp_path, "--splits", "train_synthetic")
    row = next(read_manifest(tmp_path / "train_synthetic.jsonl"))
    assert (row.audio, row.extra["synthetic"]) == ("audio/slurp_synth/synth-1.flac", True)
    assert (find_root(tmp_path / "train_synthetic.jsonl") / row.audio).exists()


def test_what_cannot_be_used_is_counted(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = sentence("hi", "audio-1497872916.flac", "audio-1.flac")
    write_split(root / "slurp", "test", REMINDER, "", again, sentence("never said"))
    assert prepare(root, tmp_path, "--splits", "test") == 0
    out = capsys.readouterr().out
    assert f"{tmp_path}/test.jsonl: 2 utterances" in out
    assert "  dropped 1: a recording listed before\n" in out
    assert "  dropped 1: no audio file\n" in out
    assert "  dropped 1: a sentence without recordings\n" in out


@pytest.mark.parametrize(
    "line", ["{}", "[1]", '{"cut": ', sentence("a", "b", entities=[{"type": "date", "span": [7]}])]
)
def test_a_line_that_is_no_sentence_is_named(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    path = write_split(root / "slurp", "test", REMINDER, line)
    assert prepare(root, tmp_path, "--splits", "test") == 2
    error = capsys.readouterr().err
    assert f"{path}:2: expected a JSON object with sentence, tokens, scenario" in error
    assert error.count("\n") == 1


def test_broken_metadata_are_named(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = root / "slurp" / "dataset" / "slurp" / "metadata.json"
    path.write_text("[]")
    assert prepare(root, tmp_path) == 2
    assert f"{path}: expected sentences with recordings and their usrid" in capsys.readouterr().err
