"""`blsp prep must_c` on the tree of the corpus with long WAV files."""

from functools import partial
from pathlib import Path

import pytest

from blsp.manifest import read_manifest, read_meta
from blsp.validation import validate
from tests.data_prep.conftest import run_prep, write_audio

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
    write_audio(folder / "wav" / "ted_767.wav", seconds=20)
    return root


def build(home: Path) -> Path:
    """One pair."""
    return add_pair(home / "must-c", "en-de", "tst-COMMON")


prepare = partial(run_prep, "must_c")


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
