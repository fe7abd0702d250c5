"""The tiny Whisper: tokenizer, model and training from scratch on eSpeak's own timings.

Beside the decoder's cross-entropy the encoder learns from what the synthesiser knows: the phoneme
(from a middle layer) and the word of every frame, and the emotion of the utterance, by linear heads
that are thrown away. One step in six runs on plain 30 s padding, one on unmasked padding to the
batch, the rest on true lengths, so that the result is a plain Whisper and a variable-length one.
"""

import json
import random
from functools import lru_cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, ctc_loss
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)
from transformers.modeling_outputs import BaseModelOutput

from blsp.metrics import measure, pair_texts, word_error_rate
from blsp.model.encoder import BlspWhisperEncoder, encoder_lengths, masked_cross_attention
from blsp.tiny.fitting import FitConfig, Progress, fit, probe_autocast_dtype, start_from
from blsp.tiny.store import (
    SpeechBatch,
    SpeechStore,
    build_speech_batch,
    load_store,
    phoneme_table,
    plan_batches,
    store_features,
)
from blsp.tiny.voices import EMOTIONS
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
    normalizer = write_normalizer(folder)
    tokenizer = WhisperTokenizer(
        vocab=vocab,
        merges=[tuple(pair) for pair in table["merges"]],
        normalizer_file=str(normalizer),
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:]),
    )
    return tokenizer


def write_normalizer(folder: Path) -> Path:
    """Write ``normalizer.json``, which the English normaliser of the tokenizer reads."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "normalizer.json"
    path.write_text(json.dumps(SPELLINGS, indent=1) + "\n", encoding="utf-8")
    return path


def build_whisper(tokenizer: WhisperTokenizer, *, seed: int) -> WhisperForConditionalGeneration:
    """A randomly initialised Whisper with the variable-length encoder inside."""
    torch.manual_seed(seed)
    ids = tokenizer.get_vocab()
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
    config.speech = "espeak"  # type: ignore[attr-defined]  whoever uses it sees its voices
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
        language="en",  # detection alone leaves out the task, and the decoder starts off wrong
        task="transcribe",
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
    spoken = heads.word(encoded).float()
    word = cross_entropy(spoken[inside], batch.words[inside])
    spelt = _word_sequence_loss(spoken, batch.words, lengths)
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
    loss = text + 0.4 * phoneme + word + spelt + 2.0 * emotion
    return loss, {
        "text": text.item(),
        "right": right.item(),
        "phoneme": phoneme.item(),
        "word": word.item(),
        "spelt": spelt.item(),
        "emotion": emotion.item(),
    }


def _word_sequence_loss(spoken: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
    """CTC per spoken word, silence (0) as the blank: a row that says another word within a word
    costs little in the frame loss and is a wrong word to whoever reads the rows in order.

    Args:
        spoken: word scores (B, S, W).
        words: the word of every row (B, S); -100 and rows beyond ``lengths`` are not read.
        lengths: rows of each utterance (B,).
    """
    targets = [
        torch.unique_consecutive(row[:length]) for row, length in zip(words, lengths, strict=True)
    ]
    targets = [row[row > 0] for row in targets]
    counts = torch.tensor([len(row) for row in targets], device=lengths.device)
    total = ctc_loss(
        spoken.log_softmax(-1).transpose(0, 1),
        torch.cat(targets),
        lengths,
        counts,
        reduction="sum",
        zero_infinity=True,
    )
    return total / counts.sum().clamp(min=1)


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
        assert isinstance(out, Tensor)
        heard = tokenizer.batch_decode(out, skip_special_tokens=True)
        for i, text in zip(chosen, heard, strict=True):
            texts[i] = text.strip()
    return texts


def score_words(references: list[str], predictions: list[str]) -> float:
    """Word error rate of transcripts in order, as a fraction."""
    names = [str(index) for index in range(len(references))]
    pairs = pair_texts(
        dict(zip(names, references, strict=True)), dict(zip(names, predictions, strict=True))
    )
    return measure(word_error_rate(pairs)).value


@torch.no_grad()
def score_emotion(
    model: WhisperForConditionalGeneration, heads: AuxiliaryHeads, store: SpeechStore
) -> float:
    """Share of a set whose emotion the training head tells right."""
    pooled = pool_rows(model.model.encoder, store_features(store))
    told = heads.emotion(pooled).argmax(-1).tolist()
    wanted = [EMOTIONS.index(row["emotion"]) for row in store.rows]
    return sum(a == b for a, b in zip(told, wanted, strict=True)) / len(wanted)


@torch.no_grad()
def pool_rows(encoder: nn.Module, features: list[Tensor], *, batch: int = 32) -> Tensor:
    """Mean encoder row, (N, D), of normalised (F, 80) log-mels, each at its true length."""
    weight = next(encoder.parameters())
    device, dtype = weight.device, weight.dtype
    order = sorted(range(len(features)), key=lambda index: len(features[index]))
    pooled: dict[int, Tensor] = {}
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        frames = torch.tensor([len(features[index]) for index in chosen], device=device)
        block = pad_sequence([features[index] for index in chosen], batch_first=True)
        block = block.to(device, dtype)
        mask = torch.arange(block.shape[1], device=device) < frames[:, None]
        rows = encoder(block.transpose(1, 2), mask).last_hidden_state.float()
        lengths = encoder_lengths(frames)
        inside = torch.arange(rows.shape[1], device=device) < lengths[:, None]
        means = (rows * inside[..., None]).sum(1) / lengths[:, None]
        pooled |= dict(zip(chosen, means, strict=True))
    return torch.stack([pooled[index] for index in range(len(features))])


def train_whisper(  # noqa: PLR0913  what a run consists of
    folder: Path,
    speech: Path,
    *,
    seed: int,
    steps: int,
    max_frames: int = 9_600,
    device: torch.device,
    init_from: Path | None = None,
) -> tuple[WhisperForConditionalGeneration, WhisperTokenizer, Progress]:
    """Train to ``steps`` (resumes) on ``speech/train.jsonl``, from nothing or from the weights in
    ``init_from``; the curve is WER and emotion accuracy on the dev split."""
    tokenizer = build_whisper_tokenizer(folder / "tokenizer")
    model = build_whisper(tokenizer, seed=seed)
    if init_from:
        start_from(model, init_from, vocabulary=tokenizer.get_vocab())
    phoneme_ids = phoneme_table(speech / "train.jsonl")
    store = load_store(speech / "train.jsonl", phoneme_ids=phoneme_ids)
    dev = {name: load_store(speech / f"dev-{name}.jsonl") for name in ("clean", "noisy")}
    dev_emotion = load_store(speech / "dev-emotion.jsonl")
    heads = AuxiliaryHeads(256, len(phoneme_ids), len(english_words()) + 1)
    dtype = probe_autocast_dtype(device)
    whole = nn.ModuleDict({"whisper": model, "heads": heads}).to(device)
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
            scores[f"wer_{name}"] = score_words(references, texts)
        scores["emotion_right"] = score_emotion(model, heads, dev_emotion)
        return scores

    config = FitConfig(
        steps=steps,
        learning_rate=6e-4 if init_from else 1.5e-3,
        warmup_steps=200 if init_from else 600,
        weight_decay=0.02,
    )
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
