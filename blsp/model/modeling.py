"""The model: a Whisper encoder, an adapter, and the whole language model that hears.

The language model stays a complete causal LM and is fed embeddings. Its own forward pass then
scales, caps or ties whatever it does, and text gets exactly the logits it would get without us.
Speech embeddings stand at the positions of the audio token, in order. No future annotations here:
transformers reads this file's types at run time.
"""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling
from transformers.utils.generic import ModelOutput

from blsp.checkpoint import check_complete, read_delta
from blsp.model.adapter import adapter_class, build_adapter
from blsp.model.configuration import BlspConfig
from blsp.model.encoder import (
    BlspWhisperEncoder,
    encoder_lengths,
    length_mask,
    split_windows,
)
from blsp.model.generating import SpeechGenerationMixin
from blsp.model.head import HeadTransform, head_transform
from blsp.model.lora import LoraState, install_lora, is_lora
from blsp.model.placeholders import share_out
from blsp.model.restoring import apply_delta, find_checkpoint, load_bases
from blsp.model.sharding import gather

AUDIO_TYPE = 3
"""The library's number for audio in ``mm_token_type_ids``."""

EMOTION_HEAD = "model.emotion_head."
"""What the names of the emotion classifier's weights begin with."""

WINDOWS_AT_ONCE = 16
"""Encoder windows in one pass, so that an hour of audio needs the memory of eight minutes."""


@dataclass
class SpeechOutput(BaseModelOutputWithPooling):
    """Recordings as the language model is to see them; ``pooler_output`` (sum of S, D)."""

    lengths: Tensor | None = None
    """(N,) embeddings of each recording."""
    quantity: Tensor | None = None
    """(N,) how many an adapter would have made that decides itself, before it is rounded."""


@dataclass
class BlspOutput(ModelOutput):
    """What the model returns; the last four only with ``skip_lm_head`` or ``skip_llm``."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    last_hidden_state: Tensor | None = None
    speech_embeds: Tensor | None = None
    speech_lengths: Tensor | None = None
    speech_quantity: Tensor | None = None


class BlspPreTrainedModel(PreTrainedModel):
    """What both classes share."""

    config_class = BlspConfig
    config: BlspConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ["audio", "text"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Encoder and language model initialise themselves; only the adapter is ours.
        if isinstance(module, adapter_class(self.config.adapter)):
            module.reset_parameters()  # type: ignore[operator]

    @classmethod
    def from_pretrained(cls, source: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Load a model; a checkpoint of trained weights is joined with its base models.

        Without this a checkpoint would come up with a random language model: the library fills
        whatever is missing and only logs it. ``llm`` and ``encoder`` name other places of the
        same base weights.
        """
        folder = None if source is None else find_checkpoint(source, kwargs.get("revision"))
        if folder is None:
            return super().from_pretrained(source, *args, **kwargs)
        whole = _load_delta(folder, **kwargs)
        return whole if cls is BlspForConditionalGeneration else whole.model

    def _set_gradient_checkpointing(
        self,
        enable: bool = True,
        gradient_checkpointing_func: Callable[..., Any] = checkpoint,
        every_n_layers: int = 1,
    ) -> None:
        state: Any = self.base_model.lora_state
        if state is not None and enable:
            gradient_checkpointing_func = state.wrap_checkpoint(gradient_checkpointing_func)
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, every_n_layers)

    def _keep_present_blocks(self) -> None:
        # Whisper's list names its decoder layer, which is not in here; FSDP fails on such a name.
        present = {type(module).__name__ for module in self.modules()}
        self._no_split_modules = set(self._no_split_modules or ()) & present


class BlspModel(BlspPreTrainedModel):
    """Encoder, adapter and language model; returns the language model's last hidden states."""

    def __init__(self, config: BlspConfig) -> None:
        super().__init__(config)
        self.audio_tower = BlspWhisperEncoder(config.audio_config)  # type: ignore[arg-type]
        self.adapter = build_adapter(config)
        self.emotion_head = build_emotion_head(config)
        self.lora_state: LoraState | None = None
        self.set_language_model(AutoModelForCausalLM.from_config(config.text_config))
        self.post_init()
        self._keep_present_blocks()

    def set_language_model(self, language_model: PreTrainedModel) -> None:
        """Take a language model as it was loaded, and put in what LoRA the configuration says."""
        self.language_model = language_model
        if self.config.lora.scope != "none":
            self.lora_state = install_lora(language_model, self.config.lora)

    def without_lora(self) -> AbstractContextManager[None]:
        """Within the block the language model is the base: whoever reads, and the teacher."""
        return nullcontext() if self.lora_state is None else self.lora_state.use("nowhere")

    def hearing(
        self, input_ids: Tensor | None, mm_token_type_ids: Tensor | None
    ) -> AbstractContextManager[None]:
        """Within the block LoRA with scope `speech` acts at the speech of these (B, T) inputs."""
        if self.lora_state is None:
            return nullcontext()
        is_speech = None
        if input_ids is not None:
            is_speech = input_ids == self.config.audio_token_id
        elif mm_token_type_ids is not None:
            is_speech = mm_token_type_ids == AUDIO_TYPE
        return self.lora_state.hearing(is_speech, training=self.training)

    def get_input_embeddings(self) -> nn.Module:
        """The language model's token embeddings."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace them."""
        self.language_model.set_input_embeddings(value)

    def get_audio_features(
        self,
        input_features: Tensor,
        input_features_mask: Tensor | None = None,
        speech_lengths: Tensor | None = None,
        **_: Any,
    ) -> SpeechOutput:
        """Encode recordings of any length.

        Args:
            input_features: (N, M, F) log-mel; beyond the encoder's window, F is cut into windows.
            input_features_mask: (N, F), ones at true frames; None means that all are true.
            speech_lengths: (N,) embeddings that each recording is to become, for adapters that
                would decide it themselves.

        Returns:
            ``pooler_output`` (total S, D): the speech embeddings of all recordings in order; and
            how many each has.
        """
        if input_features_mask is None:
            shape = (input_features.shape[0], input_features.shape[-1])
            input_features_mask = torch.ones(shape, dtype=torch.long, device=input_features.device)
        if self.config.audio_padding == "variable":
            longest = int(input_features_mask.sum(-1).max())
            input_features = input_features[..., :longest]
            input_features_mask = input_features_mask[..., :longest]
        window = self.config.window_frames
        windows, mask = split_windows(input_features, input_features_mask, window)
        owners = -(-input_features_mask.sum(-1) // window)
        owners = torch.arange(len(owners), device=owners.device).repeat_interleave(owners)
        targets = None
        if self.config.adapter.decides_length and speech_lengths is not None:
            targets = share_out(speech_lengths, encoder_lengths(mask.sum(-1)), owners)
        pieces = []
        for start in range(0, len(windows), WINDOWS_AT_ONCE):
            some = slice(start, start + WINDOWS_AT_ONCE)
            chosen = None if targets is None else targets[some]
            pieces.append(self._embed_windows(windows[some], mask[some], chosen))
        embeds, lengths, *quantity = (torch.cat(part) for part in zip(*pieces, strict=True))
        none = lengths.new_zeros(len(input_features))
        owners = owners.to(lengths.device)
        return SpeechOutput(
            pooler_output=embeds,  # type: ignore[arg-type]
            lengths=none.index_add(0, owners, lengths),
            quantity=none.to(quantity[0].dtype).index_add(0, owners, quantity[0])
            if quantity
            else None,
        )

    def _embed_windows(
        self, features: Tensor, mask: Tensor, targets: Tensor | None
    ) -> tuple[Tensor, ...]:
        """(W, M, F) -> (sum of S, D), the embeddings of every window in order, and what they add
        up to, (W,) each."""
        lengths = encoder_lengths(mask.sum(-1))
        rows = self._encode(features, mask)  # (W, M, F) -> (W, S_enc, D_enc)
        weight = next(self.adapter.parameters())
        given: list[Any] = [rows.to(weight.device, weight.dtype), lengths.to(weight.device)]
        if self.config.adapter.decides_length:
            given.append(None if targets is None else targets.to(weight.device))
        embeds, lengths, *quantity = self.adapter(*given)
        return embeds[length_mask(lengths, embeds.shape[1])], lengths, *quantity

    def _encode(self, features: Tensor, mask: Tensor) -> Tensor:
        weight = self.audio_tower.conv1.weight
        features, mask = features.to(weight.device, weight.dtype), mask.to(weight.device)
        # Gradient checkpointing makes embeddings require gradients, Whisper's first convolution
        # too; a frozen encoder must not pay for a graph.
        trained = any(parameter.requires_grad for parameter in self.audio_tower.parameters())
        with nullcontext() if trained else torch.no_grad():
            if self.config.audio_padding == "variable":
                return self.audio_tower(features, input_features_mask=mask).last_hidden_state
            window = self.config.window_frames
            if features.shape[-1] % window:
                raise ValueError(
                    f"expected log-mel features padded to {window} frames, because this model was "
                    f"made with audio_padding: max, found {features.shape[-1]}; use its processor"
                )
            return self.audio_tower(features).last_hidden_state

    def embed(
        self,
        input_ids: Tensor,
        input_features: Tensor | None = None,
        input_features_mask: Tensor | None = None,
        **speech_lengths: Tensor,
    ) -> Tensor:
        """Token embeddings with speech embeddings at the positions of the audio token.

        Args:
            input_ids: (B, T).
            input_features: (N, M, F), the recordings in the order of their placeholders.
            input_features_mask: (N, F).
            speech_lengths: (N,), see `get_audio_features`.

        Returns:
            (B, T, D).

        Raises:
            ValueError: placeholders and speech embeddings differ in number.
        """
        speech = None
        if input_features is not None:
            heard = self.get_audio_features(input_features, input_features_mask, **speech_lengths)
            speech = heard.pooler_output
        return self.place_speech(input_ids, speech)  # type: ignore[arg-type]

    def place_speech(
        self, input_ids: Tensor, speech: Tensor | None, *, continues: bool = False
    ) -> Tensor:
        """Token embeddings with speech embeddings at the positions of the audio token.

        Args:
            input_ids: (B, T).
            speech: (sum of S, D), of all recordings in the order of their placeholders.
            continues: there is a filled cache, so that earlier recordings are not expected again.

        Returns:
            (B, T, D).

        Raises:
            ValueError: placeholders and speech embeddings differ in number.
        """
        is_audio = input_ids == self.config.audio_token_id
        embeds = self.get_input_embeddings()(input_ids.masked_fill(is_audio, 0))  # -> (B, T, D)
        placeholders = int(is_audio.sum())
        if speech is not None and not (continues and not placeholders):
            if placeholders != speech.shape[0]:
                advice = "let the processor place them, and truncate text only"
                if self.config.adapter.decides_length:
                    advice = "let `generate` or `fit_audio` fit them, as this adapter decides them"
                raise ValueError(
                    f"expected {speech.shape[0]} audio tokens for the recordings, found "
                    f"{placeholders}; {advice}"
                )
            speech = speech.to(embeds.device, embeds.dtype)
            return embeds.masked_scatter(is_audio[..., None], speech)
        if not continues and placeholders:
            raise ValueError(
                f"expected input_features for {placeholders} audio tokens, found none; pass what "
                "the processor returned"
            )
        learns = self.training and torch.is_grad_enabled()
        if learns and any(p.requires_grad for p in self.adapter.parameters()):
            embeds = embeds + 0.0 * self._silence().to(embeds.device, embeds.dtype)
        return embeds

    def _silence(self) -> Tensor:
        """Zero through the adapter: a batch of text alone still gives its weights gradients, which
        data-parallel training waits for."""
        weight = next(self.adapter.parameters())
        rows = weight.new_zeros(1, 1, self.config.audio_config.d_model)  # type: ignore[union-attr]
        embeds, _, *quantity = self.adapter(
            rows, torch.ones(1, dtype=torch.long, device=weight.device)
        )
        return embeds.sum() + sum(each.sum() for each in quantity)

    def forward(  # noqa: PLR0913  the names are the library's contract
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        input_features: Tensor | None = None,
        input_features_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Any = None,
        mm_token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states before the head, ``last_hidden_state`` (B, T, D)."""
        speech = None
        if input_features is not None:
            speech = self.get_audio_features(input_features, input_features_mask).pooler_output
        inputs_embeds = self.embeddings_of(
            input_ids,
            inputs_embeds,
            speech,  # type: ignore[arg-type]
            past_key_values,
        )
        decoder = self.language_model.base_model
        with self.hearing(input_ids, mm_token_type_ids):
            return decoder(
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                **accepted(decoder, kwargs),
            )

    def embeddings_of(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        speech: Tensor | None,
        past_key_values: Any,
    ) -> Tensor:
        """``inputs_embeds`` as they are, or those of ``input_ids`` and the speech embeddings."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("expected either input_ids or inputs_embeds, found both or neither")
        if inputs_embeds is not None:
            return inputs_embeds
        continues = past_key_values is not None and past_key_values.get_seq_length() > 0
        return self.place_speech(input_ids, speech, continues=continues)  # type: ignore[arg-type]


class BlspForConditionalGeneration(BlspPreTrainedModel, SpeechGenerationMixin):
    """The model with its head: logits, loss and ``generate``."""

    def __init__(self, config: BlspConfig) -> None:
        super().__init__(config)
        self.model = BlspModel(config)
        self.delta_names: frozenset[str] = frozenset()
        """Weights that differ from the base models', beside those that are trained now."""
        self.post_init()
        self._keep_present_blocks()

    @classmethod
    def assemble(
        cls, config: BlspConfig, language_model: PreTrainedModel, encoder: BlspWhisperEncoder
    ) -> "BlspForConditionalGeneration":
        """Join loaded models with a new adapter; base models are frozen, nothing is copied."""
        with torch.device("meta"):
            model = cls(config)
        for part in (language_model, encoder):
            part.requires_grad_(False)
            _stop_dropout(part)
        model.model.set_language_model(language_model)
        model.model.audio_tower = encoder
        device, dtype = encoder.device, torch.float32
        model.model.adapter = build_adapter(config).to(device, dtype)
        if model.model.emotion_head is not None:
            model.model.emotion_head = build_emotion_head(config).to(device, dtype)  # type: ignore[union-attr]
        model.generation_config = GenerationConfig.from_dict(
            language_model.generation_config.to_dict()  # type: ignore[union-attr]
        )
        # accelerate looks at the outermost model. It is not `is_quantized`, which the library's
        # trainer takes for a model in which nothing can be trained.
        for name in ("is_loaded_in_4bit", "is_loaded_in_8bit"):
            if hasattr(language_model, name):
                setattr(model, name, getattr(language_model, name))
        return model.eval()

    @property
    def head_transform(self) -> HeadTransform:
        """What the language model does after its head, for losses that work on hidden states."""
        return head_transform(self.config.get_text_config(decoder=True))

    def get_input_embeddings(self) -> nn.Module:
        """The language model's token embeddings."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace them."""
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The language model's head."""
        return self.model.language_model.get_output_embeddings()  # type: ignore[return-value]

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace it."""
        self.model.language_model.set_output_embeddings(new_embeddings)

    def get_audio_features(
        self,
        input_features: Tensor,
        input_features_mask: Tensor | None = None,
        speech_lengths: Tensor | None = None,
        **_: Any,
    ) -> SpeechOutput:
        """See `BlspModel.get_audio_features`."""
        return self.model.get_audio_features(input_features, input_features_mask, speech_lengths)

    def delta_state(self) -> dict[str, Tensor]:
        """What a checkpoint holds: the adapter, what is trained, and what an import changed.

        Where weights are in shards, all processes call this together.
        """
        kept = {
            name: parameter
            for name, parameter in self.named_parameters()
            if parameter.requires_grad or name in self.delta_names
        }
        adapter = self.model.adapter.state_dict(prefix="model.adapter.")
        return {name: gather(tensor.detach()) for name, tensor in (adapter | kept).items()}

    def forward(  # noqa: PLR0913  the names are the library's contract
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        input_features: Tensor | None = None,
        input_features_mask: Tensor | None = None,
        labels: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Any = None,
        position_ids: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        speech_lengths: Tensor | None = None,
        speech_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        skip_lm_head: bool = False,
        skip_llm: bool = False,
        **kwargs: Any,
    ) -> BlspOutput:
        """Logits, and a loss where there are labels.

        Args:
            input_ids: (B, T), with one audio token for every speech embedding.
            attention_mask: (B, T).
            input_features: (N, M, F) log-mel of all recordings of the batch, in order.
            input_features_mask: (N, F), ones at true frames.
            labels: (B, T), -100 where there is no target.
            inputs_embeds: (B, T, D) instead of ``input_ids``.
            past_key_values: cache of earlier positions.
            position_ids: (B, T).
            mm_token_type_ids: (B, T), 3 at speech; says where speech stands in ``inputs_embeds``.
            speech_lengths: (N,) embeddings that each recording is to become, for adapters that
                would decide it themselves.
            speech_embeds: (sum of S, D) instead of ``input_features``, from `fit_audio`.
            use_cache: return a cache.
            logits_to_keep: compute logits of the last so many positions only; 0 means all.
            skip_lm_head: return ``last_hidden_state`` (B, T, D) and no logits, for losses that
                apply the head piece by piece; also ``speech_embeds`` (sum of S, D), those of all
                recordings in order, and with audio ``speech_lengths`` (N,) and, from adapters that
                decide themselves, ``speech_quantity`` (N,).
            skip_llm: return what is of speech only.

        Raises:
            ValueError: audio tokens and recordings do not fit each other.
        """
        heard = SpeechOutput(pooler_output=speech_embeds)  # type: ignore[arg-type]
        if input_features is not None and speech_embeds is None:
            heard = self.get_audio_features(input_features, input_features_mask, speech_lengths)
        inputs_embeds = self.model.embeddings_of(
            input_ids,
            inputs_embeds,
            heard.pooler_output,  # type: ignore[arg-type]
            past_key_values,
        )
        rest = {"position_ids": position_ids, "use_cache": use_cache, **kwargs}
        rest = {name: value for name, value in rest.items() if value is not None}
        num_items = rest.pop("num_items_in_batch", None)
        rest.pop("return_dict", None)
        found: dict[str, Any] = {}
        if (skip_lm_head or skip_llm) and input_ids is not None:
            found["speech_embeds"] = inputs_embeds[input_ids == self.config.audio_token_id]
            found |= {"speech_lengths": heard.lengths, "speech_quantity": heard.quantity}
        if skip_llm:
            return BlspOutput(**found)
        with self.model.hearing(input_ids, mm_token_type_ids):
            if skip_lm_head:
                output = self._run_decoder(inputs_embeds, attention_mask, past_key_values, rest)
                return BlspOutput(**output, **found)
            output = self._run_llm(
                inputs_embeds, attention_mask, past_key_values, logits_to_keep, rest
            )
        return self._add_loss(output, labels, num_items)

    def _run_decoder(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        past_key_values: Any,
        rest: dict[str, Any],
    ) -> BlspOutput:
        """The hidden states alone."""
        hidden = self.model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            **rest,
        )
        return BlspOutput(
            last_hidden_state=hidden.last_hidden_state,
            past_key_values=hidden.get("past_key_values"),
            hidden_states=hidden.get("hidden_states"),
        )

    def _run_llm(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        past_key_values: Any,
        logits_to_keep: int | Tensor,
        rest: dict[str, Any],
    ) -> Any:
        llm = self.model.language_model
        keeps = "logits_to_keep" in inspect.signature(llm.forward).parameters
        output = llm(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            **accepted(llm, rest),
            **({"logits_to_keep": logits_to_keep} if keeps else {}),
        )
        if not keeps and isinstance(logits_to_keep, int) and logits_to_keep:
            output.logits = output.logits[:, -logits_to_keep:]
        return output

    def _add_loss(self, output: Any, labels: Tensor | None, num_items: Any) -> BlspOutput:
        """What the language model returned, and a loss where there are labels."""
        loss = None
        if labels is not None:
            vocabulary = output.logits.shape[-1]
            loss = self.loss_function(
                output.logits, labels, vocabulary, num_items_in_batch=num_items
            )
        return BlspOutput(
            loss=loss,
            logits=output.logits,
            past_key_values=output.get("past_key_values"),
            hidden_states=output.get("hidden_states"),
            attentions=output.get("attentions"),
        )


def build_emotion_head(config: BlspConfig) -> nn.Linear | None:
    """BLSP-Emo's classifier of the mean speech embedding; None where no emotions are named."""
    if not config.emotions:
        return None
    return nn.Linear(config.get_text_config(decoder=True).hidden_size, len(config.emotions))


def _stop_dropout(module: nn.Module) -> None:
    """A frozen model in training mode must not drop out: its answers are the target of training."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)


def accepted(module: nn.Module, arguments: dict[str, Any]) -> dict[str, Any]:
    """Without position ids where a language model knows none (its positions are in the mask)."""
    if "position_ids" in inspect.signature(module.forward).parameters:
        return arguments
    return {name: value for name, value in arguments.items() if name != "position_ids"}


def _load_delta(folder: Path, **kwargs: Any) -> BlspForConditionalGeneration:
    """Join a checkpoint with its base models."""
    check_complete(folder)
    config = kwargs.pop("config", None) or BlspConfig.from_pretrained(folder)
    language_model, tower = load_bases(config, **kwargs)
    model = BlspForConditionalGeneration.assemble(config, language_model, tower)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    delta = read_delta(folder)
    required = [n for n in model.delta_state() if is_lora(n) or n.startswith(EMOTION_HEAD)]
    apply_delta(model, delta, str(folder), required=required)
    return model
