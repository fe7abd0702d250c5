"""Whisper's encoder on the true length of the audio, instead of on 30 s of padding.

The library's encoder insists on 3,000 frames. This subclass takes any number up to that, with a
mask of the true frames: convolutions and attention see nothing of the padding, so that an
utterance gives the same rows alone and in a batch, and a batch of short clips costs what it is
long. Parameter names are the parent's; with 3,000 frames and no mask the numbers are the parent's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperDecoder, WhisperEncoder
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

Length = TypeVar("Length", int, Tensor)
"""A number of rows, or one for each recording."""


def encoder_lengths(frames: Length) -> Length:
    """Encoder rows of so many log-mel frames: two convolutions, the second of stride 2."""
    return (frames - 1) // 2 + 1


def length_mask(lengths: Tensor, longest: int) -> Tensor:
    """(B,) lengths -> (B, longest), true at the rows before each length."""
    return torch.arange(longest, device=lengths.device) < lengths[:, None]


def split_windows(features: Tensor, mask: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """(N, M, F) and (N, F) -> (W, M, <= size) and (W, <= size), in order, without empty windows.

    Audio up to one window keeps its length.
    """
    frames = features.shape[-1]
    if frames <= size:
        return features, mask
    padding = -frames % size
    features = nn.functional.pad(features, (0, padding))
    mask = nn.functional.pad(mask, (0, padding))
    count, mels = features.shape[:2]
    features = features.view(count, mels, -1, size).transpose(1, 2)  # -> (N, windows, M, size)
    mask = mask.view(count, -1, size)
    some = mask.any(-1)
    return features[some], mask[some]


class BlspWhisperEncoder(WhisperEncoder):
    """Variable-length Whisper encoder; rows beyond the true length are zero."""

    config_class = WhisperConfig
    # A whole Whisper's weights load without a report on the decoder, which is not wanted here.
    _keys_to_ignore_on_load_unexpected = {r"^(model\.)?decoder\.", r"^proj_out\."}  # noqa: RUF012

    @merge_with_config_defaults
    @capture_outputs
    def forward(  # type: ignore[override]
        self,
        input_features: Tensor,
        input_features_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Encode log-mel features.

        Args:
            input_features: (B, M, F) log-mel, F up to twice ``max_source_positions``.
            input_features_mask: (B, F), right-padded ones at true frames; None means all true.
            attention_mask: ignored, as the parent ignores it (``generate`` passes one).

        Returns:
            ``last_hidden_state`` (B, (F - 1) // 2 + 1, D).

        Raises:
            ValueError: more frames than the encoder has positions for.
        """
        longest = 2 * self.max_source_positions
        if input_features.shape[-1] > longest:
            raise ValueError(
                f"expected at most {longest} log-mel frames, found {input_features.shape[-1]}; "
                "split longer audio into windows first"
            )
        lengths, keep = None, None
        if input_features_mask is not None:
            keep = input_features_mask[:, None].to(input_features.dtype)
            lengths = encoder_lengths(input_features_mask.sum(-1))
        hidden = self._embed(input_features, keep)  # (B, M, F) -> (B, S, D)
        rows, row_mask = None, None
        if lengths is not None:
            rows = length_mask(lengths, hidden.shape[1])
            row_mask = create_bidirectional_mask(
                config=self.config, inputs_embeds=hidden, attention_mask=rows
            )
        for layer in self.layers:
            hidden = layer(hidden, row_mask, **kwargs)
        hidden = self.layer_norm(hidden)
        if rows is not None:
            hidden = hidden * rows[..., None].to(hidden.dtype)
        return BaseModelOutput(last_hidden_state=hidden)

    def _embed(self, features: Tensor, keep: Tensor | None) -> Tensor:
        # The second convolution must see zeros after the end, not the first one's bias and smear.
        features = features if keep is None else features * keep
        hidden = nn.functional.gelu(self.conv1(features))
        hidden = hidden if keep is None else hidden * keep
        hidden = nn.functional.gelu(self.conv2(hidden)).transpose(1, 2)
        hidden = hidden + self.embed_positions.weight[: hidden.shape[1]]
        return nn.functional.dropout(hidden, p=self.dropout, training=self.training)


@contextmanager
def masked_cross_attention(decoder: WhisperDecoder, lengths: Tensor) -> Iterator[None]:
    """Within the block the decoder attends to the first ``lengths`` (B,) encoder rows only.

    The library hands no mask to Whisper's cross-attention, so a short clip in a batch would attend
    to rows after its end. Beams of one clip are neighbours, as ``generate`` lays them out.
    """

    def add_mask(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        states = kwargs["key_value_states"]
        repeats = states.shape[0] // lengths.shape[0]
        rows = torch.arange(states.shape[1], device=states.device)
        outside = rows >= lengths.repeat_interleave(repeats)[:, None]
        mask = torch.zeros(outside.shape, dtype=states.dtype, device=states.device)
        mask = mask.masked_fill(outside, torch.finfo(states.dtype).min)
        return args, kwargs | {"attention_mask": mask[:, None, None]}  # (B, 1, 1, S)

    layers = [part for name, part in decoder.named_modules() if name.endswith(".encoder_attn")]
    handles = [layer.register_forward_pre_hook(add_mask, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
