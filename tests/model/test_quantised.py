"""4-bit language models: nothing else is quantised, gradients arrive, checkpoints stay 4-bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from transformers import BitsAndBytesConfig

from blsp.model import LlmOptions, compose, load_checkpoint, save_checkpoint
from tests.model.conftest import make_audio, save_llm

Pair = tuple[Any, Any]  # a model and its processor


@pytest.fixture(scope="module")
def small_llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blocks of 64 weights fit its sizes."""
    return save_llm(tmp_path_factory.mktemp("llm"), "qwen3", intermediate_size=128)


@pytest.fixture
def quantised(small_llm: Path, whisper: Path) -> Pair:
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    options = LlmOptions(quantization_config=nf4, dtype=torch.float32)
    return compose(llm=small_llm, encoder=whisper, options=options)


def test_only_the_projections_of_the_language_model_are_quantised(quantised: Pair) -> None:
    names = [name for name, m in quantised[0].named_modules() if isinstance(m, Linear4bit)]
    assert len(names) == 2 * 7  # layers x projections
    assert all(name.startswith("model.language_model.model.layers.") for name in names)
    assert quantised[0].is_loaded_in_4bit


def test_gradients_are_the_same_after_an_evaluation(quantised: Pair) -> None:
    model, processor = quantised
    inputs = processor(text="a <|audio|> b", audio=[make_audio(16_000)])

    def gradients() -> list[torch.Tensor]:
        model.train().zero_grad()
        labels = inputs["input_ids"].masked_fill(inputs["input_ids"] > 255, -100)
        model(**inputs, labels=labels).loss.backward()
        return [parameter.grad.clone() for parameter in model.model.adapter.parameters()]

    before = gradients()
    with torch.no_grad():
        evaluated = model.eval()(**inputs).logits
    assert torch.equal(model.train()(**inputs).logits, evaluated)
    after = gradients()
    assert all(gradient.any() for gradient in before)
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))


def test_a_checkpoint_comes_back_in_4_bit_unless_told_otherwise(
    quantised: Pair, tmp_path: Path
) -> None:
    model, processor = quantised
    save_checkpoint(model, processor, tmp_path / "checkpoint")
    inputs = processor(text="<|audio|> a", audio=[make_audio(16_000)])
    again, _ = load_checkpoint(tmp_path / "checkpoint")
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    plain = LlmOptions(quantization_config=False)
    full, _ = load_checkpoint(tmp_path / "checkpoint", options=plain)
    assert not [m for m in full.modules() if isinstance(m, Linear4bit)]
    assert not torch.equal(full(**inputs).logits, model(**inputs).logits)
