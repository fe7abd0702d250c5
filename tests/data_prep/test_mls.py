"""`blsp prep mls` on the tree of the corpus with FLAC and Opus files."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from blsp.manifest import read_manifest, read_meta
from blsp.validation import validate
from tests.data_prep.conftest import run_prep

NAMES = ("4800_10003_000000", "4800_10003_000001", "2037_1000_000002")
METAINFO = (
    " SPEAKER   |   GENDER   | PARTITION  |  MINUTES   |  BOOK ID   |  TITLE  |  CHAPTER  \n"
    "  4800     |     F      |   dev      |   17.148   |   10003    | Title   | Ch. II: G \n"
)


def add_language(root: Path, name: str, ending: str) -> Path:
    """A split of three lines, of which the last has no file."""
    folder = root / name
    for each in NAMES[:2]:
        speaker, book, _ = each.split("_")
        path = folder / "dev" / "audio" / speaker / book / f"{each}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = ("FLAC", "PCM_16") if ending == "flac" else ("OGG", "OPUS")
        tone = np.sin(np.arange(16_000) / 9) / 2
        soundfile.write(path, tone, 16_000, format=kind[0], subtype=kind[1])
    text = "".join(f"{each}\toder habe ich dich\r\n" for each in NAMES)
    (folder / "dev" / "transcripts.txt").write_bytes(f"{text}no line of it\r\n".encode())
    (folder / "metainfo.txt").write_text(METAINFO)
    return folder


def build(home: Path) -> Path:
    """German in FLAC."""
    return add_language(home, "mls_german", "flac")


prepare = partial(run_prep, "mls")


def test_a_line_of_the_transcripts_becomes_a_row(corpus: Path, tmp_path: Path) -> None:
    assert prepare(corpus, tmp_path / "out") == 0
    path = tmp_path / "out" / "dev.jsonl"
    assert path.read_text().partition("\n")[0] == (
        '{"id": "4800_10003_000000", "audio": "dev/audio/4800/10003/4800_10003_000000.flac", '
        '"duration": 1.0, "text": "oder habe ich dich", "language": "de", "speaker": "4800", '
        '"license": "CC-BY-4.0", "source": "MLS", "gender": "female"}'
    )
    report = validate(path)
    assert (report.rows, report.problems, report.warnings) == (2, [], [])


def test_the_copy_in_opus_is_read_too(tmp_path: Path) -> None:
    add_language(tmp_path, "mls_polish_opus", "opus")
    assert prepare(tmp_path, tmp_path / "out") == 0
    row = next(read_manifest(tmp_path / "out" / "dev.jsonl"))
    assert (row.language, row.audio[-5:]) == ("pl", ".opus")


def test_what_cannot_be_used_is_counted(corpus: Path, tmp_path: Path) -> None:
    prepare(corpus, tmp_path / "out")
    meta = read_meta(tmp_path / "out" / "dev.jsonl")
    assert meta is not None
    assert meta.counts == {
        "written": 2,
        "a line without <speaker>_<book>_<number>": 1,
        "no audio file": 1,
    }


def test_one_of_two_languages_must_be_named(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_language(tmp_path, "mls_dutch", "flac")
    assert prepare(tmp_path, tmp_path / "out") == 2
    assert "--language: expected one of the 2 in" in capsys.readouterr().err
    assert prepare(tmp_path, tmp_path / "out", "--language", "dutch") == 0
