"""`blsp prep fleurs` on tables of both ages, in every layout, with WAV files."""

from functools import partial
from pathlib import Path

import pytest

from blsp.manifest import read_manifest, read_meta
from blsp.validation import validate
from tests.data_prep.conftest import encode, run_prep

AFRIKAANS = (
    "91\t17797742076841560615.wav\tDit is nog nie huidiglik bekend nie.\t"
    "dit is nog nie huidiglik bekend nie\td i t | i s |\t24000\tMALE\n"
    "91\t2.wav\tDit is nog nie huidiglik bekend nie.\tdit is nog nie\td i t |\t24000\tFEMALE\n"
    "7\t3.wav\tNiemand het dit vertaal nie.\tniemand\tn |\t24000\tOTHER\n"
    "92\t4.wav\tDie lêer is weg.\tdie lêer is weg\td i e |\t24000\tMALE\n"
    "93\t5.wav\tTe min\n"
)
GERMAN = (
    "92\t9.wav\tDie Datei ist fort.\tdie datei ist fort\td i e |\t16000\t3\tFEMALE\n"
    "91\t10.wav\tMan weiß es noch nicht.\tman weiß es noch nicht\tm a n |\t16000\t4\tMALE\n"
    "91\t11.wav\tMan weiß es noch nicht!\tman weiß es noch nicht\tm a n |\t16000\t5\tMALE\n"
)


def add_language(tables: Path, audio: Path, text: str) -> None:
    """One split of a language; file 4 is missing."""
    tables.mkdir(parents=True, exist_ok=True)
    audio.mkdir(parents=True, exist_ok=True)
    (tables / "test.tsv").write_text(text, encoding="utf-8")
    for line in text.splitlines():
        if (name := line.split("\t")[1]) != "4.wav":
            (audio / name).write_bytes(encode("WAV", 1.5))


def build(home: Path) -> Path:
    """Two languages as in the repository on the hub."""
    root = home / "fleurs"
    for name, text in (("af_za", AFRIKAANS), ("de_de", GERMAN)):
        language = root / "data" / name
        add_language(language, language / "audio" / "test", text)
    return root


prepare = partial(run_prep, "fleurs")


def test_a_recording_becomes_a_row_with_its_translation(corpus: Path, tmp_path: Path) -> None:
    options = ("--language", "af_za", "--translate-to", "de_de")
    assert prepare(corpus, tmp_path / "out", *options) == 0
    path = tmp_path / "out" / "test.jsonl"
    assert path.read_text(encoding="utf-8").partition("\n")[0] == (
        '{"id": "17797742076841560615", '
        '"audio": "data/af_za/audio/test/17797742076841560615.wav", "duration": 1.5, '
        '"text": "Dit is nog nie huidiglik bekend nie.", "language": "af", '
        '"translation": {"de": "Man weiß es noch nicht."}, "license": "CC-BY-4.0", '
        '"source": "FLEURS", "flores_id": "91", "gender": "male"}'
    )
    report = validate(path)
    assert (report.rows, report.problems, report.warnings) == (2, [], [])


def test_what_cannot_be_used_is_counted(corpus: Path, tmp_path: Path) -> None:
    prepare(corpus, tmp_path / "out", "--language", "af_za", "--translate-to", "de_de")
    meta = read_meta(tmp_path / "out" / "test.jsonl")
    assert meta is not None
    assert meta.counts == {
        "written": 2,
        "no sentence in de": 1,
        "a line without 7 or 8 cells": 1,
        "no audio file": 1,
    }


def test_without_translations_every_sentence_is_kept_and_early_tables_name_speakers(
    corpus: Path, tmp_path: Path
) -> None:
    prepare(corpus, tmp_path / "out", "--language", "de_de")
    rows = list(read_manifest(tmp_path / "out" / "test.jsonl"))
    assert [(row.id, row.speaker) for row in rows] == [("9", "3"), ("10", "4"), ("11", "5")]
    assert rows[0].translation == {}


@pytest.mark.parametrize(
    ("tables", "audio"),
    [
        ("cmn_hans_cn", "cmn_hans_cn/audio/test"),
        ("data/cmn_hans_cn", "data/cmn_hans_cn/test"),
        ("fleurs/metadata/cmn_hans_cn", "fleurs/cmn_hans_cn/test"),
    ],
    ids=["bucket", "hub", "lhotse"],
)
def test_every_layout_is_found(tmp_path: Path, tables: str, audio: str) -> None:
    root = tmp_path / "root"
    add_language(root / tables, root / audio, GERMAN)
    assert prepare(root, tmp_path / "out") == 0
    row = next(read_manifest(tmp_path / "out" / "test.jsonl"))
    assert (row.language, row.audio) == ("zh", f"{audio}/9.wav".removeprefix("fleurs/"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--language: expected one of the 2 in"),
        (["--language", "de_at"], "found 'de_at'; did you mean 'de_de'?"),
        (
            ["--language", "af_za", "--translate-to", "de_dd"],
            "--translate-to: expected a language in",
        ),
    ],
)
def test_what_a_user_can_get_wrong_is_one_line(
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    assert prepare(corpus, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err
