"""Putting a model together from its parts, and to disk and back.

`compose` joins any Whisper and any decoder-only language model with a new adapter, after checking
that the losses may rely on head(hidden) being the logits. `save_checkpoint` writes what was trained
and nothing of the base models; `load_checkpoint` joins it with them again and refuses other ones.
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    WhisperFeatureExtractor,
)

from blsp.checkpoint import is_delta, mark_complete, read_delta, write_delta
from blsp.errors import InputError
from blsp.files import atomic_path
from blsp.model.configuration import AdapterConfig, AudioPadding, BlspConfig, LoraConfig
from blsp.model.encoder import BlspWhisperEncoder
from blsp.model.foundations import Base, LlmOptions, load_encoder, load_llm, resolve_folder
from blsp.model.modeling import EMOTION_HEAD, BlspForConditionalGeneration, BlspModel
from blsp.model.processing import AUDIO_TOKEN, BlspProcessor, with_audio_parts
from blsp.model.restoring import apply_delta

_SPARE = re.compile(
    r"<\|?(reserved_special_token|extra|extra_id|unused|reserved|placeholder|dummy|special)_?\d+\|?>"
    r"|\[(unused|control)_?\d+\]",
    re.IGNORECASE,
)
"""Special tokens that model makers keep free for others."""


def register() -> None:
    """Make the library's Auto classes know the model; done when `blsp.model` is imported."""
    AutoConfig.register("blsp", BlspConfig, exist_ok=True)
    AutoModel.register(BlspConfig, BlspModel, exist_ok=True)
    AutoModelForMultimodalLM.register(BlspConfig, BlspForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(BlspConfig, BlspProcessor, exist_ok=True)


def compose(  # noqa: PLR0913  each is a choice of the recipe
    *,
    llm: str | Path,
    encoder: str | Path,
    adapter: AdapterConfig | None = None,
    lora: LoraConfig | None = None,
    audio_padding: AudioPadding = "variable",
    llm_revision: str | None = None,
    encoder_revision: str | None = None,
    options: LlmOptions | None = None,
    encoder_dtype: torch.dtype | str = "auto",
    template_variables: dict[str, Any] | None = None,
    emotions: Sequence[str] = (),
) -> tuple[BlspForConditionalGeneration, BlspProcessor]:
    """Join a Whisper and a language model with a new adapter.

    Args:
        llm: folder or hub id of a decoder-only language model, or of LoRA weights (merged first).
        encoder: folder or hub id of a Whisper, or an openai-whisper `.pt` file.
        adapter: kind and numbers.
        lora: low-rank weights beside the language model's own, and where they act.
        audio_padding: `variable` encodes the true length, `max` whole windows as Whisper does.
        llm_revision: commit or tag of a hub id.
        encoder_revision: commit or tag of a hub id.
        options: how the language model is held in memory.
        encoder_dtype: of the encoder; `auto` is as stored.
        template_variables: for the chat template, at training and at use alike.
        emotions: classes of an emotion classifier on the speech embeddings; none makes none.

    Returns:
        The model, base models frozen, adapter and LoRA in float32, and its processor.

    Raises:
        InputError: one line on what cannot work.
    """
    tower, extractor, encoder_base = load_encoder(
        encoder, revision=encoder_revision, dtype=encoder_dtype
    )
    return join(
        llm,
        Ears(encoder=tower, extractor=extractor, base=encoder_base),
        revision=llm_revision,
        options=options,
        adapter_config=(adapter or AdapterConfig()).to_dict(),
        lora_config=(lora or LoraConfig()).to_dict(),
        audio_padding=audio_padding,
        template_variables=template_variables,
        emotions=list(emotions) or None,
    )


@dataclass(frozen=True, kw_only=True)
class Ears:
    """An encoder and what prepares its input."""

    encoder: BlspWhisperEncoder
    extractor: WhisperFeatureExtractor
    base: Base | None
    """None if all its weights go into the checkpoint."""


def join(
    llm: str | Path,
    ears: Ears,
    *,
    revision: str | None = None,
    options: LlmOptions | None = None,
    **fields: Any,
) -> tuple[BlspForConditionalGeneration, BlspProcessor]:
    """Load a language model and give it ears; ``fields`` are those of `BlspConfig`."""
    language_model, base = load_llm(llm, revision=revision, options=options)
    tokenizer = load_tokenizer(llm, revision)
    embeddings: Any = language_model.get_input_embeddings()
    token = choose_audio_token(tokenizer, embeddings.weight.shape[0])
    config = BlspConfig(
        audio_config=ears.encoder.config,
        text_config=language_model.config,
        # What is not said here is the library's choice, which it hands down into its parts.
        attn_implementation={  # type: ignore[call-arg]
            "audio_config": ears.encoder.config._attn_implementation,
            "text_config": language_model.config._attn_implementation,
        },
        audio_token_id=tokenizer.convert_tokens_to_ids(token),  # type: ignore[arg-type]
        bases={"llm": base.to_dict(), "encoder": ears.base.to_dict() if ears.base else None},
        **fields,
    )
    model = BlspForConditionalGeneration.assemble(config, language_model, ears.encoder)
    probe_head(model, str(llm))
    return model, build_processor(config, ears.extractor, tokenizer, token)


def build_processor(
    config: BlspConfig,
    extractor: Any,
    tokenizer: PreTrainedTokenizerBase,
    audio_token: str,
) -> BlspProcessor:
    """The processor that fits a configuration."""
    return BlspProcessor(
        extractor,
        tokenizer,
        chat_template=with_audio_parts(tokenizer.chat_template, audio_token),
        audio_token=audio_token,
        adapter_config=config.adapter_config,
        audio_padding=config.audio_padding,
        window_samples=config.window_frames * extractor.hop_length,
        template_variables=config.template_variables,
    )


def load_tokenizer(source: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The language model's tokenizer, with a padding token.

    Raises:
        InputError: there is none, or nothing to pad with.
    """
    folder = resolve_folder(source, revision, what="language model")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        first = " ".join(str(error).split())[:200]
        raise InputError(
            f"{source}: expected a tokenizer beside the model, found {first}; add tokenizer.json"
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise InputError(
            f"{source}: expected a padding, end or unknown token, found none; set pad_token in "
            "tokenizer_config.json"
        )
    return tokenizer


def choose_audio_token(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> str:
    """The token that stands for speech, added to the tokenizer if it has no spare one.

    A spare special token of the model's makers comes first, then a new token on a padded row of
    the embeddings, then a new one behind them (it is masked before the look-up).

    Args:
        tokenizer: of the language model; may be changed.
        vocabulary: rows of the embeddings.
    """
    if AUDIO_TOKEN in tokenizer.get_vocab():
        return AUDIO_TOKEN
    templates = str(tokenizer.chat_template)
    added = tokenizer.added_tokens_decoder  # type: ignore[attr-defined]
    spare = [
        token.content
        for index, token in sorted(added.items())
        if _SPARE.fullmatch(token.content) and index < vocabulary
    ]
    spare = [content for content in spare if content not in templates]
    if spare:
        return spare[-1]
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AUDIO_TOKEN]}, replace_extra_special_tokens=False
    )
    return AUDIO_TOKEN


@torch.no_grad()
def probe_head(model: BlspForConditionalGeneration, source: str) -> None:
    """Check on five tokens that order is causal, the cache works, and head(hidden) gives logits.

    Raises:
        InputError: the losses would silently train for something else.
    """
    embeddings: Any = model.get_input_embeddings()
    ids = torch.arange(1, 6, device=embeddings.weight.device)[None]
    try:
        with model.model.without_lora():
            logits = model.model.language_model(input_ids=ids).logits
        hidden = model(input_ids=ids, skip_lm_head=True).last_hidden_state
        first = model(input_ids=ids[:, :3], use_cache=True)
        rest = model(input_ids=ids[:, 3:], past_key_values=first.past_key_values).logits
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{source}: expected a language model that runs on embeddings, found "
            f"{' '.join(str(error).split())[:200]}; choose another model"
        ) from error
    scale, exact = logits.abs().max().float().item(), torch.finfo(logits.dtype).eps
    close = scale * max(exact * 256, 1e-3)
    if getattr(model, "is_loaded_in_8bit", False):  # its activations are rounded all rows together
        close = scale * 0.25
    if not torch.allclose(first.logits, logits[:, :3], atol=close):
        raise InputError(
            f"{source}: expected a causal language model, found one whose answers depend on later "
            "words; choose a decoder-only model"
        )
    if not torch.allclose(rest, logits[:, 3:], atol=close):
        raise InputError(
            f"{source}: expected a language model with a key-value cache, found that "
            f"{type(model.model.language_model).__name__} forgets what came before; choose another"
        )
    rebuilt = model.head_transform(model.get_output_embeddings()(hidden).float())
    if not torch.allclose(rebuilt, logits.float(), atol=scale * exact * 16, rtol=exact * 16):
        raise InputError(
            f"{source}: expected logits to be the head of the hidden states, found that "
            f"{type(model.model.language_model).__name__} does more; it cannot be trained here"
        )


# --- checkpoints ----------------------------------------------------------------------------------


def write_checkpoint(
    model: BlspForConditionalGeneration,
    processor: BlspProcessor,
    delta: dict[str, Tensor],
    folder: Path,
) -> None:
    """Write trained weights, configuration and processor into a folder, without the marker.

    For a trainer that adds its own files; it calls `blsp.checkpoint.mark_complete` after them. It
    brings the model's `delta_state`, which may take all processes where writing takes one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_delta(folder, delta)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    processor.save_pretrained(folder)


def save_checkpoint(
    model: BlspForConditionalGeneration, processor: BlspProcessor, folder: str | Path
) -> None:
    """Write a checkpoint whole or not at all; an earlier one at ``folder`` is replaced.

    Raises:
        InputError: the folder holds something else, or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not (
        folder.is_dir() and (is_delta(folder) or not any(folder.iterdir()))
    ):
        raise InputError(
            f"{folder}: expected a new folder or an earlier checkpoint, found something else; "
            "choose another folder"
        )
    earlier = folder.with_name(f".{folder.name}.earlier")
    with atomic_path(folder) as temporary:
        try:
            write_checkpoint(model, processor, model.delta_state(), temporary)
            mark_complete(temporary)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        if folder.exists():
            shutil.rmtree(earlier, ignore_errors=True)
            folder.rename(earlier)  # a folder cannot be renamed onto another
    shutil.rmtree(earlier, ignore_errors=True)


def load_checkpoint(
    folder: str | Path,
    *,
    llm: str | Path | None = None,
    encoder: str | Path | None = None,
    options: LlmOptions | None = None,
) -> tuple[BlspForConditionalGeneration, BlspProcessor]:
    """Join a checkpoint with its base models.

    Args:
        folder: written by `save_checkpoint`.
        llm: where the language model is now, if not where the checkpoint says.
        encoder: the same for the Whisper.
        options: how the language model is held in memory; its dtype is the stored one by default.

    Raises:
        InputError: cut short, of a newer format, or its base models are missing or others.
    """
    model = BlspForConditionalGeneration.from_pretrained(
        folder,
        llm=llm,
        encoder=encoder,
        **vars(options or LlmOptions()),
    )
    processor = BlspProcessor.from_pretrained(folder)
    check_processor(model.config, processor, str(folder))
    return model, processor


def warm_start(model: BlspForConditionalGeneration, folder: str | Path) -> None:
    """Begin training from a checkpoint's weights, whatever base models it was trained on.

    A classifier of emotions is for training alone: one of other emotions, or of a run that had
    none, begins anew.

    Raises:
        InputError: the checkpoint is cut short, or its weights have other names or shapes.
    """
    own = dict(model.named_parameters())
    delta = {
        name: tensor
        for name, tensor in read_delta(Path(folder)).items()
        if not name.startswith(EMOTION_HEAD) or (name in own and own[name].shape == tensor.shape)
    }
    apply_delta(model, delta, str(folder))


def check_processor(config: BlspConfig, processor: BlspProcessor, source: str) -> None:
    """Refuse a processor that prepares audio for another model."""
    for name in ("audio_token_id", "audio_padding", "adapter_config", "template_variables"):
        expected, found = getattr(config, name), getattr(processor, name)
        if expected != found:
            raise InputError(
                f"{source}: expected the processor's {name} to be the model's, {expected!r}, found "
                f"{found!r}; take both files from one checkpoint"
            )
