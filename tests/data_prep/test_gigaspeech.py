"""`blsp prep gigaspeech` on the list of the corpus and Opus files, long and cut."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from blsp.manifest import find_root, read_manifest, read_meta
from blsp.validation import validate
from data_prep.gigaspeech import punctuate
from tests.data_prep.conftest import encode, run_prep

POD = "audio/podcast/P0001/POD0000000025.opus"
WORDS = "FOUR O'CLOCK TOMORROW AFTERNOON <COMMA> SAID WILLIAMS <PERIOD>"


def segment(sid: str, begin: float, text: str, *subsets: str) -> dict[str, Any]:
    return {
        "sid": sid,
        "speaker": "N/A",
        "begin_time": begin,
        "end_time": begin + 2.83,
        "text_tn": text,
        "subsets": [f"{{{name}}}" for name in subsets],
    }


RECORDINGS = [
    {
        "title": "The Architect of Hollywood",
        "url": "https://99percentinvisible.org/episode/the-architect-of-hollywood/download",
        "path": POD,
        "aid": "POD0000000025",
        "source": "podcast",
        "category": "Arts",
        "sample_rate": 16000,
        "channels": 1,
        "format": "opus",
        "subsets": ["{XL}", "{L}"],
        "segments": [
            segment("POD0000000025_S0000103", 0.31, WORDS, "XL", "L"),
            segment("POD0000000025_S0000104", 3.14, "<MUSIC>", "XL", "L"),
            segment("POD0000000025_S0000105", 3.14, "WHO KNOWS <QUESTIONMARK>", "XL"),
            segment("POD0000000025_S0000106", 700.0, "AFTER THE END", "XL"),
        ],
    },
    {
        "path": "audio/youtube/P0002/YOU0000000001.opus",
        "aid": "YOU0000000001",
        "segments": [segment("YOU0000000001_S0000001", 0.0, "NOT <COMMA> THERE", "XL", "DEV")],
    },
    {
        "path": "audio/youtube/P0000/YOU0000009999.opus",
        "aid": "YOU0000009999",
        "segments": [segment("YOU0000009999_S0000000", 1.0, "<NOISE> HUH", "DEV", "TEST")],
    },
]


def write_list(folder: Path, recordings: object = RECORDINGS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content = {"dataset": "GigaSpeech", "language": "EN", "version": "v1.0.0", "audios": recordings}
    (folder / "GigaSpeech.json").write_text(json.dumps(content))
    return folder


def add(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def build(home: Path) -> Path:
    """The list and two of its three long files."""
    root = write_list(home / "GigaSpeech")
    add(root / POD, encode("OPUS", 6))
    add(root / "audio/youtube/P0000/YOU0000009999.opus", encode("OPUS", 6))
    (root / "audio/podcast/P0001/._POD0000000025.opus").write_bytes(b"macOS")
    (root / "TERMS_OF_ACCESS").write_text("...")
    return root


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """The folder of BLSP's copy: a file for each segment."""
    root = write_list(tmp_path / "corpora" / "audio_data")
    add(root / "audio/podcast/P0001/POD0000000025_S0000103.wav", encode("WAV", 2.83))
    add(root / "audio/youtube/P0000/YOU0000009999_S0000000.wav", encode("WAV", 2.83))
    return root.parent


prepare = partial(run_prep, "gigaspeech")


def test_a_segment_of_a_long_file_becomes_a_row(corpus: Path, tmp_path: Path) -> None:
    assert prepare(corpus, tmp_path / "out", "--splits", "L") == 0
    assert (tmp_path / "out" / "L.jsonl").read_text() == (
        '{"id": "POD0000000025_S0000103", "audio": "audio/podcast/P0001/POD0000000025.opus", '
        '"duration": 2.83, "text": "four o\'clock tomorrow afternoon, said williams.", '
        '"start": 0.31, "language": "en", "license": "research-only", "source": "GigaSpeech", '
        '"domain": "podcast", "category": "Arts"}\n'
    )
    report = validate(tmp_path / "out" / "L.jsonl")
    assert (report.rows, report.problems, report.warnings) == (1, [], [])
    assert find_root(tmp_path / "out" / "L.jsonl").samefile(corpus)


def test_the_largest_subset_and_the_tests_are_done_unless_others_are_named(
    corpus: Path, tmp_path: Path
) -> None:
    assert prepare(corpus.parent, tmp_path / "out") == 0
    names = sorted(path.name for path in (tmp_path / "out").glob("*.jsonl"))
    assert names == ["DEV.jsonl", "TEST.jsonl", "XL.jsonl"]


def test_a_list_without_xl_gives_the_largest_it_has(corpus: Path, tmp_path: Path) -> None:
    small = segment("POD0000000025_S0000001", 0.0, "YES <EXCLAMATIONPOINT>", "S", "M")
    write_list(corpus, [RECORDINGS[0] | {"segments": [small]}])
    assert prepare(corpus, tmp_path / "out") == 0
    assert [path.name for path in (tmp_path / "out").glob("*.jsonl")] == ["M.jsonl"]


def test_what_cannot_be_used_is_counted(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(corpus, tmp_path / "out", "--splits", "XL")
    meta = read_meta(tmp_path / "out" / "XL.jsonl")
    assert meta is not None
    assert meta.counts == {
        "written": 2,
        "nothing but tags": 1,
        "a segment beyond the end of its audio": 1,
        "no audio file": 1,
    }
    out = capsys.readouterr().out
    assert "non-commercial research and education only" in out.splitlines()[0]
    assert "GigaSpeech.json: POD0000000025: POD0000000025_S0000104: <MUSIC>\n" in out


def test_segments_that_were_cut_are_whole_files(cut: Path, tmp_path: Path) -> None:
    assert prepare(cut, tmp_path / "out", "--splits", "L") == 0
    (row,) = read_manifest(tmp_path / "out" / "L.jsonl")
    assert row.audio == "audio/podcast/P0001/POD0000000025_S0000103.wav"
    assert (row.start, row.duration) == (0.0, 2.83)
    meta = read_meta(tmp_path / "out" / "L.jsonl")
    assert meta is not None
    assert meta.command.endswith("--splits L --layout cut")


def test_the_layout_can_be_named_where_both_lie(corpus: Path, tmp_path: Path) -> None:
    add(corpus / POD.replace(".opus", "_S0000103.wav"), encode("WAV", 2.83))
    prepare(corpus, tmp_path / "long", "--splits", "L")
    prepare(corpus, tmp_path / "cut", "--splits", "L", "--layout", "cut")
    assert next(read_manifest(tmp_path / "long" / "L.jsonl")).audio == POD
    assert next(read_manifest(tmp_path / "cut" / "L.jsonl")).audio.endswith("_S0000103.wav")


@pytest.mark.parametrize(
    ("tagged", "text"),
    [
        ("WELL <COMMA> NO <EXCLAMATIONPOINT>", "well, no!"),
        ("<NOISE> I <UNK> SEE <PERIOD>", "i see."),
        ("<PERIOD> SO", "so"),
        ("<SIL>", ""),
        ("<OTHER> <PERIOD>", ""),
    ],
)
def test_tags_become_punctuation_or_nothing(tagged: str, text: str) -> None:
    assert punctuate(tagged) == text


@pytest.mark.parametrize(
    ("recordings", "message"),
    [
        ([], "expected at least one recording with its words, found none"),
        ([{"aid": "X1"}], "GigaSpeech.json: X1: expected a path and segments with sid, "),
        ([{"aid": "X1", "segments": [{"sid": "a"}]}], "found KeyError('begin_time')"),
        ([{"aid": "X1", "path": None, "segments": [segment("a", 0, "A", "L")]}], "TypeError(None)"),
    ],
)
def test_another_form_of_the_list_is_one_line(
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    recordings: object,
    message: str,
) -> None:
    write_list(corpus, recordings)
    assert prepare(corpus, tmp_path / "out", "--splits", "L") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_another_form_is_one_line_without_names_too(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_list(corpus, [{"aid": "X1", "segments": [None]}])
    assert prepare(corpus, tmp_path / "out") == 2
    assert "GigaSpeech.json: X1: expected a path and segments" in capsys.readouterr().err
