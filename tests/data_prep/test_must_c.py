"""`blsp prep must_c` on the tree of the corpus with long WAV files."""

from pathlib import Path

import numpy as np
import pytest

from blsp.audio import save_audio
from blsp.cli import main as run_blsp
from blsp.manifest import read_manifest, read_meta
from blsp.validation import validate

SEGMENT = "- {{duration: {}, offset: {}, rW: 9, uW: 0, speaker_id: spk.767, wav: {}}}\n"
SEGMENTS = [
    SEGMENT.format("3.500000", "16.080000", "ted_767.wav"),
    SEGMENT.format("1.250000", "2.500000", "ted_767.wav"),
    SEGMENT.format("1.000000", "0.000000", "ted_9.wav"),
    SEGMENT.format("1.000000", "4.000000", "ted_767.wav"),
]
ENGLISH = "There was only one man.\nThank you.\nGone.\nUntranslated.\n"
GERMAN = "Es gab nur einen Mann.\nVielen Dank.\nFort.\n\n"


def add_pair(root: Path, pair: str, split: str) -> Path:
    """Two talks, of which one is there."""
    folder = root / pair / "data" / split
    (folder / "txt").mkdir(parents=True)
    (folder / "txt" / f"{split}.yaml").write_text("".join(SEGMENTS))
    (folder / "txt" / f"{split}.en").write_text(ENGLISH)
    (folder / "txt" / f"{split}.{pair[3:]}").write_text(GERMAN)
    save_audio(folder / "wav" / "ted_767.wav", np.full(20 * 16_000, 0.25, dtype=np.float32))
    return root


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """One pair."""
    return add_pair(tmp_path / "must-c", "en-de", "tst-COMMON")


def prepare(root: Path, out: Path, *options: str) -> int:
    return run_blsp(["prep", "must_c", str(root), "--out", str(out), *options])


def test_a_segment_of_a_talk_becomes_a_row(corpus: Path, tmp_path: Path) -> None:
    assert prepare(corpus, tmp_path / "out") == 0
    path = tmp_path / "out" / "tst-COMMON.jsonl"
    assert path.read_text().partition("\n")[0] == (
        '{"id": "ted_767-1", "audio": "data/tst-COMMON/wav/ted_767.wav", "duration": 3.5, '
        '"text": "There was only one man.", "start": 16.08, "language": "en", '
        '"speaker": "spk.767", "translation": {"de": "Es gab nur einen Mann."}, '
        '"license": "CC-BY-NC-ND-4.0", "source": "MuST-C"}'
    )
    report = validate(path)
    assert (report.rows, report.problems, report.warnings) == (2, [], [])


def test_the_order_of_the_file_is_kept(corpus: Path, tmp_path: Path) -> None:
    prepare(corpus / "en-de", tmp_path / "out")
    starts = [row.start for row in read_manifest(tmp_path / "out" / "tst-COMMON.jsonl")]
    assert starts == [16.08, 2.5]


def test_what_cannot_be_used_is_counted(corpus: Path, tmp_path: Path) -> None:
    prepare(corpus, tmp_path / "out")
    meta = read_meta(tmp_path / "out" / "tst-COMMON.jsonl")
    assert meta is not None
    assert meta.counts == {"written": 2, "no translation": 1, "no audio file": 1}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("de", "Eine Zeile.\n", "found 4 of tst-COMMON.yaml, 4 of tst-COMMON.en, 1 of tst-COMM"),
        ("yaml", "- {a: 1}\n" * 4, "tst-COMMON.yaml:1: expected a mapping with duration, offset"),
    ],
)
def test_files_that_do_not_fit_are_one_line(
    corpus: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, message: str
) -> None:
    (corpus / f"en-de/data/tst-COMMON/txt/tst-COMMON.{name}").write_text(content)
    assert prepare(corpus, corpus / "out") == 2
    assert message in capsys.readouterr().err


def test_one_of_two_pairs_must_be_named(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_pair(corpus, "en-zh", "dev")
    assert prepare(corpus, tmp_path / "out") == 2
    assert "--pair: expected one of the 2 in" in capsys.readouterr().err
    assert prepare(corpus, tmp_path / "out", "--pair", "en-zh") == 0
    assert set(next(read_manifest(tmp_path / "out" / "dev.jsonl")).translation) == {"zh"}


def test_a_finished_split_is_not_done_again(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(corpus, tmp_path / "out", "--splits", "tst-COMMON")
    first = (tmp_path / "out" / "tst-COMMON.jsonl").stat()
    assert prepare(corpus, tmp_path / "out", "--splits", "tst-COMMON") == 0
    assert capsys.readouterr().out.endswith("(there since an earlier run)\n")
    again = (tmp_path / "out" / "tst-COMMON.jsonl").stat()
    assert (again.st_ino, again.st_mtime_ns) == (first.st_ino, first.st_mtime_ns)


def test_a_folder_without_the_corpus_says_what_was_expected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(tmp_path / "nowhere", tmp_path) == 2
    assert (
        "expected en-<language>/data/<split>/txt/<split>.yaml below it, found none"
        in capsys.readouterr().err
    )
