"""The tiny Whisper: tokenizer, model and training from scratch on eSpeak's own timings.

Beside the decoder's cross-entropy the encoder learns from what the synthesiser knows: the phoneme
(from a middle layer) and the word of every frame, and the emotion of the utterance, by linear heads
that are thrown away. One step in six runs on plain 30 s padding, one on unmasked padding to the
batch, the rest on true lengths, so that the result is a plain Whisper and a variable-length one.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import jiwer
import numpy as np
import soundfile
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)
from transformers.modeling_outputs import BaseModelOutput

from blsp.model.encoder import BlspWhisperEncoder, encoder_lengths, masked_cross_attention
from blsp.tiny.fitting import FitConfig, Progress, fit, probe_autocast_dtype
from blsp.tiny.voices import EMOTIONS, NOISES, make_noise
from blsp.tiny.world import english_words, sample_sentences

SPECIAL = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)
# Spellings that differ between the accents spoken; the format of Whisper's own normalizer.json.
SPELLINGS = {
    "colour": "color",
    "neighbour": "neighbor",
    "theatre": "theater",
    "harbour": "harbor",
    "favourite": "favorite",
    "grey": "gray",
    "yogurts": "yoghurts",
    "travelled": "traveled",
    "organise": "organize",
    "centre": "center",
    "metre": "meter",
    "practise": "practice",
}
FLOOR = -10.0  # log10 of the smallest mel power kept


def build_whisper_tokenizer(folder: Path) -> WhisperTokenizer:
    """A byte-level BPE in which every word of the world is one token; written to ``folder``."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = sorted(english_words())
    texts = [f" {s.text}" for s in sample_sentences(0, "train", 20_000)]
    raw.train_from_iterator(texts + [" " + " ".join(words)] * 300, trainer)
    table = json.loads(raw.to_str())["model"]
    vocab = dict(table["vocab"])
    for token in SPECIAL:
        vocab[token] = len(vocab)
    folder.mkdir(parents=True, exist_ok=True)
    normalizer = folder / "normalizer.json"
    normalizer.write_text(json.dumps(SPELLINGS, indent=1))
    tokenizer = WhisperTokenizer(
        vocab=vocab,
        merges=[tuple(pair) for pair in table["merges"]],
        normalizer_file=str(normalizer),
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:]),
    )
    return tokenizer


def build_whisper(tokenizer: WhisperTokenizer, *, seed: int) -> WhisperForConditionalGeneration:
    """A randomly initialised Whisper with the variable-length encoder inside."""
    torch.manual_seed(seed)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    config = WhisperConfig(
        vocab_size=-(-len(tokenizer) // 32) * 32,
        num_mel_bins=80,
        d_model=256,
        encoder_layers=4,
        encoder_attention_heads=4,
        encoder_ffn_dim=1024,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=768,
        max_source_positions=1500,
        max_target_positions=128,
        pad_token_id=ids["<|endoftext|>"],
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|endoftext|>"],
        decoder_start_token_id=ids["<|startoftranscript|>"],
        suppress_tokens=[],
        begin_suppress_tokens=[ids["<|endoftext|>"]],
    )
    config._attn_implementation = "eager"
    model = WhisperForConditionalGeneration(config)
    encoder = BlspWhisperEncoder(config)
    encoder.load_state_dict(model.model.encoder.state_dict())
    model.model.encoder = encoder
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
        begin_suppress_tokens=config.begin_suppress_tokens,
        suppress_tokens=[],
        max_length=config.max_target_positions,
        is_multilingual=True,
        lang_to_id={"<|en|>": ids["<|en|>"]},
        task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
        no_timestamps_token_id=ids["<|notimestamps|>"],
        prev_sot_token_id=ids["<|startofprev|>"],
        return_timestamps=False,
    )
    return model


class AuxiliaryHeads(nn.Module):
    """Linear heads on the encoder that exist in training only."""

    def __init__(self, width: int, phonemes: int, words: int) -> None:
        super().__init__()
        self.phoneme = nn.Linear(width, phonemes)
        self.word = nn.Linear(width, words)
        self.emotion = nn.Linear(width, len(EMOTIONS))


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


def compute_mel_power(audio: np.ndarray, extractor: WhisperFeatureExtractor) -> Tensor:
    """log10 of Whisper's mel power, (ceil(n / 160), 80), before its clamp and scale.

    Silence of one window follows the audio, so that the last frames are those of 30 s padding.
    """
    count = -(-len(audio) // extractor.hop_length)
    padded = np.zeros(count * extractor.hop_length + extractor.n_fft, np.float32)
    padded[: len(audio)] = audio
    window = torch.hann_window(extractor.n_fft)
    wave = torch.from_numpy(padded)
    spectrum = torch.stft(
        wave, extractor.n_fft, extractor.hop_length, window=window, return_complex=True
    )
    power = spectrum[:, :count].abs() ** 2
    filters = torch.from_numpy(extractor.mel_filters).to(torch.float32)
    return (filters.T @ power).clamp(min=10**FLOOR).log10().T


def normalize_mel(log_power: Tensor) -> Tensor:
    """Whisper's clamp to 8 decades below the loudest value of the utterance, and its scale."""
    return (torch.maximum(log_power, log_power.max() - 8.0) + 4.0) / 4.0


def load_store(manifest: Path, *, phoneme_ids: dict[str, int] | None = None) -> SpeechStore:
    """Read a manifest of the speech world; features are computed once and kept beside it."""
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    cache = manifest.with_suffix(".mel.npy")
    lengths = [-(-round(row["duration"] * 16_000) // 160) for row in rows]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    power_file = manifest.with_suffix(".power.npy")
    if not power_file.exists():
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
        audio, _ = soundfile.read(root / row["audio"], dtype="float32")
        mel[offsets[index] : offsets[index + 1]] = compute_mel_power(audio, extractor).numpy()
        power[index] = np.mean(audio**2)
    mel.flush()
    np.save(power_file, power)  # written last: its presence says the features are whole


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


@lru_cache(maxsize=1)
def _noise_bank() -> dict[str, Tensor]:
    """Mel power of 30 s of each open noise at root mean square 1."""
    rng = np.random.default_rng(0)
    extractor = WhisperFeatureExtractor()
    return {
        kind: 10 ** compute_mel_power(make_noise(kind, rng, 480_000), extractor) for kind in NOISES
    }


@lru_cache(maxsize=64)
def _warp(percent: int) -> Tensor:
    """(80, 80) matrix that stretches the mel axis by ``percent``: a longer or shorter throat."""
    source = torch.arange(80) * (1 + percent / 100)
    source = source.clamp(max=79)
    low = source.floor().long().clamp(max=78)
    share = source - low
    matrix = torch.zeros(80, 80)
    matrix[low, torch.arange(80)] += 1 - share
    matrix[low + 1, torch.arange(80)] += share
    return matrix


def augment(log_power: Tensor, power: float, rng: random.Random) -> Tensor:
    """Another throat, level and noise for one utterance; (F, 80) -> (F, 80), still log10 power."""
    mel = log_power @ _warp(rng.randint(-9, 9)) if rng.random() < 0.6 else log_power
    if rng.random() < 0.55:
        bank = _noise_bank()[rng.choice(NOISES)]
        start = rng.randrange(len(bank) - len(mel)) if len(bank) > len(mel) else 0
        scale = power / 10 ** (rng.uniform(0, 25) / 10)
        mel = (10**mel + bank[start : start + len(mel)][: len(mel)] * scale).log10()
    mel = (mel + rng.uniform(-1.5, 0.5)).clamp(min=FLOOR)
    return mel


def _mask_some(features: Tensor, rng: random.Random) -> Tensor:
    """Blank a few bands and moments of one (F, 80) log-mel."""
    features = features.clone()
    floor = features.min()
    for _ in range(rng.randint(0, 2)):
        band, width = rng.randrange(72), rng.randint(2, 8)
        features[:, band : band + width] = floor
    for _ in range(rng.randint(0, 2)):
        moment, width = rng.randrange(len(features)), rng.randint(2, 10)
        features[moment : moment + width] = floor
    return features


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
        mels.append(_mask_some(mel, rng) if rng.random() < 0.5 else mel)
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


def speech_loss(
    model: WhisperForConditionalGeneration, heads: AuxiliaryHeads, batch: SpeechBatch
) -> tuple[Tensor, dict[str, float]]:
    """Decoder cross-entropy plus the frame and emotion losses."""
    mask = None
    if batch.masked:
        mask = torch.arange(batch.features.shape[2]) < batch.frames[:, None].cpu()
        mask = mask.to(batch.features.device)
    out = model.model.encoder(batch.features, mask, output_hidden_states=True)
    encoded = out.last_hidden_state  # (B, S, D)
    lengths = encoder_lengths(batch.frames)
    inside = torch.arange(encoded.shape[1], device=encoded.device) < lengths[:, None]
    middle = out.hidden_states[2]
    phoneme = cross_entropy(
        heads.phoneme(middle[inside]).float(), batch.phonemes[inside], ignore_index=-100
    )
    word = cross_entropy(heads.word(encoded[inside]).float(), batch.words[inside])
    pooled = (encoded * inside[..., None]).sum(1) / lengths[:, None]
    emotion = cross_entropy(heads.emotion(pooled).float(), batch.emotions)
    given = batch.tokens[:, :-1].clamp(min=0)
    if batch.masked:
        with masked_cross_attention(model.model.decoder, lengths):
            decoded = model.model.decoder(input_ids=given, encoder_hidden_states=encoded)
    else:
        decoded = model.model.decoder(input_ids=given, encoder_hidden_states=encoded)
    # The prompt of language and task is given, not learnt, but for the language itself.
    wanted = batch.tokens[:, 1:].clone()
    wanted[:, 1:3] = -100
    kept = wanted != -100
    logits = model.proj_out(decoded.last_hidden_state[kept]).float()
    text = cross_entropy(logits, wanted[kept], label_smoothing=0.05)
    right = (logits.argmax(-1) == wanted[kept]).float().mean()
    loss = text + 0.4 * phoneme + 0.3 * word + 0.6 * emotion
    return loss, {
        "text": text.item(),
        "right": right.item(),
        "phoneme": phoneme.item(),
        "word": word.item(),
        "emotion": emotion.item(),
    }


@torch.no_grad()
def transcribe(
    model: WhisperForConditionalGeneration,
    tokenizer: WhisperTokenizer,
    features: list[Tensor],
    *,
    padding: str,
    batch: int = 16,
) -> list[str]:
    """Greedy transcripts of normalised (F, 80) log-mels, in order.

    Args:
        padding: ``true`` (own length, masked) or ``full`` (30 s, plain Whisper).
    """
    order = sorted(range(len(features)), key=lambda index: len(features[index]))
    texts = [""] * len(features)
    device = model.device
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        frames = torch.tensor([len(features[i]) for i in chosen], device=device)
        width = 3000 if padding == "full" else int(frames.max())
        block = torch.zeros(len(chosen), width, 80)
        for row, i in enumerate(chosen):
            block[row] = features[i].min()
            block[row, : len(features[i])] = features[i]
        block = block.transpose(1, 2).to(device, model.dtype)
        if padding == "full":
            out = model.generate(block, language="en", task="transcribe")
        else:
            mask = torch.arange(width, device=device) < frames[:, None]
            states = model.model.encoder(block, mask).last_hidden_state
            with masked_cross_attention(model.model.decoder, encoder_lengths(frames)):
                out = model.generate(
                    encoder_outputs=BaseModelOutput(last_hidden_state=states),
                    language="en",
                    task="transcribe",
                )
        for i, text in zip(chosen, tokenizer.batch_decode(out, skip_special_tokens=True)):
            texts[i] = text.strip()
    return texts


def store_features(store: SpeechStore) -> list[Tensor]:
    """Normalised (F, 80) log-mels of a store, without augmentation."""
    return [
        normalize_mel(torch.from_numpy(np.asarray(store.mel[first:last], dtype=np.float32)))
        for first, last in zip(store.offsets, store.offsets[1:])
    ]


def word_error_rate(references: list[str], predictions: list[str]) -> float:
    """WER of a set, as a fraction."""
    return jiwer.wer(references, [text or "-" for text in predictions])


def train_whisper(
    folder: Path,
    speech: Path,
    *,
    seed: int,
    steps: int,
    max_frames: int = 9_600,
    device: torch.device,
) -> tuple[WhisperForConditionalGeneration, WhisperTokenizer, Progress]:
    """Train to ``steps`` (resumes) on ``speech/train.jsonl``; the curve is dev WER."""
    tokenizer = build_whisper_tokenizer(folder / "tokenizer")
    model = build_whisper(tokenizer, seed=seed).to(device)
    phoneme_ids = phoneme_table(speech / "train.jsonl")
    store = load_store(speech / "train.jsonl", phoneme_ids=phoneme_ids)
    dev = {name: load_store(speech / f"dev-{name}.jsonl") for name in ("clean", "noisy")}
    heads = AuxiliaryHeads(256, len(phoneme_ids), len(english_words()) + 1).to(device)
    dtype = probe_autocast_dtype(device)
    whole = nn.ModuleDict({"whisper": model, "heads": heads})
    batches = _BatchStream(store, seed=seed, max_frames=max_frames)

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = random.Random(f"whisper {seed} {step}")
        torch.manual_seed(hash((seed, step)) % 2**31)
        indices = batches.at(step)
        padding = rng.choices(["true", "batch", "full"], weights=[4, 1, 1])[0]
        if padding == "full":
            indices = rng.sample(indices, min(len(indices), max(1, max_frames // 6000)))
        # Plain attention is faster on a CPU at the lengths of speech, the fused kernel at 1,500.
        model.set_attn_implementation("sdpa" if padding == "full" else "eager")
        batch = build_speech_batch(store, indices, tokenizer, rng, padding=padding)
        for name, value in vars(batch).items():
            if isinstance(value, Tensor):
                setattr(batch, name, value.to(device))
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return speech_loss(model, heads, batch)

    def evaluate(step: int) -> dict[str, float]:
        scores = {}
        for name, data in dev.items():
            references = [row["text"] for row in data.rows][:200]
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                texts = transcribe(model, tokenizer, store_features(data)[:200], padding="true")
            scores[f"wer_{name}"] = word_error_rate(references, texts)
        return scores

    config = FitConfig(steps=steps, learning_rate=1.5e-3, warmup_steps=600, weight_decay=0.02)
    progress = fit(whole, loss_at, config, folder=folder, evaluate=evaluate)
    return model, tokenizer, progress


class _BatchStream:
    """The batch of any step: epochs follow each other, each with its own plan."""

    def __init__(self, store: SpeechStore, *, seed: int, max_frames: int) -> None:
        self._plan = lru_cache(maxsize=2)(
            lambda epoch: plan_batches(store, seed=seed, epoch=epoch, max_frames=max_frames)
        )
        self._count = min(len(self._plan(epoch)) for epoch in range(2)) - 20

    def at(self, step: int) -> list[int]:
        epoch, index = divmod(step, self._count)
        return self._plan(epoch)[index]


def iterate_texts(path: Path) -> Iterator[str]:
    """Transcripts of a manifest."""
    for line in path.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)["text"]
