"""Published speech language models become ours: Ultravox (both projector layouts) and BLSP.

Only their numbers are read, never their code: config.json and the weight files are renamed into an
adapter, an encoder where theirs was changed, and a reference to the language model. What leaves is
one of our checkpoints, from which training can go on. A BLSP checkpoint contains its own language
model, which is written beside it in a folder of its own.
"""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from transformers import WhisperConfig

from blsp.checkpoint import stored_tensors
from blsp.errors import InputError
from blsp.files import atomic_path
from blsp.model.configuration import AdapterConfig, BlspConfig
from blsp.model.foundations import (
    LlmOptions,
    empty_encoder,
    load_encoder,
    load_extractor,
    read_config,
    resolve_folder,
)
from blsp.model.loading import Ears, join, save_checkpoint
from blsp.model.modeling import BlspForConditionalGeneration
from blsp.model.processing import BlspProcessor
from blsp.model.restoring import apply_delta

# How BLSP was trained: turns end with three line breaks.
_BLSP_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message['role'] == 'assistant' %}"
    "{% generation %}{{- message['content'] + eos_token }}{% endgeneration %}{{- '\\n\\n\\n' }}"
    "{%- else %}{{- '###[Human]:' + message['content'] + '\\n\\n\\n###[Assistant]:' }}{%- endif %}"
    "{%- endfor %}"
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """What was found in somebody else's checkpoint."""

    adapter: AdapterConfig
    weights: dict[str, Tensor]
    """Under our names."""
    audio_config: dict[str, Any] | None
    audio_padding: str
    llm: str | None
    encoder: str | None


def import_checkpoint(
    source: str | Path,
    out: str | Path,
    *,
    llm: str | Path | None = None,
    encoder: str | Path | None = None,
    options: LlmOptions | None = None,
) -> tuple[BlspForConditionalGeneration, BlspProcessor]:
    """Turn a published Ultravox or BLSP checkpoint into ours.

    Args:
        source: folder or hub id.
        out: folder to write; BLSP's language model goes to ``{out}-llm``.
        llm: the language model, if not where the checkpoint says.
        encoder: the unchanged Whisper, for checkpoints that do not contain their encoder.
        options: how the language model is held in memory.

    Returns:
        The model and its processor, as `load_checkpoint` would give them.

    Raises:
        InputError: neither of the two, or parts of it that have no place in our model.
    """
    folder, out = resolve_folder(source, None, what="speech checkpoint"), Path(out)
    config = read_config(folder, source)
    if config.get("model_type") == "ultravox":
        found = _read_ultravox(folder, config)
    elif {"whisper_config", "llama_config"} <= config.keys():
        found = _read_blsp(folder, config)
        if llm is None:
            llm = _write_llm(folder, config["llama_config"], out.with_name(f"{out.name}-llm"))
    else:
        raise InputError(
            f"{source}: expected an Ultravox or BLSP checkpoint, found model_type "
            f"{config.get('model_type')!r}; other models cannot be imported"
        )
    found = replace(found, llm=str(llm or found.llm), encoder=str(encoder or found.encoder or ""))
    model, processor = join(
        found.llm or "",
        _ears(found, folder, str(source)),
        options=options,
        adapter_config=found.adapter.to_dict(),
        audio_padding=found.audio_padding,
    )
    apply_delta(model, found.weights, str(source))
    save_checkpoint(model, processor, out)
    return model, processor


def describe_import(config: BlspConfig, out: Path) -> str:
    """Return what was found, what was written and what it can be used with, a line each."""
    bases, numbers = config.bases or {}, config.adapter
    makers, shape = "Ultravox", f"{numbers.stack_factor} encoder rows an embedding"
    if numbers.kind == "conv":
        makers, shape = "BLSP", f"{len(numbers.kernel_sizes)} convolutions of stride 2"
    encoder = bases["encoder"]["source"] if bases.get("encoder") else "its own, inside"
    size = sum(path.stat().st_size for path in out.iterdir() if path.is_file())
    return "\n".join(
        [
            f"found        {makers}: adapter {numbers.kind}, {shape}",
            f"encoder      {encoder} (audio padding: {config.audio_padding})",
            f"llm          {bases['llm']['source']}",
            f"wrote        {out}, {size / 1e6:,.1f} MB without the base models",
            "serves with  blsp.model.load_checkpoint; the language model's weights are unchanged",
        ]
    )


def _ears(found: Source, folder: Path, source: str) -> Ears:
    """The checkpoint's own encoder if all of it is there, else the one it was built on."""
    tower = {name: w for name, w in found.weights.items() if name.startswith("model.audio_tower.")}
    if found.audio_config is not None and tower:
        config = WhisperConfig(**found.audio_config)
        encoder = empty_encoder(config, next(iter(tower.values())).dtype)
        if {f"model.audio_tower.{name}" for name in encoder.state_dict()} == tower.keys():
            return Ears(encoder=encoder, extractor=load_extractor(folder, config), base=None)
    if not found.encoder:
        raise InputError(
            f"{source}: expected the checkpoint to hold or name its encoder, found neither; pass "
            "the Whisper it was trained with: encoder=PATH, --encoder PATH"
        )
    encoder, extractor, base = load_encoder(found.encoder)
    return Ears(encoder=encoder, extractor=extractor, base=base)


# --- Ultravox -------------------------------------------------------------------------------------


def _read_ultravox(folder: Path, config: dict[str, Any]) -> Source:
    if config.get("projector_act", "swiglu") != "swiglu":
        raise InputError(
            f"{folder}: expected an Ultravox projector with swiglu, found "
            f"{config['projector_act']!r}; it cannot be imported"
        )
    adapter = AdapterConfig(
        kind="stack",
        stack_factor=config.get("stack_factor", 8),
        hidden_size=config.get("hidden_size", 4096),
        norm_init=config.get("norm_init", 0.4),
        norm_position="mid" if config.get("projector_ln_mid") else "post",
    )
    names = {"multi_modal_projector.": "model.adapter.", "audio_tower.": "model.audio_tower."}
    return Source(
        adapter=adapter,
        weights=_rename_tensors(folder, names),
        audio_config=config.get("audio_config"),
        audio_padding="variable",
        llm=config.get("text_model_id"),
        encoder=config.get("audio_model_id"),
    )


def _rename_tensors(
    folder: Path, names: dict[str, str], *, leave: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Read all tensors under our names.

    Raises:
        InputError: a tensor has no place in our model.
    """
    renamed = {}
    for name, stored in stored_tensors(folder):
        if leave and name.startswith(leave):
            continue
        old = next((prefix for prefix in names if name.startswith(prefix)), None)
        if old is None or "lora_" in name:
            raise InputError(
                f"{folder}: expected weights of adapter and encoder, found {name}; merge LoRA "
                "first, and leave changed language model weights in a folder of their own"
            )
        renamed[names[old] + name.removeprefix(old)] = stored[...]
    return renamed


# --- BLSP -----------------------------------------------------------------------------------------


def _read_blsp(folder: Path, config: dict[str, Any]) -> Source:
    kernels = tuple(int(size) for size in str(config.get("conv_kernel_sizes", "5,5,5")).split(","))
    inner = int(config.get("adapter_inner_dim", 512))
    names = {
        "subsampler.conv_layers.": "model.adapter.convs.",
        "adapter.": "model.adapter.",
        "speech_ln.": "model.adapter.layer_norm.",
        "whisper_model.": "model.audio_tower.",
    }
    return Source(
        adapter=AdapterConfig(kind="conv", kernel_sizes=kernels, bottleneck_size=inner),
        weights=_rename_tensors(folder, names, leave=("llama_model.",)),
        audio_config=config["whisper_config"],
        audio_padding="max",  # it was trained on 30 s windows of padded audio
        llm=None,
        encoder=None,
    )


def _write_llm(folder: Path, config: dict[str, Any], out: Path) -> Path:
    """Write the language model inside a BLSP checkpoint as a folder of its own."""
    prefix = "llama_model."
    weights = {
        name.removeprefix(prefix): stored[...].contiguous()
        for name, stored in stored_tensors(folder)
        if name.startswith(prefix) and "rotary_emb" not in name
    }
    if not weights:
        raise InputError(
            f"{folder}: expected a BLSP checkpoint to hold its language model, found none; pass "
            "it: llm=PATH, --llm PATH"
        )
    out.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name.startswith(
            ("tokenizer", "special_tokens", "added_tokens", "generation_config")
        ):
            shutil.copy(path, out / path.name)
    if not (out / "chat_template.jinja").exists():
        (out / "chat_template.jinja").write_text(_BLSP_TEMPLATE, encoding="utf-8")
    table = config | {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (out / "config.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    with atomic_path(out / "model.safetensors") as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})
    return out
