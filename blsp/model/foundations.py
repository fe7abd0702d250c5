"""The two models that are not ours: a Whisper encoder and a decoder-only language model.

Each comes from a folder, a hub id, or (the encoder) an openai-whisper `.pt` file. What cannot work
is refused here in one line: remote code, encoder-decoders, models that see more than text, and
weights that do not fit. What leaves is the loaded model and a record of where it came from, with a
fingerprint of its weights.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils.hub import cached_file

from blsp.checkpoint import DELTA, MARKER, fingerprint_folder, fingerprint_tensors
from blsp.errors import InputError
from blsp.model.encoder import BlspWhisperEncoder
from blsp.shipped import MODELS

LORA_CONFIG = "adapter_config.json"
"""What makes a folder one of the PEFT library's."""
LORA_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Base:
    """Where base weights came from."""

    source: str
    """Folder (absolute), file, or hub id."""
    revision: str | None
    """Commit of a hub id."""
    fingerprint: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class LlmOptions:
    """How the language model is held in memory; the library's own arguments and defaults."""

    dtype: torch.dtype | str = "auto"
    device_map: Any = None
    quantization_config: Any = None
    """None: as a checkpoint was trained, else as stored; False: not quantised on loading."""
    attn_implementation: str | None = None

    def to_arguments(self) -> dict[str, Any]:
        """Those that were set, for ``from_pretrained``."""
        return {name: value for name, value in vars(self).items() if value not in (None, False)}


def quantization_options(bits: int, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """The library's options for weights of 4 or 8 bits, computed with in ``dtype``; 16 is None."""
    if bits == 4:
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return BitsAndBytesConfig(load_in_8bit=True) if bits == 8 else None


# --- the language model ---------------------------------------------------------------------------


def load_llm(
    source: str | Path, *, revision: str | None = None, options: LlmOptions | None = None
) -> tuple[PreTrainedModel, Base]:
    """Load a decoder-only language model; a PEFT folder is merged into its base.

    Raises:
        InputError: not such a model, or its weights do not fit its configuration.
    """
    options = options or LlmOptions()
    folder = resolve_folder(source, revision, what="language model")
    if (folder / LORA_CONFIG).is_file():
        return _load_peft(folder, source, options)
    config = read_config(folder, source)
    _refuse_llm(config, source)
    model = _load_checked(source, folder, options, quantized="quantization_config" in config)
    return model, Base(
        source=_absolute(source),
        revision=_revision(folder, source),
        fingerprint=fingerprint_folder(folder),
    )


def _load_checked(
    source: str | Path, folder: Path, options: LlmOptions, *, quantized: bool
) -> PreTrainedModel:
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, trust_remote_code=False, **options.to_arguments()
        )
    except (ImportError, RuntimeError, ValueError) as error:
        if not quantized:
            raise
        # Loading quantised weights takes packages and devices that the library itself names.
        raise InputError(
            f"{source}: expected weights that can be loaded here, found quantised ones: "
            f"{_one_line(error)}; use the unquantised model, or 4-bit loading on top of it"
        ) from error
    model, info = loaded
    check_loaded(source, missing=info["missing_keys"], unexpected=info["unexpected_keys"])
    if options.quantization_config:
        _keep_unpacked(model)
    return model


def _keep_unpacked(model: PreTrainedModel) -> None:
    """Forbid bitsandbytes to repack 4-bit weights for a CPU kernel that has no backward pass.

    It does so at the first evaluation, in place; after it the adapter gets no gradient, silently.
    """
    from bitsandbytes.nn.modules import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def check_loaded(source: str | Path, *, missing: Any, unexpected: Any) -> None:
    """Refuse weights that do not fit: the library would fill the gaps with random numbers."""
    for kind, names in (("missing", missing), ("not part of the model", unexpected)):
        if names:
            some = ", ".join(sorted(map(str, names))[:3])
            raise InputError(
                f"{source}: expected weights that fit the configuration, found {len(names)} "
                f"{kind} ({some}); the folder is damaged or of another architecture"
            )


def read_llm_config(folder: Path, source: str | Path) -> PreTrainedConfig:
    """The configuration of a decoder-only language model.

    Raises:
        InputError: of something else.
    """
    _refuse_llm(read_config(folder, source), source)
    return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def _refuse_llm(config: dict[str, Any], source: str | Path) -> None:
    kind = str(config.get("model_type"))
    if kind not in CONFIG_MAPPING:
        found = "remote code" if "auto_map" in config else f"model_type {kind!r}"
        raise InputError(
            f"{source}: expected an architecture of the transformers library, found {found}; "
            "code from a model folder is never run: choose another model or a newer transformers"
        )
    if config.get("is_encoder_decoder"):
        raise InputError(
            f"{source}: expected a decoder-only language model, found the encoder-decoder "
            f"{kind!r}; choose a causal language model"
        )
    kind_config = CONFIG_MAPPING[kind]
    if kind_config not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise InputError(
            f"{source}: expected a causal language model, found {kind!r}; choose another model"
        )
    if {"vision_config", "audio_config"} & kind_config.sub_configs_defaults.keys():
        raise InputError(
            f"{source}: expected a language model of text alone, found {kind!r}, which has other "
            "inputs; use its text-only sibling"
        )


def _load_peft(
    folder: Path, source: str | Path, options: LlmOptions
) -> tuple[PreTrainedModel, Base]:
    from peft import PeftModel

    inner, revision = read_inner(folder)
    if options.quantization_config:
        raise InputError(
            f"{source}: expected 16-bit loading, found LoRA weights to merge and 4-bit loading; "
            "merge them first and pass the merged folder"
        )
    model, base = load_llm(inner, revision=revision, options=options)
    merged = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()  # type: ignore[operator]
    adapter = fingerprint_tensors(_lora_tensors(folder))
    return merged, Base(
        source=_absolute(source),
        revision=_revision(folder, source),
        fingerprint=f"{base.fingerprint}+{adapter}",
    )


def read_inner(folder: Path) -> tuple[str, str | None]:
    """The base model, and its revision, that a PEFT folder is to be merged into.

    Raises:
        InputError: it names none.
    """
    table = json.loads((folder / LORA_CONFIG).read_text(encoding="utf-8"))
    inner = table.get("base_model_name_or_path")
    if not inner:
        raise InputError(
            f"{folder}: expected {LORA_CONFIG} to name its base model, found none; merge it "
            "yourself and pass the merged folder"
        )
    return inner, table.get("revision")


def _lora_tensors(folder: Path) -> list[tuple[str, torch.Tensor]]:
    from safetensors.torch import load_file

    path = folder / LORA_WEIGHTS
    if not path.is_file():
        raise InputError(f"{path}: expected LoRA weights, found no file; save them as safetensors")
    return sorted(load_file(path).items())


# --- the encoder ----------------------------------------------------------------------------------


def load_encoder(
    source: str | Path, *, revision: str | None = None, dtype: torch.dtype | str = "auto"
) -> tuple[BlspWhisperEncoder, WhisperFeatureExtractor, Base]:
    """Load the encoder of any Whisper, with its feature extractor.

    Raises:
        InputError: not a Whisper, or its weights do not fit its configuration.
    """
    if Path(source).suffix == ".pt":
        encoder = _convert_openai(Path(source))
        extractor = WhisperFeatureExtractor(feature_size=encoder.config.num_mel_bins)
        revision = None
    else:
        folder = resolve_folder(source, revision, what="Whisper")
        encoder = _load_whisper(folder, source)
        extractor = load_extractor(folder, encoder.config)
        revision = _revision(folder, source)
    # The fingerprint is of the stored numbers, before any cast.
    fingerprint = fingerprint_tensors(sorted(encoder.state_dict().items()))
    if dtype != "auto":
        torch.nn.Module.to(encoder, _as_dtype(dtype))
    encoder.config.dtype = encoder.dtype
    return (
        encoder,
        extractor,
        Base(source=_absolute(source), revision=revision, fingerprint=fingerprint),
    )


def read_whisper_config(folder: Path, source: str | Path) -> WhisperConfig:
    """The configuration of a Whisper.

    Raises:
        InputError: of something else.
    """
    kind = read_config(folder, source).get("model_type")
    if kind != "whisper":
        raise InputError(
            f"{source}: expected a Whisper model, found model_type {kind!r}; pass a Whisper "
            "folder, hub id or openai-whisper .pt file"
        )
    return WhisperConfig.from_pretrained(folder)


def _load_whisper(folder: Path, source: str | Path) -> BlspWhisperEncoder:
    loaded: Any = BlspWhisperEncoder.from_pretrained(
        folder,
        config=read_whisper_config(folder, source),
        key_mapping={r"^(model\.)?encoder\.": ""},
        output_loading_info=True,
        dtype="auto",
    )
    encoder, info = loaded
    check_loaded(source, missing=info["missing_keys"], unexpected=info["unexpected_keys"])
    return encoder


def empty_encoder(config: WhisperConfig, dtype: torch.dtype | str) -> BlspWhisperEncoder:
    """An encoder whose weights are still to come, undefined until then; `auto` is float32."""
    with torch.device("meta"):
        encoder = BlspWhisperEncoder(config)
    kind = (
        getattr(torch, "float32" if dtype == "auto" else dtype) if isinstance(dtype, str) else dtype
    )
    torch.nn.Module.to(encoder.to_empty(device="cpu"), kind)
    encoder.config.dtype = kind
    return encoder.eval()


def _as_dtype(dtype: torch.dtype | str) -> torch.dtype:
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype


def load_extractor(folder: Path, config: PreTrainedConfig) -> WhisperFeatureExtractor:
    """The feature extractor beside a model, or the one that fits its encoder."""
    if (folder / "preprocessor_config.json").is_file() or (
        folder / "processor_config.json"
    ).is_file():
        return WhisperFeatureExtractor.from_pretrained(folder)
    return WhisperFeatureExtractor(feature_size=config.num_mel_bins)


_OPENAI_NAMES = (
    ("encoder.positional_embedding", "embed_positions.weight"),
    ("encoder.ln_post.", "layer_norm."),
    ("encoder.blocks.", "layers."),
    ("encoder.", ""),
    (".attn.query.", ".self_attn.q_proj."),
    (".attn.key.", ".self_attn.k_proj."),
    (".attn.value.", ".self_attn.v_proj."),
    (".attn.out.", ".self_attn.out_proj."),
    (".attn_ln.", ".self_attn_layer_norm."),
    (".mlp.0.", ".fc1."),
    (".mlp.2.", ".fc2."),
    (".mlp_ln.", ".final_layer_norm."),
)


def _convert_openai(path: Path) -> BlspWhisperEncoder:
    """Build the encoder from the checkpoint file of OpenAI's own package."""
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        sizes, weights = stored["dims"], stored["model_state_dict"]
    except Exception as error:  # torch raises many kinds, and none says what was expected
        raise InputError(
            f"{path}: expected an openai-whisper checkpoint (dims, model_state_dict), found "
            f"{_one_line(error)}; pass the .pt file that package downloads"
        ) from error
    config = WhisperConfig(
        num_mel_bins=sizes["n_mels"],
        max_source_positions=sizes["n_audio_ctx"],
        d_model=sizes["n_audio_state"],
        encoder_attention_heads=sizes["n_audio_head"],
        encoder_layers=sizes["n_audio_layer"],
        encoder_ffn_dim=4 * sizes["n_audio_state"],
        vocab_size=sizes["n_vocab"],
        decoder_layers=sizes["n_text_layer"],
        decoder_attention_heads=sizes["n_text_head"],
        decoder_ffn_dim=4 * sizes["n_text_state"],
        max_target_positions=sizes["n_text_ctx"],
    )
    renamed = {
        _rename(name): tensor for name, tensor in weights.items() if name.startswith("encoder.")
    }
    with torch.device("meta"):
        encoder = BlspWhisperEncoder(config)
    missing, unexpected = encoder.load_state_dict(renamed, strict=False, assign=True)
    check_loaded(path, missing=missing, unexpected=unexpected)
    return encoder.eval()


def _rename(name: str) -> str:
    for old, new in _OPENAI_NAMES:
        name = name.replace(old, new)
    return name


# --- where files lie ------------------------------------------------------------------------------


def find_local(source: str | Path, *, what: str) -> Path | None:
    """The folder of a source that is a path or a model of the package; None for a hub id.

    Raises:
        InputError: it can only be a path, and no folder lies there.
    """
    if Path(source).is_dir():
        return Path(source)
    if str(source) in MODELS:
        return MODELS[str(source)]
    local = str(source).startswith((".", "/", "~")) or str(source).count("/") > 1
    if Path(source).is_file() or local:
        raise InputError(
            f"{source}: expected a {what} folder or hub id, found no such folder; check the path"
        )
    return None


def resolve_folder(source: str | Path, revision: str | None, *, what: str) -> Path:
    """The folder of a model: itself, one of the package, or the snapshot of a hub id."""
    folder = find_local(source, what=what)
    if folder is not None:
        return folder
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return _download(str(source), revision)
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise InputError(
            f"{source}: expected a {what} folder or hub id, found neither: {_one_line(error)}; "
            "check the name, or run `blsp fetch` where there is a network"
        ) from error


def loaded_patterns(has: Callable[[str], bool]) -> list[str]:
    """Which files of a repository loading reads; ``has`` says whether it has one of a name.

    Repositories also keep copies of the weights that nothing here reads: in other formats, and in
    more bits (`model.fp32-00001-of-00002.safetensors`), often larger than the model itself.
    """
    safe = any(has(name) for name in ("model.safetensors.index.json", "model.safetensors", DELTA))
    stem, kind = ("model", "safetensors") if safe else ("pytorch_model", "bin")
    weights = [f"{stem}.{kind}", f"{stem}-*.{kind}", f"{stem}.{kind}-*"]
    return [*weights, "*.json", "*.jinja", "*.txt", "*.model", LORA_WEIGHTS, DELTA, MARKER]


def _download(source: str, revision: str | None) -> Path:
    """The hub's snapshot, or what an earlier download left when there is no network."""
    from huggingface_hub import snapshot_download

    cached_file(source, "config.json", revision=revision)  # says best why there is none
    listed = cached_names(source, revision)

    def has(name: str) -> bool:
        if listed is not None:
            return name in listed
        found = cached_file(
            source, name, revision=revision, _raise_exceptions_for_missing_entries=False
        )
        return found is not None

    patterns = loaded_patterns(has)
    return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))


def cached_names(source: str, revision: str | None) -> set[str] | None:
    """All files of a repository, as an earlier download listed them; None if there was none."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        return {file.path for file in get_cached_repo_tree(source, revision=revision)}
    except CachedRepoTreeNotFoundError:
        return None


def find_cached(source: str, revision: str | None) -> Path | None:
    """The snapshot of a hub id that can be loaded without a network; None if there is none."""
    from huggingface_hub import snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        listed = cached_names(source, revision)
        if listed is None:
            # Only whole snapshots keep a listing; else what is there counts as all there is.
            kept = try_to_load_from_cache(source, "config.json", revision=revision)
            listed = _names_below(Path(kept).parent) if isinstance(kept, str) else set()
        if not any(name.endswith((".safetensors", ".bin")) for name in listed):
            return None
        patterns = loaded_patterns(listed.__contains__)
        return Path(
            snapshot_download(
                source, revision=revision, allow_patterns=patterns, local_files_only=True
            )
        )
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _names_below(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def read_config(folder: Path, source: str | Path) -> dict[str, Any]:
    """The config.json of a model folder; `source` is what the user called it.

    Raises:
        InputError: there is none, or it holds something else.
    """
    try:
        return dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{source}: expected a model folder with config.json, found {_one_line(error)}; "
            "check the path"
        ) from error


def _absolute(source: str | Path) -> str:
    return str(Path(source).resolve()) if Path(source).exists() else str(source)


def _revision(folder: Path, source: str | Path) -> str | None:
    """The commit of a hub snapshot, whose folder bears its name."""
    return None if Path(source).exists() or str(source) in MODELS else folder.name


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
