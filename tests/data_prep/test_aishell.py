"""`blsp prep aishell` on the tree of the corpus with WAV files."""

from functools import partial
from pathlib import Path

import pytest

from blsp.manifest import read_manifest, read_meta
from blsp.validation import validate
from data_prep.aishell import clean
from tests.data_prep.conftest import run_prep, write_audio

TRANSCRIPT = (
    "BAC009S0002W0122 而 对 楼市 成交 抑制 作用 最 大 的 限 购\n"
    "BAC009S0002W0123 也 成为 地方 政府 的 眼中 钉\n"
    "BAC009S0764W0121 甚至 出现 交易 几乎 停滞 的 情况\n"
)


def build(home: Path) -> Path:
    """The folder in which the archives were unpacked: two splits, one speaker each."""
    data = home / "corpora" / "data_aishell"
    (data / "transcript").mkdir(parents=True)
    path = data / "transcript" / "aishell_transcript_v0.8.txt"
    path.write_bytes(TRANSCRIPT.replace("\n", "\r\n").encode())
    for name in ("train/S0002/BAC009S0002W0122", "test/S0764/BAC009S0764W0121"):
        write_audio(data / "wav" / f"{name}.wav", seconds=1.5)
    (data / "wav" / "S0002.tar.gz").write_bytes(b"")
    return data.parent


prepare = partial(run_prep, "aishell")


def test_a_line_of_the_transcript_becomes_a_row(corpus: Path, tmp_path: Path) -> None:
    assert prepare(corpus, tmp_path / "out") == 0
    path = tmp_path / "out" / "train.jsonl"
    assert path.read_text(encoding="utf-8") == (
        '{"id": "BAC009S0002W0122", "audio": "wav/train/S0002/BAC009S0002W0122.wav", '
        '"duration": 1.5, "text": "而对楼市成交抑制作用最大的限购", "language": "zh", '
        '"speaker": "S0002", "license": "Apache-2.0", "source": "AISHELL-1"}\n'
    )
    report = validate(path)
    assert (report.rows, report.problems, report.warnings) == (1, [], [])


def test_each_split_has_its_speakers(corpus: Path, tmp_path: Path) -> None:
    prepare(corpus / "data_aishell", tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").glob("*.jsonl"))
    assert names == ["test.jsonl", "train.jsonl"]
    assert next(read_manifest(tmp_path / "out" / "test.jsonl")).speaker == "S0764"


def test_letters_of_double_width_become_capitals() -> None:
    wide = "".join(chr(ord(letter) + 0xFEE0) for letter in "kT")
    assert clean(f"去 {wide} v 吧") == "去KTV吧"


def test_what_cannot_be_used_is_counted(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = corpus / "data_aishell/wav/train/S0002"
    (folder / "BAC009S0002W0999.wav").write_bytes(b"")
    (folder / "._BAC009S0002W0122.wav").write_bytes(b"macOS")
    prepare(corpus, tmp_path / "out", "--splits", "train")
    meta = read_meta(tmp_path / "out" / "train.jsonl")
    assert meta is not None
    assert meta.counts == {"written": 1, "audio without a transcript": 1, "no audio file": 1}
    assert "aishell_transcript_v0.8.txt:2: " in capsys.readouterr().out
