"""How much memory a training step will take, found out without taking it.

Weights, gradients and optimizer state are counted. Activations are found by running the language
model and the adapter on torch's meta device, where tensors have shapes and no numbers: what
autograd keeps for the backward pass is counted, for any architecture, at any size; of fused
attention what its kernels keep. What exists for a moment only (logits of a chunk, the widest layer,
a weight that is unpacked) is estimated. A model and the shape of a batch enter; bytes leave.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from blsp.losses import DEFAULT_CHUNK
from blsp.model import BlspConfig, BlspForConditionalGeneration
from blsp.model.adapter import build_adapter
from blsp.model.lora import install_lora, is_lora
from blsp.model.modeling import WINDOWS_AT_ONCE

_COPIES_OF_LOGITS = 4
"""Of a chunk, in float32, at the peak of a response loss; one more under a soft cap."""
_FUSED = "blsp_fused"
_WIDEST = 3
"""Tensors of a layer's inner width that exist together, in a forward pass that keeps nothing."""


@dataclass(frozen=True, kw_only=True)
class BatchShape:
    """The largest batch of a run."""

    rows: int
    """B"""
    heard_tokens: int
    """T, of the longest view with audio"""
    read_tokens: int
    """U, of the longest view with transcripts"""
    recordings: int
    frames: int
    """Log-mel frames of the longest recording, padding included"""
    spoken_tokens: int
    """Embeddings of the recording that has most of them, where the adapter decides how many"""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Bytes at the peak of a step."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    passing: int
    """What exists for a moment only."""

    @property
    def total(self) -> int:
        return sum(vars(self).values())

    def line(self) -> str:
        """For a person, in GB."""
        parts = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in vars(self).items())
        return f"memory of the largest batch: {self.total / 1e9:.2f} GB ({parts})"


def forecast_memory(
    model: BlspForConditionalGeneration, shape: BatchShape, *, checkpointing: bool, bf16: bool
) -> Forecast:
    """Return what a step on a batch of this shape takes on one device, without a CUDA context.

    Args:
        model: loaded, or on the meta device; it is not run.
        shape: of the largest batch.
        checkpointing: the language model's layers are recomputed in the backward pass.
        bf16: matrices are multiplied in bfloat16.
    """
    config = model.config
    trained = [p for p in model.parameters() if p.requires_grad]
    size = sum(parameter.numel() for parameter in trained)
    text_config: Any = config.get_text_config(decoder=True)
    embeddings: Any = model.get_input_embeddings()
    attention = model.model.language_model.config._attn_implementation
    activations = count_activations(
        config,
        shape,
        dtype=embeddings.weight.dtype,
        attention="eager" if attention == "eager" else _FUSED,
        checkpointing=checkpointing,
        bf16=bf16,
    )
    inner = max(getattr(text_config, "intermediate_size", 0) or 0, text_config.hidden_size)
    tokens = shape.rows * max(shape.heard_tokens, shape.read_tokens)
    audio: Any = config.audio_config
    windows = min(shape.recordings, WINDOWS_AT_ONCE)
    encoder = windows * (shape.frames // 2) * audio.encoder_ffn_dim * 2
    layer = tokens * inner * _WIDEST
    return Forecast(
        weights=held_bytes([*model.parameters(), *model.buffers()]),
        gradients=4 * size,
        optimizer=8 * size,
        activations=activations,
        logits=DEFAULT_CHUNK * text_config.vocab_size * 4 * _COPIES_OF_LOGITS,
        passing=max(encoder, layer) * (2 if bf16 else 4) + _unpacked(model),
    )


def held_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, each storage once, with the scales of 4-bit weights."""
    seen: dict[int, int] = {}
    for tensor in tensors:
        scales = getattr(tensor, "quant_state", None)
        extra = 0
        if scales is not None:
            inner = getattr(scales, "state2", None)
            extra = scales.absmax.nbytes + (inner.absmax.nbytes if inner is not None else 0)
        seen[tensor.untyped_storage()._cdata] = tensor.nbytes + extra
    return sum(seen.values())


def count_activations(
    config: BlspConfig,
    shape: BatchShape,
    *,
    dtype: torch.dtype,
    attention: str,
    checkpointing: bool,
    bf16: bool,
) -> int:
    """Return the bytes that autograd keeps for the backward pass of adapter and language model."""
    ALL_ATTENTION_FUNCTIONS.register(_FUSED, _fused)
    ALL_MASK_ATTENTION_FUNCTIONS.register(_FUSED, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    # A copy: the attention is noted in it, and the model reads its own from there.
    config = deepcopy(config)
    text_config: Any = config.get_text_config(decoder=True)
    audio_config: Any = config.audio_config
    if audio_config._attn_implementation != "eager":
        audio_config._attn_implementation = _FUSED
    with torch.device("meta"):
        llm = AutoModelForCausalLM.from_config(text_config, attn_implementation=attention)
        llm = llm.to(dtype).requires_grad_(False)
        state = install_lora(llm, config.lora) if config.lora.scope != "none" else None
        # What is trained is float32, but mixed precision multiplies, and keeps, 16 bits of it.
        multiplied = torch.bfloat16 if bf16 else torch.float32
        adapter = build_adapter(config).to(multiplied)
        for name, parameter in llm.named_parameters():
            parameter.data = parameter.data.to(multiplied) if is_lora(name) else parameter.data
        rows = torch.empty(
            shape.recordings, shape.frames // 2, audio_config.d_model, dtype=multiplied
        )
        lengths = torch.full((shape.recordings,), shape.frames // 2)
        embeds = torch.empty(shape.rows, shape.heard_tokens, text_config.hidden_size, dtype=dtype)
        # Given whole, because the library looks at the numbers of any other mask.
        mask = embeds.new_empty(shape.rows, 1, shape.heard_tokens, shape.heard_tokens)
    embeds.requires_grad_(True)
    layers = text_config.num_hidden_layers
    if checkpointing:
        layers += _run_again(adapter)
        llm.gradient_checkpointing_enable({"use_reentrant": False})
        llm.train()
    kept = _Kept([*llm.parameters(), *adapter.parameters()])
    with torch.autograd.graph.saved_tensors_hooks(kept.note, lambda tensor: tensor):
        # On the meta device nobody can say how many embeddings there are; it is told.
        told = {"targets": lengths, "most": shape.spoken_tokens}
        with _fuse_attention():
            heard, *_ = adapter(rows, lengths, **(told if config.adapter.decides_length else {}))
        # On the meta device nobody can say where speech is; LoRA keeps its rows everywhere.
        with state.use("everywhere") if state is not None else nullcontext():
            decoder: Any = llm.base_model
            out = decoder(inputs_embeds=embeds, attention_mask=mask, use_cache=False)[0]
    kept.note(out)
    kept.note(embeds)
    total = kept.bytes
    del heard, out
    if checkpointing:  # one layer at a time is run again
        whole = count_activations(
            config, shape, dtype=dtype, attention=attention, checkpointing=False, bf16=bf16
        )
        total += (whole - total) // layers
    return total


def _run_again(adapter: nn.Module) -> int:
    """Checkpoint what of an adapter the library would, and return how many layers that is."""
    layers: list[Any] = [m for m in adapter.modules() if isinstance(m, GradientCheckpointingLayer)]
    for layer in layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
    adapter.train()
    return len(layers)


class _Kept:
    """Counts storages that autograd was told to keep, each once; weights are there anyway."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self._seen = {weight.untyped_storage()._cdata for weight in weights}
        self._alive: list[Tensor] = []  # a storage that is freed may give its address to another
        self.bytes = 0

    def note(self, tensor: Tensor) -> Tensor:
        """Take in a tensor."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._alive.append(tensor.detach())
            self.bytes += storage.nbytes()
        return tensor


class _FusedAttention(torch.autograd.Function):
    """Keeps what fused kernels keep: the inputs, the output and a number a row and head."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        out = torch.empty_like(query)
        sums = query.new_empty(query.shape[:3]).float()
        ctx.save_for_backward(query, key, value, out, sums, *([] if mask is None else [mask]))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError


@contextmanager
def _fuse_attention() -> Iterator[None]:
    """Give adapters fused attention, which the meta device lacks: it would keep every matrix."""
    real = functional.scaled_dot_product_attention

    def fused(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        *_: Any,
        **__: Any,
    ) -> Tensor:
        return _FusedAttention.apply(query, key, value, attn_mask)  # type: ignore[return-value]

    functional.scaled_dot_product_attention = fused
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = real


def _fused(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, None]:
    """(B, H, T, D) -> (B, T, H, D), as the library's attention functions do."""
    return _FusedAttention.apply(query, key, value).transpose(1, 2).contiguous(), None  # type: ignore[union-attr]


def _unpacked(model: nn.Module) -> int:
    """Bytes of the largest quantised weight in 16 bits: it is unpacked to be multiplied with."""
    sizes = [
        2 * int(module.in_features) * int(module.out_features)  # type: ignore[arg-type]
        for module in model.modules()
        if type(module).__name__ in ("Linear4bit", "Linear8bitLt")
    ]
    return max(sizes, default=0)


def shape_of(batch: dict[str, Any]) -> BatchShape:
    """The shape of a collated batch."""
    rows, heard = batch["input_ids"].shape
    features = batch.get("input_features")
    spoken = batch.get("speech_lengths")
    return BatchShape(
        rows=rows,
        heard_tokens=heard,
        read_tokens=batch["teacher_input_ids"].shape[1],
        recordings=0 if features is None else features.shape[0],
        frames=0 if features is None else features.shape[-1],
        spoken_tokens=0 if spoken is None else int(spoken.max()),
    )
