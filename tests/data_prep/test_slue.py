"""`blsp prep slue` on both sets as the toolkit's script unpacks them."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from blsp.manifest import Entity, find_root, read_manifest
from blsp.validation import validate
from tests.data_prep.conftest import run_prep, write_audio

SPEECH = "20131007-0900-PLENARY-19-en_20131007-21:26:04_7"
POPULI = "id\traw_text\tnormalized_text\tspeaker_id\tsplit\traw_ner\tnormalized_ner\n"
WORDS = (
    "this could be done by looking more specifically into the suggested fallback clause in article "
    'twenty one in cases of the "eu'
)
KNOWN = f"{SPEECH}\t\t{WORDS}\tNone\tfine-tune\t[]\t[['LAW', 86, 18]]\n"
CELEB = "\tindex\tid\tstart_second\tend_second\tnormalized_text\tspeaker_id\tsentiment\r\n"


def answer(name: str, sentiment: str, start: str = "1.25", end: str = "2.75") -> str:
    return f"0\t0\t{name}\t{start}\t{end}\ti was glad\tid10012\t{sentiment}\r\n"


def build(home: Path) -> Path:
    """A checkout of the toolkit after its script, with one split of each set."""
    celeb = home / "toolkit" / "data" / "slue-voxceleb"
    write_audio(celeb / "dev_raw" / "id10012_1.flac", seconds=4)
    table = CELEB + answer("id10012_1", "Positive") + answer("id10012_2", "Disagreement")
    (celeb / "slue-voxceleb_dev.tsv").write_bytes(table.encode())
    (celeb / "slue-voxceleb_test_blind.tsv").write_text("id\n")
    populi = home / "toolkit" / "data" / "slue-voxpopuli"
    (populi / "fine-tune").mkdir(parents=True)
    samples = np.random.default_rng(0).normal(0, 0.1, 32_000)
    soundfile.write(populi / "fine-tune" / f"{SPEECH}.ogg", samples, 16_000)
    (populi / "slue-voxpopuli_fine-tune.tsv").write_text(POPULI + KNOWN)
    return home / "toolkit"


def populi(root: Path) -> Path:
    return root / "data" / "slue-voxpopuli" / "slue-voxpopuli_fine-tune.tsv"


prepare = partial(run_prep, "slue")


def entities(root: Path, out: Path, cell: str, *options: str) -> tuple[Entity, ...]:
    populi(root).write_text(POPULI + KNOWN.replace("[['LAW', 86, 18]]", cell))
    assert prepare(root, out, "--splits", "voxpopuli-fine-tune", *options) == 0
    return next(read_manifest(out / "voxpopuli-fine-tune.jsonl")).entities


def test_an_answer_is_a_segment_of_its_interview_with_a_sentiment(
    root: Path, tmp_path: Path
) -> None:
    assert prepare(root, tmp_path) == 0
    names = sorted(path.name for path in tmp_path.glob("*.jsonl"))
    assert names == ["voxceleb-dev.jsonl", "voxpopuli-fine-tune.jsonl"]
    assert (tmp_path / "voxceleb-dev.jsonl").read_text() == (
        '{"id": "id10012_1", "audio": "slue-voxceleb/dev_raw/id10012_1.flac", "duration": 1.5, '
        '"text": "i was glad", "start": 1.25, "language": "en", "speaker": "id10012", '
        '"license": "CC-BY-4.0", "source": "SLUE VoxCeleb", "sentiment": "positive"}\n'
    )
    report = validate(tmp_path / "voxceleb-dev.jsonl")
    assert (report.rows, report.seconds, report.problems, report.warnings) == (1, 1.5, [], [])


def test_a_speech_has_entities_by_their_place_in_its_words(root: Path, tmp_path: Path) -> None:
    prepare(root / "data", tmp_path, "--splits", "voxpopuli-fine-tune")
    path = tmp_path / "voxpopuli-fine-tune.jsonl"
    assert json.loads(path.read_text()) == {
        "id": SPEECH,
        "audio": f"slue-voxpopuli/fine-tune/{SPEECH}.ogg",
        "duration": 2.0,
        "text": WORDS,
        "language": "en",
        "entities": [{"type": "LAW", "filler": "article twenty one"}],
        "license": "CC0-1.0",
        "source": "SLUE VoxPopuli",
    }
    assert validate(path).problems == []
    assert (find_root(path) / f"slue-voxpopuli/fine-tune/{SPEECH}.ogg").exists()


def test_tags_are_the_benchmarks_unless_raw_ones_are_asked_for(root: Path, tmp_path: Path) -> None:
    cell = "[['FAC', 0, 4], ['GPE', 5, 5], ['DATE', 0, 4]]"
    when, place = (Entity(type="WHEN", filler="this"), Entity(type="PLACE", filler="could"))
    assert entities(root, tmp_path / "combined", cell) == (when, place)
    raw = entities(root, tmp_path / "raw", cell, "--tags", "raw")
    assert [entity.type for entity in raw] == ["DATE", "FAC", "GPE"]


@pytest.mark.parametrize("cell", ["None", "[]", ""])
def test_a_speech_may_have_no_entity(root: Path, tmp_path: Path, cell: str) -> None:
    assert entities(root, tmp_path, cell) == ()


def test_places_count_from_the_first_character_though_it_be_a_space(
    root: Path, tmp_path: Path
) -> None:
    populi(root).write_text(POPULI + KNOWN.replace(WORDS, " in  france").replace("86, 18", "5, 6"))
    prepare(root, tmp_path, "--splits", "voxpopuli-fine-tune")
    (row,) = read_manifest(tmp_path / "voxpopuli-fine-tune.jsonl")
    assert (row.text, row.entities[0].filler) == ("in france", "france")


def test_what_cannot_be_used_is_counted(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = root / "data" / "slue-voxceleb" / "slue-voxceleb_dev.tsv"
    more = answer("gone", "Neutral") + answer("id10012_1", "Neutral", end="9").replace("0\t", "1\t")
    table.write_text(table.read_text() + more.replace("id10012_1\t", "late\t"))
    write_audio(table.parent / "dev_raw" / "late.flac", seconds=4)
    assert prepare(root, tmp_path, "--splits", "voxceleb-dev") == 0
    out = capsys.readouterr().out
    assert "voxceleb-dev.jsonl: 1 utterances" in out
    assert "  dropped 1: no sentiment that the raters agreed on\n" in out
    assert "  dropped 1: no audio file\n" in out
    assert "  dropped 1: a segment beyond the end of its audio\n" in out


@pytest.mark.parametrize("cell", ["LAW", "[['LAW', 86]]", "[['LAW', 86"])
def test_a_line_with_other_entities_is_named(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], cell: str
) -> None:
    populi(root).write_text(POPULI + KNOWN.replace("[['LAW', 86, 18]]", cell))
    assert prepare(root, tmp_path, "--splits", "voxpopuli-fine-tune") == 2
    error = capsys.readouterr().err
    assert f"{populi(root)}:2: expected [[tag, first character, length], ...] or None" in error
    assert error.count("\n") == 1


def test_a_line_without_seconds_is_named(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = root / "data" / "slue-voxceleb" / "slue-voxceleb_dev.tsv"
    table.write_text(CELEB + answer("a", "Positive", start="soon"))
    assert prepare(root, tmp_path, "--splits", "voxceleb-dev") == 2
    assert f"{table}:2: expected seconds, found: could not" in capsys.readouterr().err
