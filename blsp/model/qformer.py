"""Windowed query transformer: learnt queries that each look at their own stretch of the recording.

With `length: rate` a window of encoder rows gives a fixed number of queries (SALMONN, arXiv
2310.13289). With `length: tokens` there are as many queries as the transcript has tokens, each with
an equal share of the rows, and the number is predicted where there is no transcript ("Do SLMs Hear
Speech as They Read Text?", 2026). Encoder rows enter; embeddings and their number leave.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import WhisperConfig

from blsp.model.configuration import AdapterConfig
from blsp.model.encoder import Length, length_mask
from blsp.model.firing import RARE, round_quantity


class QFormerAdapter(nn.Module):
    """Queries, layers of self- and cross-attention, a projection.

    Self-attention is over all queries of a window of the encoder, so that with one query a stretch
    it is not empty; cross-attention is within the stretch.

    Args:
        config: queries and layers.
        audio_config: the encoder's, whose heads and inner width the layers share.
        output_size: width of the language model's embeddings.
    """

    def __init__(
        self, config: AdapterConfig, *, audio_config: WhisperConfig, output_size: int
    ) -> None:
        super().__init__()
        self.config = config
        width, self.heads = audio_config.d_model, audio_config.encoder_attention_heads
        self.queries = nn.Parameter(torch.empty(config.queries, width))
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                width,
                self.heads,
                audio_config.encoder_ffn_dim,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.layers)
        )
        self.projection = nn.Linear(width, output_size)
        self.layer_norm = nn.LayerNorm(output_size)
        if config.length == "tokens":
            self.weigh = nn.Linear(width, 1)
        self.reset_parameters()

    def forward(
        self,
        rows: Tensor,
        lengths: Tensor,
        targets: Tensor | None = None,
        *,
        most: int | None = None,
    ) -> tuple[Tensor, ...]:
        """Embed N recordings (or windows).

        Args:
            rows: (N, S_enc, D_enc).
            lengths: (N,) rows of each.
            targets: (N,) embeddings that each is to become, with `length: tokens`; None predicts.
            most: the largest of the targets, where the tensors hold no numbers (meta).

        Returns:
            (N, S, D), how many there are of each (N,), and with `length: tokens` the number that
            was predicted before it was rounded (N,).
        """
        if self.config.length == "rate":
            counts = query_count(self.config, lengths)
            most = query_count(self.config, rows.shape[1])
            return self._embed(rows, lengths, counts, most), counts
        mask = length_mask(lengths, rows.shape[1])
        quantity = (functional.softplus(self.weigh(rows).float())[..., 0] * mask).sum(1)
        counts = round_quantity(quantity) if targets is None else targets
        most = max(1, int(counts.max())) if most is None else most
        return self._embed(rows, lengths, counts, most), counts, quantity

    def _embed(self, rows: Tensor, lengths: Tensor, counts: Tensor, most: int) -> Tensor:
        first, last = self._stretches(lengths, counts, most)  # (N, S) each
        row = torch.arange(rows.shape[1], device=rows.device)
        outside = (row < first[..., None]) | (row >= last[..., None])  # (N, S, S_enc)
        outside = outside.repeat_interleave(self.heads, dim=0)
        absent = ~length_mask(counts, most)
        absent[:, 0] = False  # a window without embeddings must still have numbers
        repeats = -(-most // self.config.queries)
        hidden = self.queries.repeat(repeats, 1)[:most].expand(len(rows), -1, -1)
        for layer in self.layers:
            hidden = layer(hidden, rows, memory_mask=outside, tgt_key_padding_mask=absent)
        return self.layer_norm(self.projection(hidden))

    def _stretches(self, lengths: Tensor, counts: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """First row and the one after the last that each query looks at, both (N, S)."""
        query = torch.arange(most, device=lengths.device)
        if self.config.length == "rate":
            first = query // self.config.queries * self.config.query_window
            last = torch.minimum(first + self.config.query_window, lengths[:, None])
            first = first.expand_as(last)
        else:
            counts = counts.clamp(min=1)[:, None]
            first = query * lengths[:, None] // counts
            last = -(-((query + 1) * lengths[:, None]) // counts)
        first = torch.minimum(first, lengths[:, None] - 1)  # queries that are not there see a row
        return first, torch.minimum(torch.maximum(last, first + 1), lengths[:, None])

    def reset_parameters(self) -> None:
        """Initialise as torch does, queries as embeddings, the norm's weight with ``norm_init``."""
        for module in self.modules():
            reset = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
            if module is not self and reset is not None:
                reset()
        nn.init.normal_(self.queries, std=0.02)
        if self.config.length == "tokens":
            nn.init.constant_(self.weigh.bias, RARE)
        if self.config.norm_init is not None:
            nn.init.constant_(self.layer_norm.weight, self.config.norm_init)


def query_count(config: AdapterConfig, rows: Length) -> Length:
    """Embeddings of so many encoder rows with `length: rate`."""
    return -(-rows // config.query_window) * config.queries  # type: ignore[return-value]
