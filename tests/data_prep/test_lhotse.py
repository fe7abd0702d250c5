"""`blsp prep lhotse` on manifests as Lhotse writes them."""

import gzip
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from blsp.validation import validate
from tests.data_prep.conftest import run_prep, write_audio


def recording(name: str, source: str, *, kind: str = "file", **more: Any) -> dict[str, Any]:
    sources = [{"type": kind, "channels": more.pop("channels", [0]), "source": source}]
    size = {"sampling_rate": 16000, "num_samples": 48000, "duration": 3.0, "channel_ids": [0]}
    return {"id": name, "sources": sources, **size, **more}


def supervision(name: str, of: str, start: float, text: str | None, **more: Any) -> dict[str, Any]:
    row = {"id": name, "recording_id": of, "start": start, "duration": 1.0, "channel": 0}
    return row | ({"text": text} if text is not None else {}) | more


def write_packed(path: Path, *rows: dict[str, Any]) -> None:
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def build(home: Path) -> Path:
    folder = home / "fbank"
    folder.mkdir()
    whole = write_audio(home / "audio" / "r.flac", seconds=3)
    write_packed(
        folder / "libri_recordings_dev.jsonl.gz",
        recording("r", str(whole)),
        recording("pipe", "sox x |", kind="command"),
        recording("fast", "audio/r.flac", transforms=[{"name": "Speed"}]),
        recording("stereo", "audio/r.flac", channels=[0, 1]),
    )
    custom = {"snr": 5.0, "tokens": [1, 2], "texts": "x"}
    known = {"language": "English", "speaker": 7, "gender": "F", "custom": custom}
    write_packed(
        folder / "libri_supervisions_dev.jsonl.gz",
        supervision("a", "r", 0.5, "one  two", **known),
        supervision("b", "r", 1.5, None),
        supervision("c", "pipe", 0, "three"),
        supervision("d", "fast", 0, "four"),
        supervision("e", "stereo", 0, "five"),
        supervision("f", "stereo", 0, "six", channel=[0, 1]),
        supervision("g", "lost", 0, "seven"),
    )
    return folder


prepare = partial(run_prep, "lhotse")


def test_every_supervision_is_a_segment_of_a_file(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(corpus, tmp_path / "out", "--audio-root", str(tmp_path)) == 0
    path = tmp_path / "out" / "libri_dev.jsonl"
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {
            "id": "a",
            "audio": "audio/r.flac",
            "duration": 1.0,
            "text": "one two",
            "start": 0.5,
            "language": "English",
            "speaker": "7",
            "snr": 5.0,
            "custom_texts": "x",
            "gender": "F",
        },
        {"id": "f", "audio": "audio/r.flac", "duration": 1.0, "text": "six"},
    ]
    assert validate(path).problems == []
    said = capsys.readouterr().out
    for reason in (
        "no words",
        "a recording that is not one file",
        "a recording with transforms",
        "one channel of several",
        "no recording of that id",
    ):
        assert f"  dropped 1: {reason}\n    {corpus}/libri_supervisions_dev.jsonl.gz:" in said


def test_files_without_a_name_take_the_folders_and_need_not_be_packed(tmp_path: Path) -> None:
    write_audio(tmp_path / "dev" / "r.flac", seconds=3)
    rows = {"recordings": recording("r", "r.flac"), "supervisions": supervision("a", "r", 0, None)}
    for name, row in rows.items():
        (tmp_path / "dev" / f"{name}.jsonl").write_text(json.dumps(row) + "\n\n")
    assert prepare(tmp_path / "dev", tmp_path / "out", "--untranscribed") == 0
    [line] = (tmp_path / "out" / "dev.jsonl").read_text().splitlines()
    assert json.loads(line) == {"id": "a", "audio": "r.flac", "duration": 1.0, "text": None}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(b'{"id": "a"}\n'), ":1: expected a JSON object with id and recording_id"),
        (b"not packed", "expected JSON lines packed by gzip, found: Not a gzipped file"),
        (gzip.compress(b"x" * 9000)[:20], "expected JSON lines packed by gzip, found: "),
    ],
)
def test_a_damaged_manifest_is_one_line(
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    data: bytes,
    message: str,
) -> None:
    (corpus / "libri_supervisions_dev.jsonl.gz").write_bytes(data)
    assert prepare(corpus, tmp_path / "out", "--audio-root", str(tmp_path)) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_audio_elsewhere_is_one_line(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(corpus, tmp_path / "out") == 2
    assert "name a folder that holds all of it: --audio-root DIR" in capsys.readouterr().err
