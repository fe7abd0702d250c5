"""Models of real size on the meta device: published counts, and quantised bytes as loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from model.conftest import save_llm, save_whisper
from training import ADAPTER
from transformers import AutoConfig, AutoModelForCausalLM, WhisperConfig

from blsp.memory import held_bytes
from blsp.model import LoraConfig, compose
from blsp.model.foundations import quantization_options
from blsp.recipe import Recipe, RecipeData, RecipeModel
from blsp.sizing import build_meta, count_quantised, forecast_recipe, largest_batch
from blsp.trainer import TrainingConfig


def build_recipe(tmp_path: Path, **model: Any) -> Recipe:
    return Recipe(
        data=RecipeData(train=(tmp_path / "train.jsonl",)),
        model=RecipeModel(llm="llm", encoder="whisper", adapter=ADAPTER, **model),
        training=TrainingConfig(output=tmp_path, learning_rate=1e-3, steps=1, dtype="bf16"),
    )


def test_a_model_on_the_meta_device_is_the_one_that_is_composed(tmp_path: Path) -> None:
    llm = save_llm(tmp_path / "llm", "qwen3")
    whisper = save_whisper(tmp_path / "whisper")
    lora = LoraConfig(scope="speech", rank=4)
    real, _ = compose(llm=llm, encoder=whisper, adapter=ADAPTER, lora=lora)
    configs: Any = AutoConfig.from_pretrained(llm), WhisperConfig.from_pretrained(whisper)
    meta = build_meta(build_recipe(tmp_path, lora=lora), *configs)
    expected = {name: (p.shape, p.requires_grad) for name, p in real.named_parameters()}
    assert {name: (p.shape, p.requires_grad) for name, p in meta.named_parameters()} == expected


@pytest.mark.parametrize("bits", [4, 8])
def test_bytes_of_quantised_weights_are_known_before_loading(bits: int, tmp_path: Path) -> None:
    llm = save_llm(tmp_path / "llm", "qwen3", hidden_size=256, intermediate_size=512)
    quantization = quantization_options(bits, torch.bfloat16)
    held = AutoModelForCausalLM.from_pretrained(
        llm, quantization_config=quantization, dtype=torch.bfloat16
    )
    plain = AutoModelForCausalLM.from_pretrained(llm, dtype=torch.bfloat16)
    found = held_bytes(held.parameters())
    layers: list[Any] = [m for m in held.modules() if "8bit" in type(m).__name__]
    found += sum(4 * layer.out_features for layer in layers)
    total, largest = count_quantised(plain, bits)
    assert total == pytest.approx(found, rel=0.01)
    assert largest == 256 * 512


def test_fewer_bits_take_less_and_everything_else_stays(tmp_path: Path) -> None:
    llm = AutoConfig.for_model("qwen3", hidden_size=64, num_hidden_layers=2, vocab_size=512)
    whisper = WhisperConfig(d_model=32, encoder_layers=2, encoder_attention_heads=2)
    found = [
        forecast_recipe(build_recipe(tmp_path, llm_bits=bits), llm, whisper) for bits in (16, 8, 4)
    ]
    assert found[0].weights > found[1].weights > found[2].weights
    assert len({(each.activations, each.optimizer, each.logits) for each in found}) == 1


def test_the_largest_batch_is_what_the_recipe_allows(tmp_path: Path) -> None:
    shape = largest_batch(build_recipe(tmp_path))
    assert (shape.rows, shape.recordings, shape.frames) == (12, 12, 1000)
    assert shape.heard_tokens == 8192 // 12
