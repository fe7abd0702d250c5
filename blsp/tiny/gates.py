"""What the shipped tiny foundation models must reach, measured on unseen sentences and voices.

Everything is loaded the way any transformers user would load it. Speech of the test split is made
afresh by the same fresh worker as always; nothing of it was in training: sentences are disjoint by
hash, voices by timbre, rates and pitches by grid.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BatchEncoding,
    PreTrainedTokenizerBase,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)

from blsp.hardware import choose_cpu_dtype
from blsp.model.encoder import BlspWhisperEncoder
from blsp.tiny.llm import ask
from blsp.tiny.speech import make_sets, plan_emotions, plan_utterances
from blsp.tiny.store import SpeechStore, load_store, store_features
from blsp.tiny.voices import EMOTIONS, voices_of
from blsp.tiny.whisper import pool_rows, score_words, transcribe
from blsp.tiny.world import (
    Sentence,
    answer,
    instructions,
    kinds,
    sample_sentences,
    split_of,
)

TEST_SEED = 1
LIMIT_BYTES = 24_000_000


@dataclass(frozen=True)
class Gate:
    """One number and where it must lie."""

    name: str
    value: float
    bound: float
    at_most: bool = False
    n: int = 0

    @property
    def passed(self) -> bool:
        """Whether the number is on the right side of its bound."""
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def line(self) -> str:
        """``ok    name  value (>= bound, n = ...)``."""
        sign = "<=" if self.at_most else ">="
        mark = "ok  " if self.passed else "MISS"
        return f"{mark}  {self.name:<34} {self.value:>9.4f}  ({sign} {self.bound}, n = {self.n})"


def load_tiny_llm(weights: Path) -> tuple[Any, PreTrainedTokenizerBase]:
    """The shipped LLM as the commands hold it on a CPU, with its tokenizer."""
    folder = weights / "llm"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=choose_cpu_dtype())
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def load_tiny_whisper(weights: Path) -> tuple[WhisperForConditionalGeneration, WhisperProcessor]:
    """The shipped Whisper as the plain library class, held likewise, with its processor."""
    folder = weights / "whisper"
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=choose_cpu_dtype())
    return model.eval(), WhisperProcessor.from_pretrained(folder)


@torch.no_grad()
def generate_answers(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    users: list[str],
    *,
    batch: int = 200,
    max_new_tokens: int = 128,
) -> list[str]:
    """Greedy answers to one-turn chats, control tokens other than the end left visible."""
    order = sorted(range(len(users)), key=lambda index: len(users[index]))
    answers = [""] * len(users)
    tokenizer.padding_side = "left"
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        chats = [[{"role": "user", "content": users[index]}] for index in chosen]
        inputs = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        assert isinstance(inputs, BatchEncoding)
        out = model.generate(
            **inputs.to(model.device), max_new_tokens=max_new_tokens, do_sample=False
        )
        new = out[:, inputs["input_ids"].shape[1] :].tolist()
        for index, ids in zip(chosen, new, strict=True):
            answers[index] = str(tokenizer.decode(_up_to_end(ids, tokenizer)))
    return answers


def _up_to_end(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    end = tokenizer.eos_token_id
    return ids[: ids.index(end)] if end in ids else ids


def check_llm(weights: Path, *, count: int = 400) -> list[Gate]:
    """Exact match of every kind on unseen sentences, and control tokens inside answers."""
    model, tokenizer = load_tiny_llm(weights)
    sentences = sample_sentences(TEST_SEED, "test", count)
    gates, leaked, total = [], 0, 0
    for kind in kinds():
        rng = random.Random(f"gate {kind}")
        asked = [_question(rng, kind, sentence) for sentence in sentences]
        answers = generate_answers(model, tokenizer, [user for user, _ in asked])
        right = sum(given == wanted for given, (_, wanted) in zip(answers, asked, strict=True))
        leaked += sum("<|" in text for text in answers)
        total += len(answers)
        gates.append(Gate(f"llm exact {kind}", right / count, 0.99, n=count))
    gates.append(Gate("llm control tokens in answers", leaked, 0, at_most=True, n=total))
    return gates


def _question(rng: random.Random, kind: str, sentence: Sentence) -> tuple[str, str]:
    emotions = instructions()["emotions"]
    emotion = rng.choice(EMOTIONS) if kind == "emotion" else "neutral"
    wording = rng.choice(instructions()["kinds"][kind])
    hint = emotions[emotion]["hint"]
    user = ask(wording, sentence.text, hint=hint, first=rng.random() < 0.5)
    return user, answer(kind, sentence, emotion=emotion)


def make_test_speech(folder: Path, *, count: int = 400) -> dict[str, Path]:
    """Manifests of the test split: ``clean``, ``noisy`` (5 dB), and the emotion sets."""
    plans = {
        "test-clean": plan_utterances(TEST_SEED, "test", count),
        "test-noisy": plan_utterances(TEST_SEED, "test", count, snr_db=5.0),
        "train-emotion": plan_emotions(TEST_SEED, "train", 240),
        "test-emotion": plan_emotions(TEST_SEED, "test", 80),
    }
    return make_sets(plans, folder)


def check_whisper(weights: Path, speech: dict[str, Path]) -> list[Gate]:
    """WER on unseen sentences and unseen voices, padded to 30 s and at true length."""
    model, processor = load_tiny_whisper(weights)
    variable = variable_length(model)
    gates = []
    # Of the noisy set one padding: 30 s for each of 400 clips is minutes of computing.
    for name, padding, bound in (
        ("clean", "full", 0.05),
        ("clean", "true", 0.05),
        ("noisy", "true", 0.20),
    ):
        store = load_store(speech[f"test-{name}"])
        listener = model if padding == "full" else variable
        texts = transcribe(listener, processor.tokenizer, store_features(store), padding=padding)
        value = score_words([row["text"] for row in store.rows], texts)
        label = "30 s padding" if padding == "full" else "true length"
        shown = "clean" if name == "clean" else "at 5 dB"
        gates.append(
            Gate(f"whisper WER {shown}, {label}", value, bound, at_most=True, n=len(texts))
        )
    return gates


def variable_length(model: WhisperForConditionalGeneration) -> WhisperForConditionalGeneration:
    """A copy of ``model`` that shares its decoder and encodes true lengths."""
    other = WhisperForConditionalGeneration(model.config)
    other.load_state_dict(model.state_dict())
    encoder = BlspWhisperEncoder(model.config)
    encoder.load_state_dict(model.model.encoder.state_dict())
    other.model.encoder = encoder
    other.generation_config = model.generation_config
    nn.Module.to(other, model.dtype)
    return other.eval()


@torch.no_grad()
def pool_encoder(model: WhisperForConditionalGeneration, store: SpeechStore) -> Tensor:
    """Mean encoder row of every utterance, (N, D), each at its true length."""
    return pool_rows(variable_length(model).model.encoder, store_features(store))


def fit_probe(inputs: Tensor, labels: Tensor, classes: int) -> Callable[[Tensor], Tensor]:
    """A multinomial logistic regression; returns inputs (N, D) -> classes (N,)."""
    mean, deviation = inputs.mean(0), inputs.std(0) + 1e-6
    layer = torch.nn.Linear(inputs.shape[1], classes)
    torch.nn.init.zeros_(layer.weight)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")
    scaled = (inputs - mean) / deviation

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(layer(scaled), labels) + 1e-3 * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return lambda others: layer((others - mean) / deviation).argmax(-1)


def check_emotion(weights: Path, speech: dict[str, Path]) -> list[Gate]:
    """Emotion by a linear probe on the frozen encoder (unseen voices), and from the text alone."""
    model, _ = load_tiny_whisper(weights)
    stores = {split: load_store(speech[f"{split}-emotion"]) for split in ("train", "test")}
    labels = {
        split: torch.tensor([EMOTIONS.index(row["emotion"]) for row in store.rows])
        for split, store in stores.items()
    }
    heard = {split: pool_encoder(model, store) for split, store in stores.items()}
    read = {split: _bag_of_words(store) for split, store in stores.items()}
    gates = []
    for name, inputs, bound, at_most in (
        ("emotion, linear probe on encoder", heard, 0.90, False),
        ("emotion, probe on the text alone", read, 0.25, True),
    ):
        predict = fit_probe(inputs["train"], labels["train"], len(EMOTIONS))
        right = (predict(inputs["test"]) == labels["test"]).float().mean().item()
        gates.append(Gate(name, right, bound, at_most=at_most, n=len(labels["test"])))
    return gates


def _bag_of_words(store: SpeechStore) -> Tensor:
    size = 512
    rows = torch.zeros(len(store.rows), size)
    for index, row in enumerate(store.rows):
        for word in row["text"].split():
            rows[index, sum(map(ord, word)) * 31 % size] += 1
    return rows


def check_disjoint(speech: dict[str, Path], *, count: int = 400) -> list[Gate]:
    """Sentences and voices shared between training and test, of which there must be none."""
    sentences = [sentence.text for sentence in sample_sentences(TEST_SEED, "test", count)]
    shared = sum(split_of(text) != "test" for text in sentences)
    timbres = {split: {v.split("+")[1] for v in voices_of(split)} for split in ("train", "test")}
    spoken = {row["speaker"] for row in load_store(speech["test-clean"]).rows}
    voices = len(spoken & set(voices_of("train"))) + len(timbres["train"] & timbres["test"])
    return [
        Gate("test sentences not of the test hash", shared, 0, at_most=True, n=count),
        Gate("test voices also in training", voices, 0, at_most=True, n=len(spoken)),
    ]


def check_size(weights: Path) -> Gate:
    """Bytes of everything shipped in ``weights``."""
    files = [path for path in weights.rglob("*") if path.is_file()]
    total = sum(path.stat().st_size for path in files)
    return Gate("bytes of the shipped weights", total, LIMIT_BYTES, at_most=True, n=len(files))


def check_all(weights: Path, folder: Path, *, count: int = 400) -> list[Gate]:
    """Every gate, on so many sentences; speech of the test split is made in ``folder``."""
    speech = make_test_speech(folder, count=count)
    return [
        *check_disjoint(speech, count=count),
        check_size(weights),
        *check_llm(weights, count=count),
        *check_whisper(weights, speech),
        *check_emotion(weights, speech),
    ]
