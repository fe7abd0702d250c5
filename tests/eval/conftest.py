"""A tiny random model that hears, and a manifest, for the benchmark programs."""

from pathlib import Path

import pytest
import torch
from transformers import WhisperTokenizer

from blsp.audio import save_audio
from blsp.manifest import Entity, Meta, Utterance, write_rows
from blsp.model import compose, save_checkpoint
from tests.model.conftest import make_audio, save_llm, save_whisper


@pytest.fixture(scope="session")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_whisper(tmp_path_factory.mktemp("whisper"), max_target_positions=32, init_std=0.5)
    words = {chr(97 + index): index + 4 for index in range(26)}
    special = {"<|pad|>": 0, "<|bos|>": 1, "<|endoftext|>": 2, "<|startoftranscript|>": 3}
    tokenizer = WhisperTokenizer(vocab=special | words, merges=[], pad_token="<|pad|>")
    tokenizer.save_pretrained(folder)
    (folder / "normalizer.json").write_text('{"colour": "color"}')
    return folder


@pytest.fixture(scope="session")
def checkpoint(whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(3)
    model, processor = compose(llm=save_llm(folder / "llm", "qwen3"), encoder=whisper)
    save_checkpoint(model, processor, folder / "checkpoint")
    return folder / "checkpoint"


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for i, text in enumerate(("call ada", "play music", "call bob")):
        save_audio(folder / f"{i}.wav", make_audio(8000 + 1600 * i, i))
        rows.append(
            Utterance(
                id=f"u{i}",
                audio=f"{i}.wav",
                duration=0.5 + i / 10,
                text=text,
                language="en",
                intent=text.split()[0],
                emotion=("sad", "happy", "sad")[i],
                entities=(Entity(type="name", filler=text.split()[1]),) if i else (),
                translation={"de": f"{text} bitte"},
                extra={"answers": {"who": text.split()[1]}}
                | {"golds": [text, "x"], "letter": "ABA"[i]},
            )
        )
    write_rows(folder / "test.jsonl", rows, Meta(command="test"))
    return folder / "test.jsonl"
