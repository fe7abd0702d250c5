"""Alignment meters as a program: what it writes, and that its numbers are those of training."""

import json
from pathlib import Path

import pytest
import torch
from training import CFORMER, WORDS, build_model, save_models, write_conversations

from blsp.cli import main
from blsp.errors import InputError
from blsp.meters import retrieval
from blsp.model import save_checkpoint
from blsp.model.configuration import AdapterConfig
from eval.meters import main as run_meters


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("meters")
    save_models(folder)
    write_conversations(folder / "data")
    return folder


def save(folder: Path, name: str, adapter: AdapterConfig) -> Path:
    model, processor = build_model(folder, adapter)
    save_checkpoint(model, processor, folder / name)
    return folder / name


@pytest.mark.parametrize("kind", ["conv", "cformer"])
def test_everything_that_was_metered_is_written(
    kind: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = CFORMER if kind == "cformer" else AdapterConfig(kind="conv")
    checkpoint, out = save(folder, kind, adapter), folder / f"out-{kind}"
    conversations = folder / "data" / "conversations.jsonl"
    call = ["bench", "meters", str(checkpoint), "--conversations", str(conversations)]
    assert main([*call, "--out", str(out), "--batch-size", "3"]) == 0
    result = json.loads((out / "meters.json").read_text())
    assert result["conversations"] == len(WORDS)
    speech, floor, ceiling = (result["conditions"][n] for n in ("speech", "floor", "ceiling"))
    assert speech["tokens"] == floor["tokens"] == sum(r["tokens"] for r in speech["by_position"])
    assert ceiling["kl"] == pytest.approx(0, abs=1e-6) and speech["kl"] > 0
    assert len(result["similarity_by_layer"]["speech"]) == 3  # two layers and the embeddings
    assert result["retrieval"]["transcripts"] == len(WORDS)
    assert result["retrieval"]["chance"] == 1 / len(WORDS)
    page = (out / "meters.html").read_text()
    assert page.count("<svg") == 3 and "blsp bench meters" in page
    assert "own transcript found" in capsys.readouterr().out


def test_the_numbers_do_not_depend_on_the_batch(folder: Path) -> None:
    checkpoint = save(folder, "batch", AdapterConfig(kind="conv"))
    conversations = str(folder / "data" / "conversations.jsonl")
    found = []
    for size in ("1", "8"):
        out = folder / f"out-batch-{size}"
        arguments = ["--conversations", conversations, "--out", str(out), "--batch-size", size]
        assert run_meters([str(checkpoint), *arguments]) == 0
        found.append(json.loads((out / "meters.json").read_text()))
    for key in ("kl", "agreement"):
        one, eight = (each["conditions"]["speech"][key] for each in found)
        assert one == pytest.approx(eight, rel=1e-4)
    assert found[0]["retrieval"] == found[1]["retrieval"]


def test_conversations_without_recordings_are_one_line(folder: Path, tmp_path: Path) -> None:
    checkpoint = save(folder, "text", AdapterConfig(kind="conv"))
    messages = [{"role": role, "content": "Hi"} for role in ("user", "assistant")]
    row = {"id": "a", "messages": messages}
    (tmp_path / "text.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match="expected conversations with recordings, found none"):
        run_meters([str(checkpoint), "--conversations", str(tmp_path / "text.jsonl")])


# --- retrieval ------------------------------------------------------------------------------------


def test_every_recording_finds_its_own_words_where_states_are_equal() -> None:
    states = torch.eye(4)
    assert retrieval(states, states, ["a", "b", "c", "d"]) == 1.0


def test_who_is_nearest_to_anothers_words_is_wrong() -> None:
    heard = torch.eye(4)[[0, 2, 2, 3]]
    assert retrieval(heard, torch.eye(4), ["a", "b", "c", "d"]) == 0.75


def test_utterances_of_the_same_words_are_one_candidate() -> None:
    """The third says what the first says; the state of its own words is not asked."""
    read = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    heard = torch.tensor([[1.0, 0.1], [0.1, 1.0], [1.0, 0.2]])
    assert retrieval(heard, read, ["a", "b", "a"]) == 1.0


def test_length_does_not_count() -> None:
    heard = torch.tensor([[0.1, 0.0], [0.0, 9.0]])
    assert retrieval(heard, torch.tensor([[7.0, 1.0], [0.0, 0.2]]), ["a", "b"]) == 1.0
