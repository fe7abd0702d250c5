"""A checkpoint and the base models it was trained on, found again and checked.

The configuration names them with their fingerprints; other places are allowed, other weights are
not. An encoder whose weights all lie in the checkpoint needs no base.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.utils.hub import cached_file

from blsp.checkpoint import MARKER, is_delta
from blsp.errors import InputError
from blsp.model.configuration import BlspConfig
from blsp.model.encoder import BlspWhisperEncoder
from blsp.model.foundations import (
    Base,
    LlmOptions,
    empty_encoder,
    load_encoder,
    load_llm,
    resolve_folder,
)
from blsp.model.sharding import fill


def find_checkpoint(source: str | Path, revision: str | None = None) -> Path | None:
    """The folder of one of our checkpoints, by path or hub id; None if it is something else."""
    if Path(source).is_dir():
        return Path(source) if is_delta(Path(source)) else None
    try:
        marker = cached_file(
            str(source), MARKER, revision=revision, _raise_exceptions_for_missing_entries=False
        )
    except OSError:  # neither a repository nor reachable: the library says so where it is loaded
        return None
    return resolve_folder(source, revision, what="checkpoint") if marker else None


def load_bases(
    config: BlspConfig,
    *,
    llm: str | Path | None = None,
    encoder: str | Path | None = None,
    **kwargs: Any,
) -> tuple[PreTrainedModel, BlspWhisperEncoder]:
    """Load language model and encoder of a checkpoint; ``config.bases`` is brought up to date.

    Args:
        config: of the checkpoint.
        llm: another place of the same language model.
        encoder: another place of the same encoder.
        kwargs: those of ``from_pretrained`` that concern weights in memory.

    Raises:
        InputError: a base is missing or differs.
    """
    audio_config: Any = config.audio_config
    text_config: Any = config.text_config
    bases = config.bases or {}
    dtype = None if kwargs.get("dtype") == "auto" else kwargs.get("dtype")
    options = LlmOptions(
        dtype=dtype or text_config.dtype or "auto",
        device_map=kwargs.get("device_map"),
        quantization_config=_quantization(text_config, kwargs.get("quantization_config")),
        attn_implementation=kwargs.get("attn_implementation"),
    )
    language_model, llm_base = _find_base(
        bases, "llm", llm, lambda place, commit: load_llm(place, revision=commit, options=options)
    )
    config.bases = bases | {"llm": llm_base.to_dict()}
    encoder_dtype = dtype or audio_config.dtype or "auto"
    if bases.get("encoder") is None:
        return language_model, empty_encoder(audio_config, encoder_dtype)
    tower, encoder_base = _find_base(
        bases, "encoder", encoder, lambda place, commit: _encoder_only(place, commit, encoder_dtype)
    )
    config.bases["encoder"] = encoder_base.to_dict()
    return language_model, tower


def _quantization(text_config: Any, asked: Any) -> Any:
    """What was asked for, or the 4-bit loading that the adapter was trained with."""
    stored = getattr(text_config, "quantization_config", None)
    if asked is not None or not isinstance(stored, dict):
        return asked
    if stored.get("quant_method") != "bitsandbytes":
        return None  # the folder of the language model itself is quantised
    return BitsAndBytesConfig.from_dict(stored)


def read_trained_bits(folder: Path) -> int:
    """Return in how many bits the language model was held when a checkpoint was trained."""
    text_config: Any = BlspConfig.from_pretrained(folder).text_config
    stored = getattr(text_config, "quantization_config", None) or {}
    if stored.get("load_in_4bit"):
        return 4
    return 8 if stored.get("load_in_8bit") else 16


def _encoder_only(
    place: str | Path, commit: str | None, dtype: Any
) -> tuple[BlspWhisperEncoder, Base]:
    tower, _, base = load_encoder(place, revision=commit, dtype=dtype)
    return tower, base


def _find_base(
    bases: dict[str, Any],
    role: str,
    other: str | Path | None,
    load: Callable[[str | Path, str | None], tuple[Any, Base]],
) -> tuple[Any, Base]:
    """Load a base from where the checkpoint says or from ``other``, which must be the same."""
    recorded = bases.get(role)
    if recorded is None:
        raise InputError(
            f"expected the checkpoint's config.json to name its {role} under bases, found nothing; "
            "it was not written by blsp"
        )
    place = recorded["source"] if other is None else other
    try:
        module, base = load(place, recorded["revision"] if other is None else None)
    except InputError as error:
        if other is not None:
            raise
        raise InputError(f"{error} (say where it is now: {role}=PATH, --{role} PATH)") from error
    if base.fingerprint != recorded["fingerprint"]:
        raise InputError(
            f"{place}: expected the {role} this checkpoint was trained on ({recorded['source']}), "
            f"found other weights; pass the same ones with {role}=PATH, --{role} PATH"
        )
    return module, base


def apply_delta(
    model: Any,
    delta: dict[str, Tensor],
    source: str,
    *,
    required: Sequence[str] = (),
) -> None:
    """Put trained weights into a model; they are the model's own delta from then on.

    Args:
        model: changed in place.
        delta: by name.
        source: what the user called it.
        required: names that must be there, beside the adapter.

    Raises:
        InputError: some are missing or do not fit.
    """
    own = dict(model.named_parameters())
    whole = ["model.adapter."]
    if (model.config.bases or {}).get("encoder") is None:
        whole.append("model.audio_tower.")
    required = [*required, *(name for name in own if name.startswith(tuple(whole)))]
    missing = [name for name in required if name not in delta]
    unknown = [name for name in delta if name not in own or own[name].shape != delta[name].shape]
    for kind, names in (("is missing", missing), ("does not fit", unknown)):
        if names:
            raise InputError(
                f"{source}: expected trained weights that fit the configuration, found that "
                f"{names[0]} {kind} ({len(names)} in all); the folder is damaged"
            )
    adapter = next(tensor for name, tensor in delta.items() if name.startswith("model.adapter."))
    model.model.adapter.to(adapter.dtype)
    for name, tensor in delta.items():
        fill(own[name], tensor)
    model.delta_names = frozenset(delta)
