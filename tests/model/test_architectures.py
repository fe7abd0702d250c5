"""Any decoder-only language model: text comes out as from the base, speech goes in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from blsp.model import compose
from tests.model.conftest import make_audio

KINDS = [
    *("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "phi3", "olmo2", "granite"),
    *("cohere", "cohere2", "gpt_neox", "gpt2", "falcon", "opt", "bloom", "qwen3_moe", "smollm3"),
    *("mpt", "phi", "stablelm", "mixtral", "gpt_oss", "lfm2", "glm"),
]
TIED = ["llama", "qwen2", "qwen3"]
TEXTS = ["a", "turn on the light", "and what then?"]
PROMPTS = ["<|audio|>?", "no sound here", "first <|audio|> and then <|audio|>!"]
RECORDINGS = [make_audio(samples, seed) for seed, samples in enumerate([9_000, 16_000, 400])]


@pytest.mark.parametrize("kind", KINDS)
def test_text_gets_the_logits_of_the_base_bit_for_bit(
    kind: str, make_llm: Callable[..., Path], whisper: Path
) -> None:
    folder = make_llm(kind)
    model, processor = compose(llm=folder, encoder=whisper)
    base: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    inputs = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    ours = processor(text=TEXTS, padding_side="right")
    assert torch.equal(ours["input_ids"], inputs["input_ids"])
    assert torch.equal(model(**ours).logits, base(**ours).logits)
    tokens = model.generate(**processor(text=TEXTS), max_new_tokens=6, do_sample=False)
    assert torch.equal(
        tokens, base.generate(**processor(text=TEXTS), max_new_tokens=6, do_sample=False)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_mixed_left_padded_batch_equals_each_alone(
    kind: str, make_llm: Callable[..., Path], whisper: Path
) -> None:
    model, processor = compose(llm=make_llm(kind), encoder=whisper)
    together = processor(text=PROMPTS, audio=RECORDINGS)
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    tokens = model.generate(**together, **settings)
    positions = (together["attention_mask"].cumsum(-1) - 1).clamp(
        min=0
    )  # gpt2 learnt absolute ones
    logits = model(**together, position_ids=positions).logits
    shares = [RECORDINGS[:1], None, RECORDINGS[1:]]
    for row, (prompt, recordings) in enumerate(zip(PROMPTS, shares, strict=True)):
        alone = processor(text=prompt, audio=recordings)
        length = alone["input_ids"].shape[1]
        assert torch.equal(tokens[row, -6:], model.generate(**alone, **settings)[0, -6:])
        assert (logits[row, -length:] - model(**alone).logits[0]).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["gpt2", "opt", "qwen3"])
def test_a_frozen_model_does_not_drop_out_in_training(
    kind: str, make_llm: Callable[..., Path], whisper: Path
) -> None:
    changes = {} if kind != "qwen3" else {"attention_dropout": 0.5}
    model, processor = compose(llm=make_llm(kind, **changes), encoder=whisper)
    inputs = processor(text=PROMPTS, audio=RECORDINGS)
    assert torch.equal(model.train()(**inputs).logits, model.eval()(**inputs).logits)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", TIED)
def test_a_head_stays_tied_or_untied(
    kind: str, tied: bool, make_llm: Callable[..., Path], whisper: Path, tmp_path: Path
) -> None:
    folder = make_llm(kind, tie_word_embeddings=tied)
    model, processor = compose(llm=folder, encoder=whisper)
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    assert (head.weight is embeddings.weight) == tied
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    head, embeddings = again.get_output_embeddings(), again.get_input_embeddings()
    assert (head.weight is embeddings.weight) == tied
    inputs = processor(text=PROMPTS, audio=RECORDINGS)
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)
