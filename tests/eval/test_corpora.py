"""What the programs ask of known corpora: names and labels are those that `blsp prep` writes."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from blsp.cli import main
from blsp.manifest import Entity, Meta, Utterance, write_rows
from blsp.official import Corpora, Corpus, load_corpora
from blsp.shipped import list_programs
from blsp.tasks import Task
from data_prep import esd, iemocap, meld, minds14, mls, ravdess, slue, wenetspeech

EVERY = [
    pytest.param(program.name, name, corpus, id=f"{program.name}-{name}")
    for program in fields(Corpora)
    for name, corpus in load_corpora(program.name).items()
]
INTENTS = {
    "train": ("alarm_set", "music_query"),
    "devel": ("list_add",),
    "test": ("alarm_set",) * 2,
}


@pytest.mark.parametrize(("program", "name", "corpus"), EVERY)
def test_what_is_asked_of_a_corpus_can_be_asked(program: str, name: str, corpus: Corpus) -> None:
    assert program in list_programs("eval")
    assert (corpus.prep or name) in list_programs("data_prep")
    assert corpus.tests
    Task(  # refuses what is no metric, no prompt, or does not go together
        name=name,
        prompts=(corpus.instruction,),
        reference="x",
        metrics=corpus.metrics or ("wer",),
        labels=corpus.labels or ("a", "b"),
    )


def test_labels_are_the_words_of_the_preparation() -> None:
    ser, slu = load_corpora("ser"), load_corpora("slu")
    assert set(ser["iemocap"].labels) == set(iemocap.CLASSES["four"].values())
    assert set(ser["meld"].labels) == set(meld.EMOTIONS.values())
    assert set(ser["esd"].labels) == set(esd.EMOTIONS.values())
    assert set(ser["ravdess"].labels) == {ravdess.OURS.get(one, one) for one in ravdess.THEIRS}
    assert set(slu["slue_sentiment"].labels) == {one.lower() for one in slue.SENTIMENTS}
    assert set(slu["slue_ner"].types) == set(slue.COMBINED)
    assert len(slu["minds14"].labels) == 14 and len(slu["snips"].labels) == 6


def test_tests_are_the_splits_of_the_preparation() -> None:
    """Of the programs whose corpus in miniature has none; `test_conformance.py` has the others."""
    asr, slu = load_corpora("asr"), load_corpora("slu")
    assert set(asr["mls"].tests) == {"test"} <= set(mls.SPLITS)
    assert {"DEV", *asr["wenetspeech"].tests} == set(wenetspeech.TESTS)
    assert slu["minds14"].tests == ("*-test",) and "test" in minds14.PARTS
    told = {f"{name}-{split}" for name in ("voxceleb", "voxpopuli") for split in slue.SPLITS}
    assert {*slu["slue_sentiment"].tests, *slu["slue_ner"].tests} < told


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """SLURP as its preparation writes it, but for the recordings."""
    for split, intents in INTENTS.items():
        rows = [
            utterance(f"{split}{i}", intent=intent, entities=(Entity(type=split, filler="x"),))
            for i, intent in enumerate(intents)
        ]
        write_rows(tmp_path / "data" / "slurp" / f"{split}.jsonl", rows, Meta(command="prep"))
    return tmp_path / "data" / "slurp"


def utterance(identity: str, **changes: Any) -> Utterance:
    about = {"audio": "a.wav", "duration": 1.0, "text": "x", "language": "en"}
    return Utterance(id=identity, **(about | changes))


def bench(folder: Path, *words: str) -> int:
    return main(["bench", *words, "--systems", "empty", "--out", str(folder / "out")])


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "results.json").read_text())


def test_a_corpus_brings_its_test_labels_metrics_and_instruction(
    data: Path, tmp_path: Path
) -> None:
    assert bench(tmp_path, "slu", "--corpus", "slurp", "--data", str(data), "--limit", "1") == 0
    found = results(tmp_path)
    (task,) = found["tasks"]
    assert task["labels"] == ["alarm_set", "list_add", "music_query"]  # one of them is asked about
    assert "nothing else: alarm_set, list_add, music_query\n{audio}" in task["prompts"][0]
    assert task["metrics"] == ["accuracy", "invalid_rate"]
    assert [(one["manifest"], one["n"]) for one in found["sets"]] == [(str(data / "test.jsonl"), 1)]
    assert "--corpus slurp" in found["command"]


def test_a_corpus_lies_where_the_preparation_is_told_to_write_it_in_the_guides(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bench(tmp_path, "slu", "--corpus", "slurp", "--slots") == 0
    (task,) = results(tmp_path)["tasks"]
    assert task["metrics"][:2] == ["intent_accuracy", "slurp_f1"]
    assert (
        "Intents: alarm_set, list_add, music_query\nTypes: devel, test, train" in task["prompts"][0]
    )


def test_every_part_can_be_overridden(data: Path, tmp_path: Path) -> None:
    call = ["slu", "--corpus", "slurp", "--data", str(data)]
    call += ["--manifest", f"mine={data / 'devel.jsonl'}", "--labels", "list_add,stop"]
    assert bench(tmp_path, *call, "--instruction", "Which of {labels}?\n{audio}") == 0
    (task,) = results(tmp_path)["tasks"]
    assert task["labels"] == ["list_add", "stop"]
    assert task["prompts"] == ["Which of list_add, stop?\n{audio}"]
    assert [one["condition"] for one in results(tmp_path)["sets"]] == ["mine"]


def test_sentiment_and_entities_of_slue_are_asked_for_by_the_same_program(tmp_path: Path) -> None:
    rows = [utterance(f"u{i}", extra={"sentiment": "neutral"}) for i in range(2)]
    write_rows(tmp_path / "voxceleb-test.jsonl", rows, Meta(command="prep"))
    rows = [utterance("u", entities=(Entity(type="LAW", filler="x"),))]
    write_rows(tmp_path / "voxpopuli-test.jsonl", rows, Meta(command="prep"))
    where = ["--data", str(tmp_path)]
    assert bench(tmp_path / "a", "slu", "--corpus", "slue_sentiment", *where) == 0
    (task,) = results(tmp_path / "a")["tasks"]
    assert (task["reference"], task["metrics"][0]) == ("sentiment", "macro_f1")
    assert task["labels"] == ["negative", "neutral", "positive"]
    assert task["prompts"][0].startswith("What is the sentiment")
    assert bench(tmp_path / "b", "slu", "--corpus", "slue_ner", *where) == 0
    (task,) = results(tmp_path / "b")["tasks"]
    assert (task["reference"], task["metrics"][0]) == ("entities", "ner_f1")
    assert "Types: WHEN, QUANT, PLACE, NORP, ORG, LAW, PERSON\n" in task["prompts"][0]


def test_all_official_tests_that_are_there_are_conditions(whisper: Path, tmp_path: Path) -> None:
    for split in ("test-clean", "test-other", "dev-clean"):
        write_rows(tmp_path / f"{split}.jsonl", [utterance(split)], Meta(command="prep"))
    call = ["asr", "--corpus", "librispeech", "--data", str(tmp_path), "--whisper", str(whisper)]
    assert bench(tmp_path, *call) == 0
    found = [one["condition"] for one in results(tmp_path)["sets"]]
    assert found == ["test-clean", "test-other"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--corpus", "slrup"],
            "--corpus: expected one of slurp, fluent_speech_commands, snips, m",
        ),
        (["--corpus", "slue_ner", "--data", "x"], "or write it: blsp prep slue ROOT --out x"),
        (["--data", "x"], "--data: expected --corpus NAME with it"),
        ([], "expected --manifest FILE or --corpus NAME, found none"),
    ],
)
def test_a_corpus_that_cannot_be_asked_is_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(tmp_path, "slu", *words) == 2
    captured = capsys.readouterr().err
    assert message in captured and captured.count("\n") == 1
