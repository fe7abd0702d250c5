"""`blsp prep meld`: WAV beside the clips, and clips by way of an ffmpeg."""

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from blsp.audio import read_audio_info
from blsp.manifest import find_root, read_manifest
from blsp.validation import validate
from tests.data_prep.conftest import run_prep, write_audio

HEADER = (
    "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,"
    "EndTime\r\n"
)
KNOWN = (
    "1,also I was the point person on my company\u2019s transition from the KL-5 to GR-6 system.,"
    'Chandler,neutral,neutral,0,0,8,21,"00:16:16,059","00:16:21,731"\r\n'
)
FOLDERS = {"train": "train_splits", "test": "output_repeated_splits_test"}


def line(dialogue: int, utterance: int, emotion: str = "joy", words: str = "Oh") -> str:
    return f'2,"{words}",Joey,{emotion},positive,{dialogue},{utterance},8,21,"0:0","0:1"\r\n'


TABLES = {
    "train": HEADER + KNOWN + line(0, 1, words="Now you\x92ll be, heading") + line(125, 3),
    "test": HEADER + line(0, 0, "fear") + line(38, 4) + line(220, 0),
}


def build_clips(home: Path) -> Path:
    """The folder in which the archives of two splits were unpacked, with clips that are none."""
    corpus = home / "corpora" / "MELD.Raw"
    for split, table in TABLES.items():
        clips = corpus / FOLDERS[split]
        clips.mkdir(parents=True)
        (corpus / f"{split}_sent_emo.csv").write_bytes(table.encode())
        for name in ("dia0_utt0", "dia0_utt1", "dia38_utt4", "._dia0_utt0", "final_videos_test"):
            (clips / f"{name}.mp4").write_bytes(b"a clip")
    return home / "corpora"


def build(home: Path) -> Path:
    """The same with a WAV beside the clips that are good."""
    root = build_clips(home)
    for name in (
        "train_splits/dia0_utt0",
        "train_splits/dia0_utt1",
        f"{FOLDERS['test']}/dia0_utt0",
    ):
        write_audio(root / "MELD.Raw" / f"{name}.wav", seconds=1.5)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Clips alone."""
    return build_clips(tmp_path)


@pytest.fixture
def ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name which fails at `dia0_utt1` and knows one sound; a log of its calls."""
    sound, log = write_audio(tmp_path / "sound.flac", seconds=2), tmp_path / "calls"
    code = (
        f"#!{sys.executable}\nimport shutil, sys\n"
        f"open({str(log)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
        "if 'dia0_utt1' in ' '.join(sys.argv):\n    sys.exit('header\\nmoov atom not found')\n"
        f"shutil.copyfile({str(sound)!r}, sys.argv[-1])\n"
    )
    program = tmp_path / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text(code)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    return log


prepare = partial(run_prep, "meld")


def test_a_wav_beside_a_clip_is_taken(corpus: Path, tmp_path: Path) -> None:
    assert prepare(corpus, tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "test.jsonl",
        "test.meta.json",
        "train.jsonl",
        "train.meta.json",
    ]
    path = tmp_path / "out" / "train.jsonl"
    assert json.loads(path.read_text().partition("\n")[0]) == {
        "id": "train_dia0_utt0",
        "audio": "train_splits/dia0_utt0.wav",
        "duration": 1.5,
        "text": "also I was the point person on my company\u2019s transition from the KL-5 to GR-6 "
        "system.",
        "language": "en",
        "speaker": "Chandler",
        "emotion": "neutral",
        "license": "research-only",
        "source": "MELD",
        "emotion_label": "neutral",
        "sentiment": "neutral",
        "dialogue": 0,
    }
    report = validate(path)
    assert (report.rows, report.seconds, report.problems, report.warnings) == (2, 3.0, [], [])


def test_emotions_are_said_as_in_other_corpora_and_kept_as_in_this(
    corpus: Path, tmp_path: Path
) -> None:
    prepare(corpus, tmp_path / "out")
    _, row = read_manifest(tmp_path / "out" / "train.jsonl")
    assert (row.emotion, row.extra["emotion_label"]) == ("happy", "joy")
    assert row.text == "Now you\u2019ll be, heading"  # a mark of Windows in the file
    (row,) = read_manifest(tmp_path / "out" / "test.jsonl")
    assert (row.emotion, row.extra["emotion_label"]) == ("fearful", "fear")


def test_archives_may_lie_in_folders_of_their_own(corpus: Path, tmp_path: Path) -> None:
    folder = corpus / "MELD.Raw"
    (folder / "train").mkdir()
    for name in ("train_splits", "train_sent_emo.csv"):
        (folder / name).rename(folder / "train" / name)
    assert prepare(folder, tmp_path / "out", "--splits", "train") == 0
    row = next(read_manifest(tmp_path / "out" / "train.jsonl"))
    assert row.audio == "train/train_splits/dia0_utt0.wav"


def test_bad_clips_and_missing_ones_are_counted(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus / "MELD.Raw" / "train_splits" / "dia0_utt1.wav").unlink()
    assert prepare(corpus, tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "train.jsonl: 1 utterances" in out
    assert "  dropped 1: a clip known to be bad\n" in out  # train
    assert "  dropped 2: a clip known to be bad\n" in out  # test
    assert "  dropped 1: no audio file\n" in out


def test_clips_go_through_ffmpeg_into_the_output_folder(
    root: Path, tmp_path: Path, ffmpeg: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert prepare(root, out, "--splits", "train") == 0
    (row,) = read_manifest(out / "train.jsonl")
    assert (row.audio, row.duration) == ("audio/train/dia0_utt0.flac", 2.0)
    assert find_root(out / "train.jsonl").samefile(out)
    said = capsys.readouterr().out
    assert "  dropped 1: a clip that ffmpeg cannot read\n" in said
    assert "dia0_utt1.mp4: moov atom not found\n" in said
    assert [path.name for path in (out / "audio" / "train").iterdir()] == ["dia0_utt0.flac"]
    assert "-ac 1 -ar 16000 -f flac" in ffmpeg.read_text()


def test_sound_that_was_drawn_is_not_drawn_again(
    root: Path, tmp_path: Path, ffmpeg: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(root, tmp_path / "out", "--splits", "test")
    calls = ffmpeg.read_text()
    assert calls.count("\n") == 1
    (tmp_path / "out" / "test.jsonl").unlink()
    prepare(root, tmp_path / "out", "--splits", "test")
    capsys.readouterr()
    prepare(root, tmp_path / "out", "--splits", "test")
    assert "(there since an earlier run)" in capsys.readouterr().out
    assert ffmpeg.read_text() == calls


def test_neither_wav_nor_ffmpeg_is_one_line_a_split(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert prepare(root, tmp_path / "out") == 2
    error = capsys.readouterr().err
    lines = error.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert "expected a WAV beside each clip, or ffmpeg on the PATH" in line
        assert "install it (apt install ffmpeg" in line


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_a_true_clip_is_read_by_the_true_ffmpeg(root: Path, tmp_path: Path) -> None:
    clip = root / "MELD.Raw" / FOLDERS["test"] / "dia0_utt0.mp4"
    wav = write_audio(tmp_path / "x.wav", seconds=1)
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", wav, "-c:a", "aac", clip], check=True)
    assert prepare(root, tmp_path / "out", "--splits", "test") == 0
    info = read_audio_info(tmp_path / "out" / "audio" / "test" / "dia0_utt0.flac")
    assert (info.sampling_rate, info.channels, round(info.seconds, 1)) == (16_000, 1, 1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + line(0, 0, "bored"), ":2: expected numbers of dialogue and utterance and an"),
        ("Utterance,Speaker\r\n", ":1: expected a header with Utterance, Speaker, Emotion"),
    ],
)
def test_a_table_of_another_form_is_named(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    table = corpus / "MELD.Raw" / "train_sent_emo.csv"
    table.write_text(text)
    assert prepare(corpus, tmp_path / "out", "--splits", "train") == 2
    assert f"{table}{message}" in capsys.readouterr().err
