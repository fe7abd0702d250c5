"""A plain Whisper in the table of a benchmark: what it writes, its name, and what it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from blsp.audio import load_audio, save_audio
from blsp.cli import main
from blsp.generation import GenerationConfig
from blsp.hearing import Hearing, load_whisper, transcribe
from blsp.manifest import Meta, Utterance, read_manifest, write_rows
from tests.model.conftest import make_audio

LONG = GenerationConfig(max_new_tokens=224)


@pytest.fixture(scope="module")
def multilingual(whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights, told languages and tasks."""
    folder = tmp_path_factory.mktemp("many") / "whisper-many"
    shutil.copytree(whisper, folder)
    loaded, _ = load_whisper(whisper)
    made: Any = loaded.generation_config
    made.is_multilingual, made.no_timestamps_token_id = True, 12
    made.lang_to_id = {"<|en|>": 9, "<|de|>": 10}
    made.task_to_id = {"transcribe": 11, "translate": 13}
    made._from_model_config = False  # else the library makes another
    made.save_pretrained(folder)
    return folder


def bench(manifest: Path, out: Path, *words: str, task: str = "asr") -> int:
    return main(["bench", task, "--manifest", str(manifest), "--out", str(out), *words])


def answers(out: Path, name: str) -> dict[str, str]:
    lines = (out / "predictions" / f"{name}.jsonl").read_text().splitlines()
    return {row["id"]: row["prediction"] for row in map(json.loads, lines)}


def heard(folder: Path, manifest: Path, **hearing: Any) -> dict[str, str]:
    """What the Whisper of a folder writes on full padding."""
    rows = list(read_manifest(manifest))
    audios = [load_audio(one.audio, root=manifest.parent) for one in rows]
    told = Hearing(audio_padding="max", **hearing)
    texts = transcribe(*load_whisper(folder), audios, config=LONG, hearing=told)
    return dict(zip((one.id for one in rows), texts, strict=True))


def test_a_whisper_needs_no_checkpoint_and_no_table_but_its_own(
    whisper: Path, manifest: Path, tmp_path: Path
) -> None:
    assert bench(manifest, tmp_path, "--system", f"small=whisper:{whisper}") == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert {row["system"] for row in results["rows"]} == {"small", "random", "empty"}
    assert {row["metric"] for row in results["rows"]} == {"wer", "cer"}
    assert answers(tmp_path, "small") == heard(whisper, manifest)
    assert results["foreign"]["small"]["audio_padding"] == "max"
    assert "small" in (tmp_path / "table.md").read_text()
    assert "color" in (tmp_path / "normalizer.json").read_text()


def test_several_stand_side_by_side_by_the_names_of_their_folders(
    whisper: Path, multilingual: Path, manifest: Path, tmp_path: Path
) -> None:
    both = ["--system", f"a=whisper:{whisper}", "--system", f"whisper:{multilingual}"]
    assert bench(manifest, tmp_path, *both) == 0
    assert answers(tmp_path, "whisper-many") == heard(multilingual, manifest, language="en")
    results = json.loads((tmp_path / "results.json").read_text())
    assert {(one["first"], one["second"]) for one in results["comparisons"]} == {
        ("a", "whisper-many")
    }


def test_it_is_told_the_language_that_is_spoken(multilingual: Path, tmp_path: Path) -> None:
    save_audio(tmp_path / "b.wav", make_audio(9000, 5))
    spoken = Utterance(id="b", audio="b.wav", duration=0.5625, text="call ada")
    write_rows(tmp_path / "test.jsonl", [spoken], Meta(command="test"))
    call = ["--system", f"whisper:{multilingual}", "--language", "de"]
    assert bench(tmp_path / "test.jsonl", tmp_path / "out", *call) == 0
    german = heard(multilingual, tmp_path / "test.jsonl", language="de")
    assert answers(tmp_path / "out", "whisper-many") == german
    assert german != heard(multilingual, tmp_path / "test.jsonl", language="en")


def test_it_translates_into_english_and_into_nothing_else(
    multilingual: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {"en": "call", "fr": "appelle"}
    about = {"language": "de-DE", "text": "ruf an", "translation": made}
    rows = []
    for i in range(6):
        save_audio(tmp_path / f"{i}.wav", make_audio(8000, i))
        rows.append(Utterance(id=f"u{i}", audio=f"{i}.wav", duration=0.5, **about))
    write_rows(tmp_path / "test.jsonl", rows, Meta(command="test"))
    call = [tmp_path / "test.jsonl", tmp_path / "out", "--system", f"whisper:{multilingual}"]
    assert bench(*call, "--target", "en", task="st") == 0
    english = heard(multilingual, tmp_path / "test.jsonl", language="de", task="translate")
    assert answers(tmp_path / "out", "whisper-many") == english
    assert english != heard(multilingual, tmp_path / "test.jsonl", language="de")
    assert bench(*call, "--target", "fr", task="st") == 2
    assert "translation into English, found 'st-fr'" in capsys.readouterr().err


def test_what_it_has_written_is_not_asked_again_and_another_is_not_mixed_in(
    whisper: Path,
    multilingual: Path,
    manifest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert bench(manifest, tmp_path, "--system", f"one=whisper:{whisper}", "--limit", "2") == 0
    written = (tmp_path / "predictions" / "one.jsonl").read_bytes()
    assert bench(manifest, tmp_path, "--system", f"one=whisper:{whisper}", "--limit", "2") == 0
    assert (tmp_path / "predictions" / "one.jsonl").read_bytes() == written
    call = ["--system", f"one=whisper:{multilingual}", "--limit", "2"]
    assert bench(manifest, tmp_path, *call) == 2
    assert "the same system 'one', found it differ in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "words", "message"),
    [
        ("slu", ["--system", "whisper:{whisper}"], "asks for the words or for their translation"),
        ("asr", ["--system", "speech=whisper:{whisper}"], "a name of its own for each system"),
        ("asr", ["--system", "whisper:nowhere/there"], "expected a Whisper folder or hub id"),
        ("asr", ["--system", "a=whisper:{whisper}", "--systems", "speech"], "--system whisper:S"),
    ],
)
def test_what_it_cannot_be_asked_is_one_line(  # noqa: PLR0913
    task: str,
    words: list[str],
    message: str,
    whisper: Path,
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    told = [word.format(whisper=whisper) for word in words]
    assert bench(manifest, tmp_path, *told, task=task) == 2
    captured = capsys.readouterr().err
    assert message in captured and captured.count("\n") == 1


def test_a_whisper_of_english_hears_nothing_else(
    whisper: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_audio(tmp_path / "a.wav", make_audio(9000, 5))
    about = {"audio": "a.wav", "duration": 0.5625}
    rows = [
        Utterance(id="a", language="en", text="x", translation={"en": "x"}, **about),
        Utterance(id="b", language="de", text="x", **about),
    ]
    write_rows(tmp_path / "test.jsonl", rows, Meta(command="test"))
    call = [tmp_path / "test.jsonl", tmp_path / "out", "--system", f"w=whisper:{whisper}"]
    assert bench(*call) == 2
    assert "w, utterance 'b': expected a language that" in capsys.readouterr().err
    assert bench(*call, "--target", "en", task="st") == 2
    assert "expected a multilingual Whisper to translate" in capsys.readouterr().err
    assert not (tmp_path / "out" / "predictions" / "w.jsonl").exists()
