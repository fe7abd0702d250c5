"""`blsp prep fluent_speech_commands` on a tree as the archive unpacks it."""

from functools import partial
from pathlib import Path

import pytest

from blsp.manifest import find_root, read_manifest
from blsp.validation import validate
from tests.data_prep.conftest import run_prep, write_audio

HEADER = ",path,speakerId,transcription,action,object,location\r\n"
SPEAKER = "2BqVo8kVB2Skwgyb"
LIGHTS = "063aa8f0-4479-11e9-a9a5-5dbec3b8816a"
LINE = f"0,wavs/speakers/{SPEAKER}/{LIGHTS}.wav,{SPEAKER},Turn the bedroom lights off,"
TEST = (
    HEADER
    + f"{LINE}deactivate,lights,bedroom\r\n"
    + f'1,wavs/speakers/{SPEAKER}/b.wav,{SPEAKER},"Use Chinese, please",'
    + "change language,Chinese,none\r\n"
)


def build(home: Path) -> Path:
    """The folder in which the archive was unpacked."""
    corpus = home / "corpora" / "fluent_speech_commands_dataset"
    for name in (LIGHTS, "b"):
        write_audio(corpus / "wavs" / "speakers" / SPEAKER / f"{name}.wav", seconds=1.25)
    (corpus / "data").mkdir()
    for split in ("train", "valid", "test"):
        (corpus / "data" / f"{split}_data.csv").write_bytes(TEST.encode("utf-8-sig"))
    (corpus / "data" / "._test_data.csv").write_bytes(b"\xff")
    return home / "corpora"


def table(root: Path, split: str = "test") -> Path:
    return root / "fluent_speech_commands_dataset" / "data" / f"{split}_data.csv"


prepare = partial(run_prep, "fluent_speech_commands")


def test_every_split_becomes_a_manifest_with_the_three_slots_as_one_intent(
    root: Path, tmp_path: Path
) -> None:
    assert prepare(root, tmp_path) == 0
    names = sorted(path.name for path in tmp_path.glob("*.jsonl"))
    assert names == ["test.jsonl", "train.jsonl", "valid.jsonl"]
    assert (tmp_path / "test.jsonl").read_text().partition("\n")[0] == (
        f'{{"id": "{LIGHTS}", "audio": "wavs/speakers/{SPEAKER}/{LIGHTS}.wav", "duration": 1.25, '
        f'"text": "Turn the bedroom lights off", "language": "en", "speaker": "{SPEAKER}", '
        '"intent": "deactivate_lights_bedroom", "license": "research-only", '
        '"source": "Fluent Speech Commands", "action": "deactivate", "object": "lights", '
        '"location": "bedroom"}'
    )
    report = validate(tmp_path / "test.jsonl")
    assert (report.rows, report.seconds, report.problems, report.warnings) == (2, 2.5, [], [])
    assert (find_root(tmp_path / "test.jsonl") / f"wavs/speakers/{SPEAKER}/b.wav").exists()


def test_none_is_a_value_and_a_quoted_comma_belongs_to_the_words(
    root: Path, tmp_path: Path
) -> None:
    prepare(root / "fluent_speech_commands_dataset", tmp_path, "--splits", "valid")
    _, row = read_manifest(tmp_path / "valid.jsonl")
    assert (row.text, row.intent) == ("Use Chinese, please", "change_language_Chinese_none")
    assert row.extra["action"] == "change language"


def test_missing_audio_is_counted(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    next(root.rglob("b.wav")).unlink()
    assert prepare(root, tmp_path, "--splits", "test") == 0
    out = capsys.readouterr().out
    assert f"{tmp_path}/test.jsonl: 1 utterances" in out
    assert f"  dropped 1: no audio file\n    {table(root)}:3: " in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,speakerId\r\n", ":1: expected a header with path, speakerId, transcription,"),
        ("", ":1: expected a header with path, speakerId, transcription,"),
        (TEST + f"{LINE}deactivate,lights,bedroom\r\n", ":4: expected every id once"),
    ],
)
def test_a_table_of_another_form_is_named(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    table(root).write_bytes(text.encode())
    assert prepare(root, tmp_path, "--splits", "test") == 2
    error = capsys.readouterr().err
    assert f"{table(root)}{message}" in error
    assert error.count("\n") == 1


def test_a_line_that_was_cut_is_left_out(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table(root).write_bytes((TEST + "2,wavs/x.wav\r\n").encode())
    assert prepare(root, tmp_path, "--splits", "test") == 0
    assert f"    {table(root)}:4: 2 cells, not 7\n" in capsys.readouterr().out
