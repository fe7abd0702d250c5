"""The adapter of BLSP-KD: one speech embedding for each token of the transcript.

Transformer layers over the encoder's rows weigh every row; continuous integrate-and-fire gathers
the rows into tokens; more layers over the tokens, and a projection. In training the number of
tokens is that of the transcript; otherwise it is what the weights add up to, so that no formula of
the recording's length tells it. Encoder rows enter; embeddings, their number and the sums leave.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer, sinusoids

from blsp.model.configuration import AdapterConfig
from blsp.model.encoder import length_mask
from blsp.model.firing import RARE, integrate_and_fire, round_quantity, scale_weights


class CFormerAdapter(nn.Module):
    """Layers before, continuous integrate-and-fire, layers after (arXiv 2405.19041).

    Args:
        config: how many layers.
        audio_config: the encoder's; the layers are made like its own.
        output_size: width of the language model's embeddings.
    """

    def __init__(
        self, config: AdapterConfig, *, audio_config: WhisperConfig, output_size: int
    ) -> None:
        super().__init__()
        # A copy, so that these layers may attend in another way than the encoder's.
        self.config, self.audio_config = config, deepcopy(audio_config)
        width = audio_config.d_model
        self.pre_layers = _build_layers(self.audio_config, config.pre_layers)
        self.weigh = nn.Linear(width, 1)
        self.post_layers = _build_layers(self.audio_config, config.post_layers)
        self.projection = nn.Linear(width, output_size)
        self.layer_norm = nn.LayerNorm(output_size)
        self.reset_parameters()

    def forward(
        self,
        rows: Tensor,
        lengths: Tensor,
        targets: Tensor | None = None,
        *,
        most: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Embed N recordings (or windows).

        Args:
            rows: (N, S_enc, D_enc).
            lengths: (N,) rows of each.
            targets: (N,) embeddings that each is to become; None leaves it to the weights.
            most: the largest of the targets, where the tensors hold no numbers (meta).

        Returns:
            (N, S, D), how many there are of each (N,), and the sums of the weights (N,).
        """
        mask = length_mask(lengths, rows.shape[1])
        hidden = self._run(self.pre_layers, rows, mask)  # (N, S_enc, D_enc)
        weights = torch.sigmoid(self.weigh(hidden).float())[..., 0] * mask
        quantity = weights.sum(1)
        counts = round_quantity(quantity) if targets is None else targets
        # A window may have no token, and must still have numbers.
        present = counts.clamp(min=1)
        most = int(present.max()) if most is None else most
        scaled = scale_weights(weights, mask, counts)
        tokens = integrate_and_fire(hidden, scaled, counts, most)  # -> (N, S, D_enc)
        places = sinusoids(most, tokens.shape[-1]).to(tokens.device, tokens.dtype)
        tokens = self._run(self.post_layers, tokens + places, length_mask(present, most))
        return self.layer_norm(self.projection(tokens)), counts, quantity

    def _run(self, layers: nn.ModuleList, hidden: Tensor, mask: Tensor) -> Tensor:
        config: Any = self.audio_config
        seen = create_bidirectional_mask(
            config=config,
            inputs_embeds=hidden,
            attention_mask=mask,
            allow_is_bidirectional_skip=False,  # it would look at numbers, of which meta has none
        )
        for layer in layers:
            hidden = layer(hidden, seen)
        return hidden

    def reset_parameters(self) -> None:
        """Initialise as torch does; tokens are rare, and the norm's weight is ``norm_init``."""
        for module in self.modules():
            if module is not self and hasattr(module, "reset_parameters"):
                module.reset_parameters()  # type: ignore[operator]
        nn.init.constant_(self.weigh.bias, RARE)
        if self.config.norm_init is not None:
            nn.init.constant_(self.layer_norm.weight, self.config.norm_init)


def _build_layers(audio_config: WhisperConfig, count: int) -> nn.ModuleList:
    return nn.ModuleList(WhisperEncoderLayer(audio_config) for _ in range(count))
