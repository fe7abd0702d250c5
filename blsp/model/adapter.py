"""Modality adapters: encoder rows to speech embeddings, and how many there will be.

`num_speech_tokens` is the one place that says how many embeddings a recording becomes; the
processor expands placeholders by it and the adapters compute their lengths with it. It is plain
integer arithmetic, so it takes an int or a tensor of ints. Adapters that decide by what is said
count as one. Rows after an utterance's end never reach a valid output, so that a batch gives what
its rows give alone.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from blsp.extensions import find_named
from blsp.model.cformer import CFormerAdapter
from blsp.model.configuration import AdapterConfig, BlspConfig
from blsp.model.encoder import Length, encoder_lengths, length_mask
from blsp.model.qformer import QFormerAdapter, query_count


def conv_length(length: Length) -> Length:
    """Rows after a convolution of stride 2 with an odd kernel and half of it as padding."""
    return (length - 1) // 2 + 1


def adapter_length(config: AdapterConfig, rows: Length) -> Length:
    """Speech embeddings that so many encoder rows become, none of none, where the rows tell it."""
    if config.class_:
        return adapter_class(config).output_length(rows, **config.options)
    if config.kind == "qformer":
        return query_count(config, rows)
    count = rows
    if config.kind == "stack":
        count = -(-rows // config.stack_factor)
    else:
        for _ in config.kernel_sizes:
            count = conv_length(count)
    return count + config.summary * (rows > 0)  # type: ignore[return-value]


def num_speech_tokens(config: AdapterConfig, frames: Length, *, window_frames: int) -> Length:
    """Speech embeddings of a recording of so many log-mel frames, encoded window by window.

    Of an adapter that decides itself it is the one placeholder that stands for whatever comes out.
    """
    if config.decides_length:
        return (frames > 0) * 1  # type: ignore[return-value]
    whole = adapter_length(config, encoder_lengths(window_frames))
    rest = adapter_length(config, encoder_lengths(frames % window_frames))
    return frames // window_frames * whole + rest  # type: ignore[return-value]


class Summary(nn.Module):
    """A few embeddings of a whole recording: learnt weights over its rows, and an MLP.

    What is not in the words has no place among embeddings that are told to be words. Pooling for
    emotion by attention is FreezeEmpath's (2026), which adds one vector to a frozen model.
    """

    def __init__(self, config: AdapterConfig, *, input_size: int, output_size: int) -> None:
        super().__init__()
        self.config = config
        self.weigh = nn.Linear(input_size, config.summary)
        self.fc1 = nn.Linear(input_size, config.bottleneck_size)
        self.fc2 = nn.Linear(config.bottleneck_size, output_size)
        self.layer_norm = nn.LayerNorm(output_size)

    def forward(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """(B, S_enc, D_enc) and its lengths (B,) -> (B, summary, D)."""
        outside = ~length_mask(lengths, rows.shape[1])[..., None]
        weights = self.weigh(rows).masked_fill(outside, -torch.inf).softmax(1)
        pooled = weights.transpose(1, 2) @ rows  # -> (B, summary, D_enc)
        return self.layer_norm(self.fc2(functional.gelu(self.fc1(pooled))))

    def reset_parameters(self) -> None:
        """Initialise as torch does, the norm's weight with ``norm_init``."""
        for module in (self.weigh, self.fc1, self.fc2, self.layer_norm):
            module.reset_parameters()
        if self.config.norm_init is not None:
            nn.init.constant_(self.layer_norm.weight, self.config.norm_init)


class RateAdapter(nn.Module):
    """An adapter whose embeddings follow each other at a fixed rate, behind those of a `Summary`
    if there is one."""

    def __init__(self, config: AdapterConfig, *, input_size: int, output_size: int) -> None:
        super().__init__()
        self.config = config
        self._build(input_size, output_size)
        if config.summary:
            self.summary = Summary(config, input_size=input_size, output_size=output_size)
        self.reset_parameters()

    def forward(self, rows: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S_enc, D_enc) and its lengths (B,) -> (B, S, D) and its lengths."""
        hidden = self._embed(rows, lengths)
        if self.config.summary:
            hidden = torch.cat([self.summary(rows, lengths).to(hidden.dtype), hidden], dim=1)
        return hidden, adapter_length(self.config, lengths)

    def reset_parameters(self) -> None:
        """Initialise projections as torch does and norms with ``norm_init``."""
        self._reset()
        if self.config.summary:
            self.summary.reset_parameters()

    def _build(self, input_size: int, output_size: int) -> None:
        raise NotImplementedError

    def _embed(self, rows: Tensor, lengths: Tensor) -> Tensor:
        raise NotImplementedError

    def _reset(self) -> None:
        raise NotImplementedError


class ConvAdapter(RateAdapter):
    """Strided convolutions with gated linear units, a residual bottleneck and a norm.

    The adapter of BLSP (arXiv 2309.00916): with three kernels of 5, a 50 Hz encoder becomes
    6.25 embeddings a second.
    """

    def _build(self, input_size: int, output_size: int) -> None:
        kernels, bottleneck = self.config.kernel_sizes, self.config.bottleneck_size
        # A gated unit halves the channels: all but the last convolution keep the encoder's width.
        self.convs = nn.ModuleList(
            nn.Conv1d(
                input_size,
                2 * (output_size if index == len(kernels) - 1 else input_size),
                size,
                stride=2,
                padding=size // 2,
            )
            for index, size in enumerate(kernels)
        )
        self.fc1 = nn.Linear(output_size, bottleneck, bias=False)
        self.fc2 = nn.Linear(bottleneck, output_size, bias=False)
        self.layer_norm = nn.LayerNorm(output_size)

    def _embed(self, rows: Tensor, lengths: Tensor) -> Tensor:
        hidden = rows.transpose(1, 2)  # (B, S_enc, D_enc) -> (B, D_enc, S_enc)
        for conv in self.convs:
            # Rows after the end carry the bias of the convolution before: hide them from the next.
            hidden = hidden * length_mask(lengths, hidden.shape[-1])[:, None].to(hidden.dtype)
            hidden = functional.glu(conv(hidden), dim=1)
            lengths = conv_length(lengths)
        hidden = hidden.transpose(1, 2)  # (B, D, S) -> (B, S, D)
        return self.layer_norm(hidden + self.fc2(functional.gelu(self.fc1(hidden))))

    def _reset(self) -> None:
        # As torch does is also what BLSP trained from.
        for module in (*self.convs, self.fc1, self.fc2, self.layer_norm):
            module.reset_parameters()  # type: ignore[operator]
        if self.config.norm_init is not None:
            nn.init.constant_(self.layer_norm.weight, self.config.norm_init)


class StackAdapter(RateAdapter):
    """Neighbouring rows stacked into one, then norm, projection, SwiGLU, projection, with a second
    norm between or after.

    Both layouts of Ultravox's projector (its 0.4.1 and 0.5 releases) with their parameter names.
    """

    def _build(self, input_size: int, output_size: int) -> None:
        config = self.config
        stacked, gated = input_size * config.stack_factor, config.hidden_size // 2
        self.ln_pre = nn.RMSNorm(stacked, eps=1e-6)
        self.linear_1 = nn.Linear(stacked, config.hidden_size, bias=False)
        self.linear_2 = nn.Linear(gated, output_size, bias=False)
        if config.norm_position == "mid":
            self.ln_mid = nn.RMSNorm(gated, eps=1e-6)
        else:
            self.ln_post = nn.RMSNorm(output_size, eps=1e-6)

    def _embed(self, rows: Tensor, lengths: Tensor) -> Tensor:
        factor, mid = self.config.stack_factor, self.config.norm_position == "mid"
        rows = rows * length_mask(lengths, rows.shape[1])[..., None].to(rows.dtype)
        rows = functional.pad(rows, (0, 0, 0, -rows.shape[1] % factor))
        hidden = rows.reshape(
            rows.shape[0], -1, factor * rows.shape[2]
        )  # -> (B, S, factor * D_enc)
        value, gate = self.linear_1(_normalize(self.ln_pre, hidden)).chunk(2, dim=-1)
        hidden = functional.silu(gate) * value
        hidden = self.linear_2(_normalize(self.ln_mid, hidden) if mid else hidden)
        return hidden if mid else _normalize(self.ln_post, hidden)

    def _reset(self) -> None:
        self.linear_1.reset_parameters()
        self.linear_2.reset_parameters()
        second = self.ln_mid if self.config.norm_position == "mid" else self.ln_post
        weight = 0.4 if self.config.norm_init is None else self.config.norm_init
        for norm in (self.ln_pre, second):
            nn.init.constant_(norm.weight, weight)


def _normalize(norm: nn.RMSNorm, hidden: Tensor) -> Tensor:
    """Normalise in the precision of the weights: mixed precision hands in 16-bit rows."""
    return norm(hidden.to(norm.weight.dtype))


_KINDS: dict[str, type[nn.Module]] = {
    "conv": ConvAdapter,
    "stack": StackAdapter,
    "qformer": QFormerAdapter,
    "cformer": CFormerAdapter,
}


def adapter_class(config: AdapterConfig) -> Any:
    """The class of an adapter.

    One of another package is a ``torch.nn.Module`` built with ``input_size``, ``output_size`` and
    the recipe's options. Its ``forward`` is that of `ConvAdapter`; its static method
    ``output_length(rows, **options)`` says how many embeddings so many encoder rows become, for an
    int and a tensor of ints; ``reset_parameters()`` initialises it.
    """
    if config.class_:
        return find_named(config.class_, key="adapter.class")
    return _KINDS[config.kind]


def build_adapter(config: BlspConfig) -> nn.Module:
    """The adapter between the encoder's width and the language model's embeddings."""
    audio: Any = config.audio_config
    output_size = config.get_text_config(decoder=True).hidden_size
    kind = adapter_class(config.adapter)
    if kind in (QFormerAdapter, CFormerAdapter):
        return kind(config.adapter, audio_config=audio, output_size=output_size)
    widths = {"input_size": audio.d_model, "output_size": output_size}
    if config.adapter.class_:
        return kind(**widths, **config.adapter.options)
    return kind(config.adapter, **widths)
