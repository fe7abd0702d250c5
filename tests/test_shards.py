"""`blsp data shard`: what lies in the shards, and how the new rows name it."""

import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from blsp.archive import open_source
from blsp.audio import save_audio
from blsp.cli import main
from blsp.manifest import (
    AudioPart,
    Conversation,
    Message,
    Meta,
    TextPart,
    Utterance,
    find_root,
    read_conversations,
    read_manifest,
    write_rows,
)
from blsp.shards import parse_size

META = Meta(command="test", root="audio")


def run(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[int, str]:
    code = main(["data", "shard", *map(str, argv)])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def write_speech(folder: Path, sizes: dict[str, int], *, segments: int = 1) -> Path:
    """Files of bytes that are no audio, since none is ever decoded, and rows that name them."""
    rows = []
    for at, (name, size) in enumerate(sizes.items()):
        file = folder / "audio" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes([at % 256]) * size)
        rows += [
            Utterance(id=f"{name}-{part}", audio=name, duration=1.0, start=float(part), text="on")
            for part in range(segments)
        ]
    write_rows(folder / "m.jsonl", rows, META)
    return folder / "m.jsonl"


def read_bytes(manifest: Path) -> dict[str, bytes]:
    found = {}
    for row in read_manifest(manifest):
        with open_source(row.audio, root=find_root(manifest)) as file:
            found[row.id] = file.read()
    return found


@pytest.mark.parametrize(
    ("kind", "first", "last"),
    [
        ("tar", "m-00000.tar::a.flac", "m-00001.tar::deep/c.flac"),
        ("parquet", "m-00000.parquet::audio/0", "m-00001.parquet::audio/0"),
    ],
)
def test_rows_name_their_audio_in_the_shards(
    kind: str, first: str, last: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_speech(tmp_path, {"a.flac": 500, "b.flac": 500, "deep/c.flac": 1})
    out = tmp_path / "out"
    code, told = run(capsys, path, "--out", out, "--size", "1kB", "--format", kind)
    assert code == 0
    assert told.endswith(f"\n{out}/m.jsonl: 3 lines, 3 audio files in 2 shards\n")
    rows, before = list(read_manifest(out / "m.jsonl")), list(read_manifest(path))
    assert (rows[0].audio, rows[2].audio) == (first, last)
    moved = [replace(row, audio=old.audio) for row, old in zip(rows, before, strict=True)]
    assert moved == before
    assert read_bytes(out / "m.jsonl") == read_bytes(path)


def test_a_file_longer_than_a_shard_has_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_speech(tmp_path, {"a.flac": 10, "b.flac": 5000, "c.flac": 10})
    run(capsys, path, "--out", tmp_path / "out", "--size", "1kB")
    audio = [row.audio for row in read_manifest(tmp_path / "out" / "m.jsonl")]
    assert audio == ["m-00000.tar::a.flac", "m-00001.tar::b.flac", "m-00002.tar::c.flac"]


def test_segments_of_one_file_keep_it_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_speech(tmp_path, {"a.flac": 10, "b.flac": 10}, segments=3)
    assert run(capsys, path, "--out", tmp_path / "out")[0] == 0
    with tarfile.open(tmp_path / "out" / "m-00000.tar") as tar:
        assert tar.getnames() == ["a.flac", "b.flac"]
    starts = [row.start for row in read_manifest(tmp_path / "out" / "m.jsonl")]
    assert starts == [0.0, 1.0, 2.0] * 2


def test_two_spellings_of_a_path_are_one_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_speech(tmp_path, {"a.flac": 10})
    rows = [
        Utterance(id=audio, audio=audio, duration=1.0, text="on")
        for audio in ("a.flac", "./a.flac")
    ]
    write_rows(tmp_path / "m.jsonl", rows, META)
    assert (
        "2 lines, 1 audio files" in run(capsys, tmp_path / "m.jsonl", "--out", tmp_path / "out")[1]
    )


def test_members_of_archives_are_packed_under_their_paths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One without an ending gets that of its content."""
    save_audio(tmp_path / "tone.wav", np.zeros(160, np.float32))
    tone = (tmp_path / "tone.wav").read_bytes()
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("in/a", tone)
    rows = [Utterance(id="a", audio="x.zip::in/a", duration=0.01, text="on")]
    write_rows(tmp_path / "m.jsonl", rows, Meta(command="test"))
    assert run(capsys, tmp_path / "m.jsonl", "--out", tmp_path / "out")[0] == 0
    (row,) = read_manifest(tmp_path / "out" / "m.jsonl")
    assert row.audio == "m-00000.tar::x.zip/in/a.wav"
    assert read_bytes(tmp_path / "out" / "m.jsonl") == {"a": tone}


def test_shards_of_shards_hold_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_speech(tmp_path, {f"{at}.flac": 100 + at for at in range(250)})
    first, second = tmp_path / "first", tmp_path / "second"
    assert run(capsys, path, "--out", first, "--format", "parquet", "--size", "20kB")[0] == 0
    assert run(capsys, first / "m.jsonl", "--out", second)[0] == 0
    assert read_bytes(second / "m.jsonl") == read_bytes(path)


def test_conversations_are_packed_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_speech(tmp_path, {"a.flac": 10})
    heard = AudioPart(audio="a.flac", duration=1.0, transcript="on")
    reply = Message(role="assistant", content=(TextPart(text="ok"),))
    chat = Conversation(id="a", messages=(Message(role="user", content=(heard,)), reply))
    write_rows(tmp_path / "c.jsonl", [chat], META)
    assert run(capsys, tmp_path / "c.jsonl", "--out", tmp_path / "out")[0] == 0
    (packed,) = read_conversations(tmp_path / "out" / "c.jsonl")
    assert [part.audio for part in packed.recordings] == ["c-00000.tar::a.flac"]


def test_a_run_that_is_done_is_not_done_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write_speech(tmp_path, {"a.flac": 10}), tmp_path / "out"
    run(capsys, path, "--out", out)
    (out / "m-00000.tar").unlink()
    assert run(capsys, path, "--out", out) == (
        0,
        f"{out}/m.jsonl: 1 lines, 1 audio files in 1 shards\n",
    )
    assert not (out / "m-00000.tar").exists()


def test_other_rows_are_not_packed_over_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(capsys, write_speech(tmp_path, {"a.flac": 10}), "--out", out)
    code, told = run(capsys, write_speech(tmp_path, {"b.flac": 10}), "--out", out)
    assert code == 2 and "expected no file yet, or that of the same run" in told
    assert list(read_bytes(out / "m.jsonl")) == ["a.flac-0"]


def test_audio_that_is_missing_is_named_with_its_row_and_mended_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_speech(tmp_path, {"a.flac": 1000, "b.flac": 1000})
    (tmp_path / "audio" / "b.flac").rename(tmp_path / "b")
    words = [path, "--out", tmp_path / "out", "--size", "1kB"]
    code, told = run(capsys, *words)
    assert code == 2 and f"{path}:2: " in told and "expected a file, found nothing there" in told
    (tmp_path / "b").rename(tmp_path / "audio" / "b.flac")
    assert run(capsys, *words)[0] == 0
    assert len(read_bytes(tmp_path / "out" / "m.jsonl")) == 2
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "m-00000.tar",
        "m-00001.tar",
        "m.jsonl",
        "m.meta.json",
    ]


@pytest.mark.parametrize(
    ("text", "size"), [("1GB", 10**9), ("500 MB", 5 * 10**8), ("1.5kb", 1500), ("2GiB", 2**31)]
)
def test_a_size_is_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "0", "-1GB", "1PB"])
def test_another_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--size: expected a size such as 1GB"):
        parse_size(text)
