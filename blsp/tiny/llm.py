"""The tiny chat LLM: a Qwen3-architecture model, its BPE tokenizer and chat template, from scratch.

It answers every instruction kind of the text world about a sentence it has never read, over one to
four turns. Losses are on answers and their end-of-turn token only.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from blsp.tiny.fitting import FitConfig, Progress, fit, probe_autocast_dtype, start_from
from blsp.tiny.world import (
    Sentence,
    Split,
    answer,
    english_words,
    grammar,
    instructions,
    kinds,
    sample_sentence,
    sample_sentences,
)

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
SPARE = tuple(f"<|extra_{i}|>" for i in range(8))
SYSTEM = "You are a helpful household assistant."
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['role'] == 'assistant' %}"
    "{% generation %}{{- message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{%- else %}{{- message['content'] + '<|im_end|>' }}{%- endif %}"
    "{{- '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


# Learnt last, so asked more often: what must be counted, collected over two clauses, or is long.
HARD_KINDS = (
    *("count_words",) * 6,
    *("translate_de",) * 3,
    *("reverse", "slots") * 2,
    *("who", "when", "where", "what", "how_many"),
)
SLOW = 0.5
"""Share of the training sentences that are read as `write_slowly` takes them down."""


@dataclass(frozen=True)
class Turn:
    """One question and its right answer."""

    user: str
    answer: str
    kind: str


def build_tokenizer(*, vocabulary: int = 3072) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which nearly every word of the world is one token."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPARE) - 3,
        special_tokens=[PAD, START, END, *SPARE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(_tokenizer_texts(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token=END, pad_token=PAD, model_max_length=2048
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _tokenizer_texts() -> Iterator[str]:
    for sentence in sample_sentences(0, "train", 30_000):
        # The reversed sentence and line starts give words without a leading space their tokens.
        yield f"{sentence.text} {answer('reverse', sentence)}\n"
        yield "\n".join(answer("reverse", sentence).split())
        yield f"{sentence.german} {answer('reply', sentence)}\n"
        yield answer("slots", sentence)
    words = sorted(english_words())
    for _ in range(400):
        yield "\n".join(words) + " " + " ".join(words)
        yield "user assistant system\n" + SYSTEM
        for wordings in instructions()["kinds"].values():
            yield " ".join(wordings)
        for emotion in instructions()["emotions"].values():
            yield f"{emotion['hint']} {emotion['reply']} {emotion['sequel']}"
    yield " ".join(name for name in grammar()["clauses"])


def build_model(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> Qwen3ForCausalLM:
    """A randomly initialised model of 3.4 M parameters."""
    torch.manual_seed(seed)
    vocabulary = tokenizer.get_vocab()
    config = Qwen3Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=vocabulary[END],
        pad_token_id=vocabulary[PAD],
    )
    # At these lengths plain attention is several times faster on a CPU than the fused kernel.
    config._attn_implementation = "eager"
    model = Qwen3ForCausalLM(config)
    model.generation_config.eos_token_id = vocabulary[END]
    model.generation_config.pad_token_id = vocabulary[PAD]
    model.generation_config.bos_token_id = None
    return model


def ask(wording: str, spoken: str, *, hint: str = "", first: bool = True) -> str:
    """The user's words: the instruction before or after the sentence, each on its own line."""
    if first:
        joint = "" if wording.endswith("?") else ":"
        return f"{hint}\n{wording}{joint}\n{spoken}".lstrip()
    return f"{hint}\n{spoken}\n{wording}".lstrip()


def write_slowly(rng: random.Random, text: str) -> str:
    """``text`` as it would be taken down at a steady pace: ``call call.. anna.``.

    A word that lasts is written again, a pause is a run of dots. Every language model has read such
    text. A model that hears gives several speech embeddings to some words and none to some
    embeddings, and one that never met the like could not make out the words.
    """
    most, longest = rng.choice([1, 2, 4]), rng.choice([0, 1, 3])
    words = text.split()
    if any(word == following for word, following in pairwise(words)):
        most = 1  # who hears a word twice could not tell
    parts = []
    for word in words:
        parts += [word] * rng.randint(1, most)
        parts[-1] += "." * rng.randint(0, longest)
    return "." * rng.randint(0, longest) + " ".join(parts)


def sample_turn(rng: random.Random, kind: str, sentence: Sentence, *, spoken: str) -> Turn:
    """One question of ``kind`` about ``sentence``, read as ``spoken``; some of them say how the
    speaker sounds."""
    emotions = instructions()["emotions"]
    likely = 0.7 if kind == "emotion" else 0.2
    emotion = rng.choice(list(emotions)) if rng.random() < likely else "neutral"
    wording = rng.choice(instructions()["kinds"][kind])
    user = ask(wording, spoken, hint=emotions[emotion]["hint"], first=rng.random() < 0.5)
    return Turn(user, answer(kind, sentence, emotion=emotion), kind)


def sample_word_salad(rng: random.Random) -> list[Turn]:
    """Turns about the surface of random words, which no grammar can guess: they teach copying."""
    words = rng.choices(_words(), k=rng.randint(2, 12))
    sentence = Sentence(" ".join(words), "", ())
    spoken = _take_down(rng, sentence, "train")
    first = rng.random() < 0.5
    turns = []
    for kind in rng.choices(["repeat", "repeat", "reverse", "first_word", "last_word"], k=2):
        wording = rng.choice(instructions()["kinds"][kind])
        user = wording if turns else ask(wording, spoken, first=first)
        turns.append(Turn(user, answer(kind, sentence), kind))
    return turns


@lru_cache(maxsize=1)
def _words() -> list[str]:
    return sorted(english_words())


def sample_conversation(rng: random.Random, split: Split) -> list[Turn]:
    """One to four turns; later ones ask about the same sentence or bring a new one."""
    if split == "train" and rng.random() < 0.1:
        return sample_word_salad(rng)
    sentence = sample_sentence(rng, split)
    if split == "train" and rng.random() < 0.5:
        # What is got wrong last is got wrong in long sentences.
        sentence = max(sentence, sample_sentence(rng, split), key=lambda one: len(one.text))
    spoken = _take_down(rng, sentence, split)
    pool = [*kinds(), *HARD_KINDS]
    if rng.random() < 0.1:
        turns = [Turn(spoken, answer("reply", sentence), "reply")]
    else:
        turns = [sample_turn(rng, rng.choice(pool), sentence, spoken=spoken)]
    for _ in range(rng.choice([0, 1, 2, 3])):
        kind = rng.choice(pool)
        if rng.random() < 0.2:
            sentence = sample_sentence(rng, split)
            spoken = _take_down(rng, sentence, split)
            turns.append(sample_turn(rng, kind, sentence, spoken=spoken))
        else:
            wording = rng.choice(instructions()["kinds"][kind])
            turns.append(Turn(wording, answer(kind, sentence, emotion=_emotion(turns)), kind))
    return turns


def _take_down(rng: random.Random, sentence: Sentence, split: Split) -> str:
    """The sentence as it is read: in training, every other time slowly."""
    slowly = split == "train" and rng.random() < SLOW
    return write_slowly(rng, sentence.text) if slowly else sentence.text


def _emotion(turns: list[Turn]) -> str:
    """The emotion the last sentence of a conversation was said to be spoken with."""
    emotions = instructions()["emotions"]
    for turn in reversed(turns):
        if "\n" in turn.user or turn is turns[0]:
            named = [n for n, e in emotions.items() if e["hint"] and e["hint"] in turn.user]
            return named[0] if named else "neutral"
    return "neutral"


def encode_conversations(
    tokenizer: PreTrainedTokenizerFast, conversations: list[list[Turn]], *, system: list[bool]
) -> list[tuple[list[int], list[int]]]:
    """(token ids, labels) of each conversation; labels are -100 outside answers."""
    pieces: list[tuple[int, str, bool]] = []
    for row, turns in enumerate(conversations):
        lead = f"{START}system\n{SYSTEM}{END}\n" if system[row] else ""
        for turn in turns:
            pieces.append((row, f"{lead}{START}user\n{turn.user}{END}\n{START}assistant\n", False))
            pieces.append((row, f"{turn.answer}{END}", True))
            lead = "\n"
    encoded = tokenizer([text for _, text, _ in pieces], add_special_tokens=False)["input_ids"]
    examples: list[tuple[list[int], list[int]]] = [([], []) for _ in conversations]
    for (row, _, trained), ids in zip(pieces, encoded, strict=True):
        examples[row][0].extend(ids)
        examples[row][1].extend(ids if trained else [-100] * len(ids))
    return examples


def pad_batch(examples: list[tuple[list[int], list[int]]], *, pad: int) -> tuple[Tensor, Tensor]:
    """Token ids and labels (B, T), right-padded."""
    width = max(len(ids) for ids, _ in examples)
    return (
        torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in examples]),
        torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in examples]),
    )


def draw_batches(
    tokenizer: PreTrainedTokenizerFast, split: Split, *, seed: int, group: int, batch: int
) -> list[tuple[Tensor, Tensor]]:
    """The 16 batches of one group of steps, drawn together and cut by length so that few pads
    are left, in random order."""
    rng = random.Random(f"llm {seed} {split} {group}")
    pool = [sample_conversation(rng, split) for _ in range(16 * batch)]
    system = [rng.random() < 0.15 for _ in pool]
    examples = sorted(encode_conversations(tokenizer, pool, system=system), key=lambda e: len(e[0]))
    pad = tokenizer.get_vocab()[PAD]
    return [
        pad_batch(examples[part * batch : (part + 1) * batch], pad=pad)
        for part in rng.sample(range(16), 16)
    ]


def answer_loss(model: Qwen3ForCausalLM, ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy over answer tokens, and the share of them predicted right.

    Right-padded causal attention needs no mask: no trained position sees padding.
    """
    hidden = model.model(input_ids=ids).last_hidden_state  # (B, T) -> (B, T, D)
    target = labels[:, 1:]
    logits = model.lm_head(hidden[:, :-1][target != -100]).float()  # (answer tokens, V)
    wanted = target[target != -100]
    return cross_entropy(logits, wanted), (logits.argmax(-1) == wanted).float().mean()


def train_llm(
    folder: Path,
    *,
    seed: int,
    steps: int,
    batch: int = 40,
    device: torch.device,
    init_from: Path | None = None,
) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast, Progress]:
    """Train to ``steps`` (resumes), from nothing or from the weights in ``init_from``."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed=seed)
    if init_from:
        start_from(model, init_from, vocabulary=tokenizer.get_vocab())
    nn.Module.to(model, device)
    dtype = probe_autocast_dtype(device)

    @lru_cache(maxsize=2)
    def batches(split: Split, group: int) -> list[tuple[Tensor, Tensor]]:
        return draw_batches(tokenizer, split, seed=seed, group=group, batch=batch)

    def loss_at(step: int, split: Split = "train") -> tuple[Tensor, dict[str, float]]:
        ids, labels = batches(split, step // 16)[step % 16]
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss, right = answer_loss(model, ids.to(device), labels.to(device))
        return loss, {"right": right.item()}

    @torch.no_grad()
    def evaluate(step: int) -> dict[str, float]:
        results = [loss_at(index, "dev") for index in range(16)]
        return {
            "dev_loss": sum(loss.item() for loss, _ in results) / len(results),
            "dev_right": sum(numbers["right"] for _, numbers in results) / len(results),
        }

    config = FitConfig(steps=steps, learning_rate=5e-4 if init_from else 2e-3)
    progress = fit(model, loss_at, config, folder=folder, evaluate=evaluate)
    return model, tokenizer, progress
