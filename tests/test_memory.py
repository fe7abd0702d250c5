"""The forecast against what torch's profiler counts, for five architectures and other adapters."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from blsp.memory import forecast_memory, held_bytes, shape_of
from blsp.model import LlmOptions, LoraConfig, compose
from blsp.model.configuration import AdapterConfig
from blsp.model.processing import pad_features
from blsp.objectives import LossConfig, compute_loss
from tests.model.conftest import make_audio, save_llm, save_whisper

WIDTHS = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "vocab_size": 3000,
}


def build(
    folder: Path, kind: str, scope: str, *, bf16: bool, adapter: AdapterConfig | None = None
) -> tuple[Any, Any]:
    dtype = torch.bfloat16 if bf16 else torch.float32
    return compose(
        llm=save_llm(folder / "llm", kind, **dict[str, Any](WIDTHS)),
        encoder=save_whisper(folder / "whisper", d_model=128, encoder_ffn_dim=512),
        adapter=adapter,
        lora=LoraConfig(scope=scope, rank=8),  # type: ignore[arg-type]
        options=LlmOptions(dtype=dtype, attn_implementation="eager"),
        encoder_dtype=dtype,
    )


def make_batch(model: Any, processor: Any, rows: int, seconds: float) -> dict[str, Any]:
    audio = [make_audio(int(seconds * 16_000), row) for row in range(rows)]
    speech = processor.num_speech_tokens(len(audio[0]))
    speech = 25 if model.config.adapter.decides_length else speech
    ids = torch.randint(5, 250, (rows, 120 + speech))
    ids[:, 10 : 10 + speech] = model.config.audio_token_id
    read = torch.randint(5, 250, (rows, 145))
    labels, read_labels = torch.full_like(ids, -100), torch.full_like(read, -100)
    for view in (labels, read_labels):
        view[:, -60:] = ids[:, -60:]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
        "speech_lengths": torch.full((rows,), speech),
        "teacher_input_ids": read,
        "teacher_attention_mask": torch.ones_like(read),
        "teacher_labels": read_labels,
        **pad_features([processor.extract_features(one) for one in audio]),
    }


def measure_peak(model: Any, batch: dict[str, Any], *, bf16: bool) -> int:
    """Bytes at the peak of a step, by the profiler; of a second one, when all state exists."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = compute_loss(model, model, batch, LossConfig())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    held = held_bytes([*model.parameters(), *model.buffers()])
    held += sum(t.nbytes for s in optimizer.state.values() for t in s.values())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step()
    now = peak = 0
    for event in found.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            now += event.nbytes()  # type: ignore[attr-defined]
            peak = max(peak, now)
    return held + peak


def check(model: Any, processor: Any, *, checkpointing: bool, bf16: bool) -> None:
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
    batch = make_batch(model, processor, rows=8, seconds=8.0)
    forecast = forecast_memory(model, shape_of(batch), checkpointing=checkpointing, bf16=bf16)
    measured = measure_peak(model, batch, bf16=bf16)
    assert forecast.total == pytest.approx(measured, rel=0.15), forecast.line()


@pytest.mark.parametrize(
    ("kind", "scope", "checkpointing", "bf16"),
    [
        ("qwen3", "none", False, False),
        ("qwen2", "all", False, True),
        ("llama", "speech", True, False),
        ("gemma2", "none", True, True),
        ("gpt_neox", "none", False, False),
    ],
)
def test_the_forecast_is_within_15_percent_of_what_is_allocated(
    kind: str, scope: str, checkpointing: bool, bf16: bool, tmp_path: Path
) -> None:
    model, processor = build(tmp_path, kind, scope, bf16=bf16)
    check(model, processor, checkpointing=checkpointing, bf16=bf16)


@pytest.mark.parametrize(
    ("adapter", "checkpointing", "bf16"),
    [
        (AdapterConfig(kind="cformer"), False, False),
        (AdapterConfig(kind="cformer"), True, True),
        (AdapterConfig(kind="qformer", length="tokens"), False, False),
        (AdapterConfig(kind="qformer", queries=2), False, False),
    ],
)
def test_adapters_with_attention_are_counted_too(
    adapter: AdapterConfig, checkpointing: bool, bf16: bool, tmp_path: Path
) -> None:
    """25 embeddings of 8 s, wherever the adapter decides by what is said."""
    model, processor = build(tmp_path, "qwen3", "none", bf16=bf16, adapter=adapter)
    check(model, processor, checkpointing=checkpointing, bf16=bf16)
