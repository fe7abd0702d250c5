"""`blsp generate`: a line for each recording, whatever happens to one of them."""

import json
from pathlib import Path

import pytest
import torch

from blsp import predictions
from blsp.audio import save_audio
from blsp.cli import main
from blsp.manifest import Meta, Utterance, read_meta, write_rows
from blsp.model import compose, save_checkpoint
from tests.model.conftest import make_audio, save_llm, save_whisper

LENGTHS = {"a": 9_000, "b": 24_000, "c": 4_000}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    llm = save_llm(folder / "llm", "qwen3", tie_word_embeddings=False)
    torch.manual_seed(3)
    pair = compose(llm=llm, encoder=save_whisper(folder / "whisper"))
    save_checkpoint(*pair, folder / "checkpoint")
    return folder / "checkpoint"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = []
    for seed, (name, samples) in enumerate(LENGTHS.items()):
        save_audio(tmp_path / f"{name}.wav", make_audio(samples, seed=seed))
        words = f"words of {name}"
        rows.append(Utterance(id=name, audio=f"{name}.wav", duration=samples / 16_000, text=words))
    write_rows(tmp_path / "m.jsonl", rows, Meta(command="test"))
    return tmp_path / "m.jsonl"


def run(checkpoint: Path, *arguments: str | Path) -> int:
    words = ["generate", str(checkpoint), *map(str, arguments)]
    return main([*words, "--instruction", "Repeat this", "--max-new-tokens", "8"])


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_manifest_becomes_predictions_in_its_order(
    checkpoint: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = manifest.parent / "p.jsonl"
    assert run(checkpoint, manifest, "--out", out, "--batch-size", "2") == 0
    rows = read(out)
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert rows[0]["transcript"] == "words of a"
    assert all(row["finish_reason"] in ("stop", "length") for row in rows)
    meta = read_meta(out)
    assert meta is not None and meta.prompt == "Repeat this"
    assert not (manifest.parent / "p.jsonl.journal").exists()
    capsys.readouterr()
    files = [manifest.parent / f"{name}.wav" for name in LENGTHS]
    assert run(checkpoint, *files) == 0
    printed = [line.partition("\t")[2] for line in capsys.readouterr().out.splitlines()]
    assert printed == [row["prediction"] for row in rows]


def test_an_interrupted_run_goes_on_with_what_is_missing(
    checkpoint: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = manifest.parent / "p.jsonl", manifest.parent / "whole.jsonl"
    sizes = ("--batch-size", "1")
    assert run(checkpoint, manifest, "--out", whole, *sizes) == 0
    real, asked = predictions.Listener.answer, []

    def stop_at_the_second(self: predictions.Listener, recordings: list) -> list[dict]:
        asked.append(recordings[0].id)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(self, recordings)

    monkeypatch.setattr(predictions.Listener, "answer", stop_at_the_second)
    assert run(checkpoint, manifest, "--out", out, *sizes) == 130
    assert not out.exists()
    assert run(checkpoint, manifest, "--out", out, *sizes) == 0
    assert asked == ["b", "a", "a", "c"]  # the longest first; what was under way is done again
    assert read(out) == read(whole)
    assert run(checkpoint, manifest, "--out", out, *sizes) == 0
    assert len(asked) == 4


def test_an_unreadable_recording_has_a_line_that_says_why(
    checkpoint: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (manifest.parent / "b.wav").write_bytes(b"no sound")
    out = manifest.parent / "p.jsonl"
    assert run(checkpoint, manifest, "--out", out) == 1
    rows = {row["id"]: row for row in read(out)}
    assert (rows["b"]["prediction"], rows["b"]["finish_reason"]) == ("", None)
    assert "b.wav" in rows["b"]["error"] and "error" not in rows["a"]
    assert "b.wav" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["m.jsonl", "a.wav"], "expected one manifest or sound files"),
        (["a.wav", "a.wav"], "every sound file once"),
        (["nowhere.jsonl"], "check the path"),
    ],
)
def test_sources_that_do_not_go_together_are_refused(
    manifest: Path, sources: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [manifest.parent / name for name in sources]
    assert run(manifest.parent, *paths) == 2
    assert message in capsys.readouterr().err


def test_a_checkpoint_that_is_not_there_is_refused(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(manifest.parent / "none", manifest) == 2
    assert "expected a checkpoint folder, found none" in capsys.readouterr().err
