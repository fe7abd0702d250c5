"""A tiny random model and a few hummed conversations, for the tests of training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from model.conftest import save_llm, save_whisper

from blsp.audio import load_audio
from blsp.dataset import ConversationDataset, DataConfig, Demands
from blsp.manifest import AudioPart, Conversation, Message, Meta, TextPart, write_rows
from blsp.model import BlspForConditionalGeneration, BlspProcessor, compose
from blsp.model.configuration import AdapterConfig
from blsp.model.processing import Features
from blsp.rendering import Renderer

WORDS = ("red", "green", "blue", "cyan", "gold", "pink", "grey", "lime")
ADAPTER = AdapterConfig(kind="stack", stack_factor=8, hidden_size=64)
CFORMER = AdapterConfig(kind="cformer", pre_layers=1, post_layers=1)
EMOTIONS = ("happy", "sad")


def save_models(folder: Path) -> tuple[Path, Path]:
    """A language model and a Whisper, random."""
    llm = save_llm(folder / "llm", "qwen3", tie_word_embeddings=False)
    return llm, save_whisper(folder / "whisper")


def build_model(
    folder: Path, adapter: AdapterConfig = ADAPTER, **options: Any
) -> tuple[BlspForConditionalGeneration, BlspProcessor]:
    """The two of `save_models` with an adapter, the same every time."""
    torch.manual_seed(3)
    return compose(llm=folder / "llm", encoder=folder / "whisper", adapter=adapter, **options)


def write_conversations(folder: Path, words: tuple[str, ...] = WORDS) -> Path:
    """One hum and one question a word; the hum's pitch is the word's alone. Of three in a row one
    is happy, one sad, and of one nobody knows."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, word in enumerate(words):
        seconds = 0.4 + 0.05 * i
        time = np.arange(round(seconds * 16_000)) / 16_000
        hum = 0.3 * np.sin(2 * np.pi * 200 * 1.4**i * time)
        soundfile.write(folder / f"{word}.wav", hum.astype(np.float32), 16_000)
        emotion = (*EMOTIONS, None)[i % 3]
        part = AudioPart(audio=f"{word}.wav", duration=seconds, transcript=word, emotion=emotion)
        question = Message(role="user", content=(TextPart(text="Say:\n"), part))
        response = Message(role="assistant", content=(TextPart(text=word[::-1]),))
        rows.append(Conversation(id=word, messages=(question, response)))
    path = folder / "conversations.jsonl"
    write_rows(path, rows, Meta(command="test"))
    return path


def build_dataset(
    path: Path, processor: BlspProcessor, demands: Demands | None = None, **options: Any
) -> ConversationDataset:
    """The conversations as the model takes them."""
    renderer = Renderer(processor.tokenizer, audio_token_id=processor.audio_token_id)

    def load_features(part: AudioPart, root: Path) -> Features:
        samples = load_audio(part.audio, start=part.start, duration=part.duration, root=root)
        return processor.extract_features(samples)

    config = DataConfig(conversations=(path,), foreign=True, **options)
    return ConversationDataset(
        config,
        renderer,
        load_features,
        lambda frames: processor.num_speech_tokens(frames * 160),
        demands=demands,
    )


def demands_of(model: BlspForConditionalGeneration) -> Demands:
    """What a model asks of its data."""
    emotions = tuple(model.config.emotions or ())
    return Demands(decides_length=model.config.adapter.decides_length, emotions=emotions)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's log."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
