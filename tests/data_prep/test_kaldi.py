"""`blsp prep kaldi` on data folders as recipes leave them."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from blsp.manifest import find_root
from blsp.validation import validate
from tests.data_prep.conftest import run_prep, write_audio


def write_folder(folder: Path, **files: str) -> Path:
    """`wav_scp` stands for `wav.scp`."""
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def build(home: Path) -> Path:
    """A folder of whole files and one of segments, and the audio beside them."""
    write_audio(home / "audio" / "a.flac", seconds=0.5)
    write_audio(home / "audio" / "long.wav", seconds=3)
    whole = home / "audio" / "a.flac"
    write_folder(
        home / "data" / "dev",
        wav_scp=f"a {whole}\nb audio/a.flac\n",
        text="a hello  there\n\nb\n",
        utt2spk="a anna\nb ben\n",
    )
    write_folder(
        home / "data" / "train",
        wav_scp="r audio/long.wav\n",
        text="r-2 second\r\nr-1 first\r\nr-4 late\r\nr-9 nowhere\r\n",
        segments="r-1 r 0 1.25\nr-2 r 1.5 -1\nr-3 r 2 2.5\nr-4 r 2 9\n",
    )
    return home / "data"


prepare = partial(run_prep, "kaldi")


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_folder_becomes_a_manifest(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert prepare(corpus, out, "--audio-root", str(tmp_path), "--language", "en") == 0
    assert rows_of(out / "dev.jsonl") == [
        {
            "id": "a",
            "audio": "audio/a.flac",
            "duration": 0.5,
            "text": "hello there",
            "language": "en",
            "speaker": "anna",
        }
    ]
    shared = {"audio": "audio/long.wav", "language": "en"}
    assert rows_of(out / "train.jsonl") == [
        shared | {"id": "r-2", "duration": 1.5, "text": "second", "start": 1.5},
        shared | {"id": "r-1", "duration": 1.25, "text": "first"},
    ]
    assert validate(out / "train.jsonl").problems == []
    assert find_root(out / "train.jsonl").samefile(tmp_path)
    said = capsys.readouterr().out
    text = corpus / "train" / "text"
    assert f"  dropped 1: no words\n    {corpus}/dev/text:3: b\n" in said
    assert f"  dropped 1: words without a segment\n    {text}:4: r-9\n" in said
    assert f"  dropped 1: no words\n    {text}: r-3\n" in said
    assert f"  dropped 1: a segment beyond the end of its audio\n    {text}:3: " in said


def test_the_parts_that_kaldi_makes_for_its_jobs_are_passed_over(
    corpus: Path, tmp_path: Path
) -> None:
    write_folder(corpus / "dev" / "split2" / "1", wav_scp="a audio/a.flac\n", text="a hello\n")
    assert prepare(corpus, tmp_path / "out", "--audio-root", str(tmp_path)) == 0
    assert {path.stem for path in (tmp_path / "out").glob("*.jsonl")} == {"dev", "train"}


def test_one_folder_may_be_named(corpus: Path, tmp_path: Path) -> None:
    assert prepare(corpus / "dev", tmp_path / "out", "--audio-root", str(tmp_path)) == 0
    assert [path.name for path in (tmp_path / "out").glob("*.jsonl")] == ["dev.jsonl"]


def test_what_nobody_wrote_down_is_kept_on_request(corpus: Path, tmp_path: Path) -> None:
    assert prepare(corpus, tmp_path, "--audio-root", str(tmp_path), "--untranscribed") == 0
    found = [(row["id"], row["text"]) for row in rows_of(tmp_path / "train.jsonl")]
    assert found == [("r-2", "second"), ("r-1", "first"), ("r-3", None)]
    assert [row["text"] for row in rows_of(tmp_path / "dev.jsonl")] == ["hello there", None]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"wav_scp": "a sox x.wav -t wav - |\n"}, "wav.scp:1: expected an audio file, found a com"),
        ({"wav_scp": "a d/wav.ark:42\n"}, "found a place in an archive, 'd/wav.ark:42'"),
        ({"wav_scp": "a /else/a.wav\n"}, "name a folder that holds all of it: --audio-root DIR"),
        ({"wav_scp": "r a.wav\n", "segments": "a r 0\n"}, "segments:1: expected utterance, rec"),
        ({}, "expected wav.scp with text beside it below it, found none"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: dict[str, str], message: str
) -> None:
    folder = write_folder(tmp_path / "bad", text="a yes\n", **files)
    assert prepare(folder, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
