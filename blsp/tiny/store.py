"""A manifest of the speech world as training data: features, frame labels, batches.

Features of all utterances lie in one array on disk, made once; what eSpeak said about timing
becomes a phoneme and a word for every encoder row.
"""

import itertools
import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperFeatureExtractor, WhisperTokenizer

from blsp.audio import load_audio
from blsp.files import atomic_path
from blsp.tiny.mel import augment, compute_mel_power, mask_some, normalize_mel
from blsp.tiny.voices import EMOTIONS
from blsp.tiny.world import english_words


@dataclass
class SpeechStore:
    """All log-mel powers of a manifest in one array, with frame labels."""

    rows: list[dict]
    mel: np.ndarray
    """(total frames, 80) float16, log10 of the mel power."""
    offsets: np.ndarray
    """(utterances + 1,) first frame of each."""
    phonemes: np.ndarray
    """(total frames // 2 rounded up per utterance,) class at each encoder row; 0 is silence."""
    words: np.ndarray
    row_offsets: np.ndarray
    power: np.ndarray
    """(utterances,) mean square of the samples."""

    def frames(self, index: int) -> int:
        return int(self.offsets[index + 1] - self.offsets[index])


def load_store(manifest: Path, *, phoneme_ids: dict[str, int] | None = None) -> SpeechStore:
    """Read a manifest of the speech world; features are computed once and kept beside it."""
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    cache = manifest.with_suffix(".mel.npy")
    lengths = [-(-round(row["duration"] * 16_000) // 160) for row in rows]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    power_file = manifest.with_suffix(".power.npy")
    made = power_file.stat().st_mtime_ns if power_file.exists() else 0
    if made < manifest.stat().st_mtime_ns:  # none, or of earlier speech
        _write_features(rows, manifest.parent, cache, power_file, offsets)
    mel = np.lib.format.open_memmap(cache, mode="r")
    row_lengths = [(length - 1) // 2 + 1 for length in lengths]
    row_offsets = np.concatenate([[0], np.cumsum(row_lengths)])
    phonemes, words = _frame_labels(manifest, rows, row_lengths, phoneme_ids or {})
    return SpeechStore(rows, mel, offsets, phonemes, words, row_offsets, np.load(power_file))


def _write_features(
    rows: list[dict], root: Path, cache: Path, power_file: Path, offsets: np.ndarray
) -> None:
    extractor = WhisperFeatureExtractor()
    mel = np.lib.format.open_memmap(
        cache, mode="w+", dtype=np.float16, shape=(int(offsets[-1]), 80)
    )
    power = np.zeros(len(rows), np.float32)
    for index, row in enumerate(rows):
        audio = load_audio(row["audio"], root=root, expected_seconds=row["duration"])
        mel[offsets[index] : offsets[index + 1]] = compute_mel_power(audio, extractor).numpy()
        power[index] = np.mean(audio**2)
    mel.flush()
    # Written last: its presence says that the features are whole.
    with atomic_path(power_file) as temporary, temporary.open("wb") as file:
        np.save(file, power)


def phoneme_table(manifest: Path) -> dict[str, int]:
    """Phoneme -> class, with stress and length marks dropped; class 0 is silence."""
    lines = manifest.with_name(f"{manifest.stem}.timing.jsonl").read_text("utf-8").splitlines()
    found = {_plain(symbol) for line in lines for symbol, _ in json.loads(line)["phonemes"]}
    return {symbol: index for index, symbol in enumerate(["_", *sorted(found - {"_"})])}


def _plain(symbol: str) -> str:
    return symbol.strip("',=;%").split(":")[0] or "_"


def _frame_labels(
    manifest: Path, rows: list[dict], row_lengths: list[int], phoneme_ids: dict[str, int]
) -> tuple[np.ndarray, np.ndarray]:
    word_ids = {word: index + 1 for index, word in enumerate(sorted(english_words()))}
    lines = manifest.with_name(f"{manifest.stem}.timing.jsonl").read_text("utf-8").splitlines()
    phonemes, words = [], []
    for row, length, line in zip(rows, row_lengths, lines, strict=True):
        timing = json.loads(line)
        marks = [(start, phoneme_ids.get(_plain(s), 0)) for s, start in timing["phonemes"]]
        phonemes.append(_spread(marks, length))
        spoken = [(start, word_ids[row["text"][at:].split()[0]]) for at, start in timing["words"]]
        # The last phonemes are the closing pause.
        end = [(timing["phonemes"][-2][1], 0)] if len(timing["phonemes"]) > 1 else []
        words.append(_spread(spoken + end, length))
    return np.concatenate(phonemes), np.concatenate(words)


def _spread(marks: list[tuple[float, int]], length: int) -> np.ndarray:
    """The class at each encoder row (20 ms), from (start, class) marks."""
    labels = np.zeros(length, np.int16)
    for start, label in marks:
        labels[max(0, round(start * 50)) :] = label
    return labels


def store_features(store: SpeechStore) -> list[Tensor]:
    """Normalised (F, 80) log-mels of a store, without augmentation."""
    return [
        normalize_mel(torch.from_numpy(np.asarray(store.mel[first:last], dtype=np.float32)))
        for first, last in itertools.pairwise(store.offsets)
    ]


@dataclass
class SpeechBatch:
    """Tensors of one training step."""

    features: Tensor
    """(B, 80, F)"""
    frames: Tensor
    """(B,) true frames."""
    masked: bool
    """Whether the encoder is told the true frames."""
    phonemes: Tensor
    """(B, S), -100 beyond the end."""
    words: Tensor
    emotions: Tensor
    tokens: Tensor
    """(B, T) from <|startoftranscript|> to <|endoftext|>, padded with -100."""


def plan_batches(store: SpeechStore, *, seed: int, epoch: int, max_frames: int) -> list[list[int]]:
    """Utterances of similar length together, at most ``max_frames`` padded frames a batch."""
    rng = random.Random(f"batches {seed} {epoch}")
    order = sorted(
        range(len(store.rows)), key=lambda index: store.frames(index) * rng.uniform(0.9, 1.1)
    )
    batches: list[list[int]] = [[]]
    longest = 0
    for index in order:
        longest = max(longest, store.frames(index))
        if batches[-1] and longest * (len(batches[-1]) + 1) > max_frames:
            batches.append([])
            longest = store.frames(index)
        batches[-1].append(index)
    rng.shuffle(batches)
    return batches


def build_speech_batch(
    store: SpeechStore,
    indices: list[int],
    tokenizer: WhisperTokenizer,
    rng: random.Random,
    *,
    padding: str,
) -> SpeechBatch:
    """Augmented features and labels; ``padding`` is ``true``, ``batch`` (unmasked) or ``full``."""
    mels, labels = [], []
    for index in indices:
        first, last = store.offsets[index : index + 2]
        mel = torch.from_numpy(np.asarray(store.mel[first:last], dtype=np.float32))
        mel = normalize_mel(augment(mel, float(store.power[index]), rng))
        mels.append(mask_some(mel, rng) if rng.random() < 0.5 else mel)
        first, last = store.row_offsets[index : index + 2]
        labels.append((store.phonemes[first:last], store.words[first:last]))
    frames = torch.tensor([len(mel) for mel in mels])
    width = 3000 if padding == "full" else int(frames.max()) + int(frames.max()) % 2
    features = torch.zeros(len(mels), width, 80)
    rows = width // 2
    phonemes = torch.full((len(mels), rows), -100)
    words = torch.full((len(mels), rows), -100)
    for row, (mel, (phoneme, word)) in enumerate(zip(mels, labels, strict=True)):
        features[row] = mel.min()  # digital silence: the clamp's floor
        features[row, : len(mel)] = mel
        phonemes[row, : len(phoneme)] = torch.from_numpy(phoneme.astype(np.int64))
        words[row, : len(word)] = torch.from_numpy(word.astype(np.int64))
    emotions = torch.tensor([EMOTIONS.index(store.rows[i]["emotion"]) for i in indices])
    tokens = encode_targets(tokenizer, [store.rows[i]["text"] for i in indices])
    return SpeechBatch(
        features.transpose(1, 2), frames, padding == "true", phonemes, words, emotions, tokens
    )


def encode_targets(tokenizer: WhisperTokenizer, texts: list[str]) -> Tensor:
    """(B, T) start, language, task and text tokens with the end, padded with -100."""
    prefix = tokenizer.convert_tokens_to_ids(
        ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    )
    bodies = tokenizer([f" {text}" for text in texts], add_special_tokens=False)["input_ids"]
    rows = [prefix + body + [tokenizer.eos_token_id] for body in bodies]
    width = max(map(len, rows))
    return torch.tensor([row + [-100] * (width - len(row)) for row in rows])
