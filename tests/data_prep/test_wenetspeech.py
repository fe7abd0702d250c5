"""`blsp prep wenetspeech` on the list of the corpus and long Opus files."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from blsp.manifest import read_manifest, read_meta
from blsp.validation import validate
from tests.data_prep.conftest import encode, run_prep

AID = "Y0000000000_--5llN02F84"
LONG = f"audio/train/youtube/B00000/{AID}.opus"


def segment(number: int, begin: float, text: str, *subsets: str) -> dict[str, Any]:
    return {
        "sid": f"{AID}_S{number:05}",
        "confidence": 1.0 if "W" not in subsets else 0.67,
        "begin_time": begin,
        "end_time": begin + 4.32,
        "subsets": list(subsets),
        "text": text,
    }


def build(home: Path) -> Path:
    """The list and one of its two long files."""
    root = home / "WenetSpeech"
    recording = {
        "aid": AID,
        "duration": 2494.57,
        "md5": "48af998ec7dab6964386c3522386fa4b",
        "path": LONG,
        "source": "youtube",
        "tags": ["drama"],
        "url": "https://www.youtube.com/watch?v=--5llN02F84",
        "segments": [
            segment(0, 2.08, "怎么样这些日子住得还习惯吧", "L"),
            segment(1, 6.4, "好", "L", "M"),
            segment(2, 0.0, "不错", "W"),
            segment(3, 0.0, " ", "L"),
        ],
    }
    absent = {"aid": "Y1", "path": "audio/test_net/B00000/Y1.opus", "segments": []}
    absent["segments"] = [{**segment(9, 0, "是", "L", "TEST_NET"), "sid": "Y1_S00000"}]
    (root / LONG).parent.mkdir(parents=True)
    text = json.dumps({"audios": [recording, absent]}, ensure_ascii=False)
    (root / "WenetSpeech.json").write_text(text, encoding="utf-8-sig")
    (root / LONG).write_bytes(encode("OPUS", 11))
    return root


prepare = partial(run_prep, "wenetspeech")


def test_a_segment_becomes_a_row(corpus: Path, tmp_path: Path) -> None:
    assert prepare(corpus.parent, tmp_path / "out", "--splits", "L") == 0
    path = tmp_path / "out" / "L.jsonl"
    assert path.read_text(encoding="utf-8").partition("\n")[0] == (
        f'{{"id": "{AID}_S00000", "audio": "{LONG}", "duration": 4.32, '
        '"text": "怎么样这些日子住得还习惯吧", "start": 2.08, "language": "zh", '
        '"license": "CC-BY-4.0", "source": "WenetSpeech", "domain": "youtube", '
        '"tags": ["drama"], "confidence": 1.0}'
    )
    report = validate(path)
    assert (report.rows, report.problems, report.warnings) == (2, [], [])


def test_what_cannot_be_used_is_counted(corpus: Path, tmp_path: Path) -> None:
    prepare(corpus, tmp_path / "out", "--splits", "L")
    meta = read_meta(tmp_path / "out" / "L.jsonl")
    assert meta is not None
    assert meta.counts == {"written": 2, "no words": 1, "no audio file": 1}


def test_weak_labels_are_done_where_they_are_named(corpus: Path, tmp_path: Path) -> None:
    assert prepare(corpus, tmp_path / "out", "--splits", "M", "W") == 0
    assert next(read_manifest(tmp_path / "out" / "W.jsonl")).extra["confidence"] == 0.67
    assert not (tmp_path / "out" / "L.jsonl").exists()


def test_without_names_the_largest_subset_comes_first_and_a_test_without_audio_says_so(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(corpus, tmp_path / "out") == 2
    assert [path.name for path in (tmp_path / "out").glob("*.jsonl")] == ["L.jsonl"]
    assert "TEST_NET.jsonl: expected at least one recording" in capsys.readouterr().err
