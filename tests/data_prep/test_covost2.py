"""`blsp prep covost2` on tables as they are unpacked, over MP3 clips of Common Voice 4."""

from pathlib import Path

import pytest

from blsp.cli import main as run_blsp
from blsp.manifest import read_manifest, read_meta
from blsp.validation import validate
from tests.data_prep.conftest import encode

CLIENT = "d277a1f3904a" + "0" * 107 + "e8fe0e658"
HEADER = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent\n"
LINES = (
    f"{CLIENT}\tcommon_voice_en_18540003.mp3\tWhen water is scarce, avoid wasting it.\t2\t0\t\t\t\n"
    'c2\tcommon_voice_en_2.mp3\t\\"Who said so?\\"\t2\t0\tforties\tfemale\tus\n'
    "c2\tcommon_voice_en_3.mp3\tNobody translated this.\t2\t0\t\t\t\n"
    "c2\tcommon_voice_en_4.mp3\tThe file of this is gone.\t2\t0\t\t\t\n"
)
GERMAN = (
    "path\ttranslation\tsplit\n"
    "common_voice_en_2.mp3\t\\„Wer sagt das?\\“\ttrain_covost\n"
    "common_voice_en_18540003.mp3\tWenn Wasser knapp ist, verschwenden Sie es nicht.\ttest\n"
    "common_voice_en_4.mp3\tDiese Datei ist fort.\ttest\n"
    "common_voice_en_5.mp3\tDas kennt Common Voice nicht.\ttest\n"
    "common_voice_en_6.mp3\t\ttest\n"
)


def build(home: Path) -> Path:
    """Common Voice 4 in one language; beside it, the translations into one other."""
    english = home / "cv4" / "en"
    (english / "clips").mkdir(parents=True)
    (english / "validated.tsv").write_text(HEADER + LINES)
    for number in (18540003, 2, 3):
        (english / "clips" / f"common_voice_en_{number}.mp3").write_bytes(
            encode("MP3", 1.5, 48_000)
        )
    folder = home / "covost"
    folder.mkdir()
    (folder / "covost_v2.en_de.tsv").write_text(GERMAN, encoding="utf-8")
    (folder / "covost_v2.en_de.dev.tsv").write_text("path\tsentence\ttranslation\tclient_id\n")
    return home / "cv4"


@pytest.fixture
def covost(corpus: Path) -> Path:
    """The translations."""
    return corpus.parent / "covost"


def prepare(root: Path, covost: Path, out: Path, *options: str) -> int:
    words = ["prep", "covost2", str(root), "--covost", str(covost), "--out", str(out)]
    return run_blsp([*words, *options])


def test_a_clip_and_its_translation_become_a_row(
    corpus: Path, covost: Path, tmp_path: Path
) -> None:
    assert prepare(corpus, covost, tmp_path / "out", "--splits", "test") == 0
    path = tmp_path / "out" / "test.jsonl"
    assert path.read_text() == (
        '{"id": "common_voice_en_18540003", "audio": "en/clips/common_voice_en_18540003.mp3", '
        '"duration": 1.5, "text": "When water is scarce, avoid wasting it.", "language": "en", '
        f'"speaker": "{CLIENT}", "translation": {{"de": "Wenn Wasser knapp ist, verschwenden Sie '
        'es nicht."}, "license": "CC0-1.0", "source": "CoVoST 2"}\n'
    )
    report = validate(path)
    assert (report.rows, report.problems, report.warnings) == (1, [], [])


def test_training_takes_what_was_added_to_it_and_marks_are_unescaped(
    corpus: Path, covost: Path, tmp_path: Path
) -> None:
    assert prepare(corpus, covost, tmp_path / "out", "--splits", "train") == 0
    (row,) = read_manifest(tmp_path / "out" / "train.jsonl")
    assert (row.text, row.translation) == ('"Who said so?"', {"de": "„Wer sagt das?“"})
    assert row.extra == {"age": "forties", "gender": "female", "accent": "us"}


def test_what_cannot_be_used_is_counted(corpus: Path, covost: Path, tmp_path: Path) -> None:
    prepare(corpus, covost, tmp_path / "out", "--splits", "test")
    meta = read_meta(tmp_path / "out" / "test.jsonl")
    assert meta is not None
    assert meta.counts == {
        "written": 1,
        "no translation": 1,
        "not in validated.tsv (is it Common Voice 4?)": 1,
        "no audio file": 1,
    }


def test_a_country_is_no_part_of_a_language(corpus: Path, covost: Path, tmp_path: Path) -> None:
    chinese = GERMAN.replace("train_covost", "train")
    (covost / "covost_v2.en_zh-CN.tsv").write_text(chinese, encoding="utf-8")
    prepare(corpus, covost, tmp_path / "out", "--pair", "en_zh-CN", "--splits", "train")
    assert set(next(read_manifest(tmp_path / "out" / "train.jsonl")).translation) == {"zh"}


def test_another_pair_does_not_replace_the_first(
    corpus: Path, covost: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (covost / "covost_v2.en_ca.tsv").write_text(GERMAN, encoding="utf-8")
    prepare(corpus, covost, tmp_path / "out", "--splits", "test", "--pair", "en_de")
    assert prepare(corpus, covost, tmp_path / "out", "--splits", "test", "--pair", "en_ca") == 2
    assert "delete it or choose another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ("covost_v2.en_ca.tsv", [], "--pair: expected one of the 2 in"),
        ("covost_v2.en_ca.tsv", ["--pair", "en_dd"], "found 'en_dd'; did you mean 'en_de'?"),
        ("covost_v2.fr_en.tsv", ["--pair", "fr_en"], "fr: expected validated.tsv of Common Voice"),
    ],
)
def test_what_a_user_can_get_wrong_is_one_line(
    corpus: Path,
    covost: Path,
    capsys: pytest.CaptureFixture[str],
    table: str,
    options: list[str],
    message: str,
) -> None:
    (covost / table).write_text(GERMAN, encoding="utf-8")
    assert prepare(corpus, covost, corpus.parent / "out", *options) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_translations_says_how_to_name_one(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_blsp(["prep", "covost2", str(corpus), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "expected covost_v2.<from>_<to>.tsv in it, found none" in error
    assert "--covost DIR" in error
