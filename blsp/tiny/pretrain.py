"""`python -m blsp.tiny.pretrain --out DIR`: a tiny base model, which knows and does not answer.

It has read records of the text world (``text: ...``, ``who: ...``, ``german: ...``, in any order),
no question, no instruction and no chat, as base models have read the web. So what the stage on text
adds can be measured: `blsp sft tiny/chat` makes it answer. A number of steps enters; a model folder
without a chat template leaves.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

from blsp.files import atomic_path
from blsp.tiny.fitting import FitConfig, fit, probe_autocast_dtype
from blsp.tiny.llm import PAD, build_model, build_tokenizer, pad_batch
from blsp.tiny.world import Sentence, Split, answer, english_words, kinds, sample_sentence

STEPS, BATCH, SEED = 1000, 24, 0
FIELDS = 6
"""Of a record, beside its text."""
_SALADS = 0.15
"""Share of records of random words, which teach copying: no grammar can guess them."""


def write_record(rng: random.Random, split: Split) -> str:
    """A sentence of the world and some of what is known about it, one field a line."""
    if split == "train" and rng.random() < _SALADS:
        words = rng.choices(_words(), k=rng.randint(2, 12))
        sentence = Sentence(" ".join(words), "", ())
        known = ["repeat", "reverse", "first_word", "last_word"]
    else:
        sentence = sample_sentence(rng, split)
        known = rng.sample(_open_kinds(), FIELDS)
    lines = [f"{kind}: {answer(kind, sentence)}" for kind in known]
    return "\n".join([f"text: {sentence.text}", *lines]) + "\n"


@lru_cache(maxsize=1)
def _words() -> list[str]:
    return sorted(english_words())


@lru_cache(maxsize=1)
def _open_kinds() -> list[str]:
    # The sealed kinds stay unread, and what is heard and not written is in no record.
    return [kind for kind in kinds(sealed=False) if kind != "emotion"]


def draw_batch(
    tokenizer: PreTrainedTokenizerFast, split: Split, step: int, *, seed: int, batch: int
) -> tuple[Tensor, Tensor]:
    """Token ids and labels (B, T) of one step, every token trained."""
    rng = random.Random(f"base {seed} {split} {step}")
    texts = [write_record(rng, split) for _ in range(batch)]
    end = tokenizer.get_vocab()[PAD]
    rows = [[*ids, end] for ids in tokenizer(texts)["input_ids"]]  # type: ignore[misc]
    return pad_batch([(ids, ids) for ids in rows], pad=end)


def train_base(out: Path, *, steps: int = STEPS, seed: int = SEED, batch: int = BATCH) -> Path:
    """Train from nothing and write the model; a run that was stopped goes on."""
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    model = build_model(tokenizer, seed=seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    nn.Module.to(model, device)
    dtype = probe_autocast_dtype(device)

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        ids, labels = draw_batch(tokenizer, "train", step, seed=seed, batch=batch)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = model(input_ids=ids.to(device)).logits[:, :-1]  # (B, T - 1, V)
        loss = cross_entropy(logits.float().flatten(0, 1), labels[:, 1:].flatten().to(device))
        return loss, {}

    folder = out.with_name(f"{out.name}.training")
    fit(model, loss_at, FitConfig(steps=steps, learning_rate=2e-3), folder=folder)
    with atomic_path(out) as temporary:
        model.to(torch.bfloat16).save_pretrained(temporary)  # type: ignore[arg-type]
        tokenizer.save_pretrained(temporary)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m blsp.tiny.pretrain")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args(argv)
    print(train_base(options.out, steps=options.steps))
    return 0


if __name__ == "__main__":
    sys.exit(main())
