"""`blsp prep common_voice` on tables of old and new releases, and MP3 clips."""

from functools import partial
from pathlib import Path

import pytest

from blsp.manifest import read_manifest, read_meta
from blsp.validation import validate
from tests.data_prep.conftest import encode, run_prep

CLIENT = "d277a1f3904a" + "0" * 112 + "e8fe"
# The columns of release 4, of 5 to 7, of 13 to 16, and of 17 and later.
OLD = "client_id path sentence up_votes down_votes age gender accent"
MIDDLE = f"{OLD} locale segment"
LATER = "client_id path sentence up_votes down_votes age gender accents variant locale segment"
NEW = (
    "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents "
    "variant locale segment"
)
CELLS = {
    "client_id": CLIENT,
    "path": "common_voice_en_18540003.mp3",
    "sentence": "When water is scarce, avoid wasting it.",
    "sentence_id": "0a1b",
    "up_votes": "2",
    "down_votes": "0",
    "locale": "en",
}


def table(columns: str, *rows: dict[str, str]) -> str:
    names = columns.split()
    lines = ["\t".join((CELLS | row).get(name, "") for name in names) for row in rows]
    return "".join(f"{line}\n" for line in ["\t".join(names), *lines])


def build(home: Path) -> Path:
    """The folder in which the archive of one language was unpacked."""
    english = home / "cv-corpus-25.0-2026-03-09" / "en"
    (english / "clips").mkdir(parents=True)
    for number in (18540003, 18540004):
        (english / "clips" / f"common_voice_en_{number}.mp3").write_bytes(
            encode("MP3", 1.5, 48_000)
        )
    other = {"path": "common_voice_en_18540004.mp3", "sentence": '"Who?', "client_id": "c2"}
    (english / "train.tsv").write_text(table(NEW, {}))
    (english / "dev.tsv").write_text(table(NEW))
    (english / "test.tsv").write_text(table(NEW, other))
    (english / "validated.tsv").write_text(table(NEW, {}, other))
    (english / "reported.tsv").write_text("sentence_id\tsentence\tlocale\treason\n")
    return home


prepare = partial(run_prep, "common_voice")


def test_a_clip_becomes_a_row(corpus: Path, tmp_path: Path) -> None:
    assert prepare(corpus, tmp_path / "out") == 0
    assert (tmp_path / "out" / "train.jsonl").read_text() == (
        '{"id": "common_voice_en_18540003", "audio": "clips/common_voice_en_18540003.mp3", '
        '"duration": 1.5, "text": "When water is scarce, avoid wasting it.", "language": "en", '
        f'"speaker": "{CLIENT}", "license": "CC0-1.0", "source": "Common Voice"}}\n'
    )
    report = validate(tmp_path / "out" / "train.jsonl")
    assert (report.rows, report.problems, report.warnings) == (1, [], [])


def test_tables_without_clips_and_tables_that_contain_others_wait_to_be_named(
    corpus: Path, tmp_path: Path
) -> None:
    prepare(corpus, tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").glob("*.jsonl"))
    assert names == ["test.jsonl", "train.jsonl"]
    prepare(corpus, tmp_path / "out", "--splits", "validated")
    assert len(list(read_manifest(tmp_path / "out" / "validated.jsonl"))) == 2


@pytest.mark.parametrize(
    ("columns", "cells", "labels"),
    [
        (OLD, {"accent": "us", "age": "twenties", "gender": "male"}, {"accent": "us"}),
        (MIDDLE, {"accent": "us", "gender": "male", "age": "twenties"}, {"accent": "us"}),
        (
            LATER,
            {"accents": "England English", "age": "twenties", "gender": "male"},
            {"accent": "England English"},
        ),
        (
            NEW,
            {
                "accents": "England English",
                "variant": "Welsh English",
                "sentence_domain": "agriculture",
                "gender": "male",
                "age": "twenties",
            },
            {"accent": "England English", "variant": "Welsh English", "domain": "agriculture"},
        ),
    ],
    ids=["4", "5", "13", "17"],
)
def test_columns_of_every_release_are_found_by_name(
    corpus: Path, tmp_path: Path, columns: str, cells: dict[str, str], labels: dict[str, str]
) -> None:
    english = next(corpus.glob("*/en"))
    (english / "train.tsv").write_text(table(columns, cells))
    assert prepare(english, tmp_path / "out", "--splits", "train") == 0
    (row,) = read_manifest(tmp_path / "out" / "train.jsonl")
    assert (row.speaker, row.language) == (CLIENT, "en")
    assert row.extra == {"age": "twenties", "gender": "male", **labels}


def test_quotation_marks_windows_lines_and_names_without_ending_are_read(
    corpus: Path, tmp_path: Path
) -> None:
    english = next(corpus.glob("*/en"))
    text = table(OLD, {"path": "common_voice_en_18540003", "sentence": '"Who\'s "there?'})
    (english / "train.tsv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    prepare(english, tmp_path / "out", "--splits", "train")
    (row,) = read_manifest(tmp_path / "out" / "train.jsonl")
    assert (row.audio, row.text) == ("clips/common_voice_en_18540003.mp3", '"Who\'s "there?')


def test_a_language_of_two_countries_keeps_which(corpus: Path, tmp_path: Path) -> None:
    taiwan = next(corpus.glob("*")) / "zh-TW"
    (taiwan / "clips").mkdir(parents=True)
    (taiwan / "clips" / "common_voice_zh-TW_1.mp3").write_bytes(encode("MP3", 1.5, 48_000))
    (taiwan / "train.tsv").write_text(table(OLD, {"path": "common_voice_zh-TW_1.mp3"}))
    assert prepare(corpus, tmp_path / "out", "--language", "zh-TW") == 0
    (row,) = read_manifest(tmp_path / "out" / "train.jsonl")
    assert (row.language, row.extra) == ("zh", {"locale": "zh-TW"})


def test_what_cannot_be_used_is_counted(corpus: Path, tmp_path: Path) -> None:
    english = next(corpus.glob("*/en"))
    gone = {"path": "common_voice_en_9.mp3"}
    cut = {"path": "common_voice_en_18540004.mp3"}
    empty = {"path": "common_voice_en_8.mp3", "sentence": ""}
    text = table(LATER, {}, gone, cut, empty) + "half a line\n"
    (english / "train.tsv").write_text(text)
    (english / "clip_durations.tsv").write_text(
        "clip\tduration[ms]\ncommon_voice_en_18540003.mp3\t1548\n"
        "common_voice_en_18540004.mp3\t5184\ncommon_voice_en_7.mp3\t1000\n"
    )
    prepare(english, tmp_path / "out", "--splits", "train")
    meta = read_meta(tmp_path / "out" / "train.jsonl")
    assert meta is not None
    assert meta.counts == {
        "written": 1,
        "no words": 1,
        "a line that does not fit the header": 1,
        "no audio file": 1,
        "audio that was cut": 1,
    }


def test_one_of_two_languages_must_be_named(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    german = next(corpus.glob("*")) / "de"
    german.mkdir()
    (german / "train.tsv").write_text(table(OLD))
    assert prepare(corpus, tmp_path / "out") == 2
    assert "--language: expected one of the 2 in" in capsys.readouterr().err


def test_one_of_two_releases_must_be_named(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = corpus / "cv-corpus-4-2019-12-10" / "en"
    older.mkdir(parents=True)
    (older / "train.tsv").write_text(table(OLD))
    assert prepare(corpus, tmp_path / "out") == 2
    assert "expected one release, found" in capsys.readouterr().err


def test_a_table_of_another_kind_is_one_line(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    next(corpus.glob("*/en/train.tsv")).write_text("file,words\n1.mp3,yes\n")
    assert prepare(corpus, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "train.tsv:1: expected a header with path, sentence, found 'file,words'" in error
