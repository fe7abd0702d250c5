"""Generation with recordings: the speech side runs once, then the library's own `generate`.

Where the adapter decides how many embeddings a recording becomes, its placeholders are fitted to
what came out. Prompts and log-mel features enter; prompts with their continuations leave. No future
annotations here: transformers reads types at run time.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin

from blsp.model.configuration import BlspConfig
from blsp.model.placeholders import fit_placeholders


class SpeechGenerationMixin(GenerationMixin):
    """What a model with ``get_audio_features`` adds to the library's generation."""

    config: BlspConfig
    get_audio_features: Callable[..., Any]

    def fit_audio(  # noqa: PLR0913  the names are those of `forward`
        self,
        input_ids: Tensor,
        input_features: Tensor,
        input_features_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        lengths: Tensor | None = None,
        left: bool = True,
    ) -> dict[str, Tensor]:
        """Run the speech side, and give each recording as many placeholders as came out.

        Args:
            input_ids: (B, T).
            input_features: (N, M, F).
            input_features_mask: (N, F).
            attention_mask: (B, T); padding is dropped, and put back where it is needed.
            labels: (B, T).
            lengths: (N,) placeholders that each recording has in ``input_ids``; None is one.
            left: pad on the left, as `generate` wants it.

        Returns:
            What `forward` takes instead: ``input_ids``, ``attention_mask``, ``labels`` where they
            were given, and ``speech_embeds`` (sum of S, D).
        """
        speech = self.get_audio_features(input_features, input_features_mask)
        rows = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        if attention_mask is None:
            rows["attention_mask"] = torch.ones_like(input_ids)
        counts: Any = torch.ones_like(speech.lengths) if lengths is None else lengths  # type: ignore[arg-type]
        fitted = fit_placeholders(
            {name: tensor for name, tensor in rows.items() if tensor is not None},
            input_ids == self.config.audio_token_id,
            (counts, speech.lengths),  # type: ignore[arg-type]
            left=left,
        )
        return fitted | {"speech_embeds": speech.pooler_output}  # type: ignore[dict-item]

    def _expand_inputs_for_generation(  # type: ignore[override]
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor, dict[str, Any]]:
        # The library repeats every row of every tensor, but a prompt may have several recordings
        # or none: all of a prompt's speech embeddings are repeated together.
        speech = model_kwargs.pop("speech_embeds", None)
        expanded: Any = super()._expand_inputs_for_generation(  # type: ignore[misc]
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        if speech is None:
            return expanded
        if expand_size == 1:  # ids may have earlier recordings, which are in the cache
            return expanded[0], expanded[1] | {"speech_embeds": speech}
        placeholders: Any = (input_ids == self.config.audio_token_id).sum(-1)
        pieces = [
            piece for piece in speech.split(placeholders.tolist()) for _ in range(expand_size)
        ]
        return expanded[0], expanded[1] | {"speech_embeds": torch.cat(pieces)}

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """The library's, with the speech side run once, before anything is repeated for beams.

        Where the adapter decides how many embeddings a recording becomes, the prompt holds one
        placeholder for it, as the processor puts it; what is returned begins with that prompt.
        """
        ids = kwargs.pop("input_ids", inputs)
        features = kwargs.pop("input_features", None)
        mask = kwargs.pop("input_features_mask", None)
        if features is None:
            return super().generate(ids, **kwargs)  # type: ignore[misc]
        if not self.config.adapter.decides_length:
            speech = self.get_audio_features(features, mask).pooler_output
            return super().generate(ids, speech_embeds=speech, **kwargs)  # type: ignore[misc]
        given = kwargs.pop("attention_mask", None)
        fitted = self.fit_audio(ids, features, mask, given)
        width = fitted["input_ids"].shape[1]
        output: Any = super().generate(fitted.pop("input_ids"), **fitted, **kwargs)  # type: ignore[misc]
        sequences = output if isinstance(output, Tensor) else output.sequences
        prompts = ids.repeat_interleave(len(sequences) // len(ids), dim=0)  # type: ignore[union-attr]
        sequences = torch.cat([prompts, sequences[:, width:]], dim=1)
        if isinstance(output, Tensor):
            return sequences
        output.sequences = sequences
        return output

    def _prepare_generation_config(
        self, generation_config: GenerationConfig | None, **kwargs: Any
    ) -> tuple[GenerationConfig, dict[str, Any]]:
        # A generated audio token would be an embedding without a recording.
        config, rest = super()._prepare_generation_config(generation_config, **kwargs)  # type: ignore[misc]
        token = self.config.audio_token_id
        if token < self.config.get_text_config(decoder=True).vocab_size:
            config.suppress_tokens = sorted({*(config.suppress_tokens or ()), token})
        return config, rest
