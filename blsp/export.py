"""`blsp export`: a checkpoint as a folder that needs no other files.

A checkpoint holds what was trained and names its base models. For serving, all of it is written in
the library's own format; with `--merge`, LoRA that acts everywhere is added to the 16-bit weights,
so that an ordinary language model and an adapter come out. A checkpoint enters, a folder leaves.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from blsp.arguments import add_checkpoint_options
from blsp.checkpoint import mark_complete
from blsp.errors import InputError
from blsp.files import atomic_path
from blsp.model import BlspForConditionalGeneration, BlspProcessor, LlmOptions, load_checkpoint
from blsp.model.foundations import Base
from blsp.model.loading import Ears, join, load_tokenizer, write_checkpoint
from blsp.model.lora import merge_lora
from blsp.model.restoring import apply_delta
from blsp.provenance import copy_provenance, read_sources, write_text_provenance
from blsp.systems import locate_checkpoint
from blsp.verify import Answered, answer_alone, make_recording

LLM_FOLDER = "llm"

_SECONDS = (0.6, 1.4, 2.5, 4.0)


def main(argv: Sequence[str]) -> int:
    """Export, and say what came of it."""
    parser = argparse.ArgumentParser(
        prog="blsp export",
        description="Write a checkpoint with its base models into one folder, in the library's "
        "format; with --merge, LoRA becomes part of the language model.",
    )
    add_checkpoint_options(parser)
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--merge", action="store_true", help="add LoRA to the 16-bit weights")
    options = parser.parse_args(argv)
    write = export_merged if options.merge else export_whole
    for line in write(options.checkpoint, options.out, llm=options.llm, encoder=options.encoder):
        print(line)
    return 0


def export_whole(
    checkpoint: str | Path, out: Path, *, llm: str | None = None, encoder: str | None = None
) -> list[str]:
    """Write all weights into one folder that ``from_pretrained`` loads without base models.

    Returns:
        What was written, in lines for a person.

    Raises:
        InputError: it cannot be loaded, or ``out`` exists.
    """
    model, processor = _load(checkpoint, out, llm, encoder)
    # The library loads one model in one type; `auto` is then the language model's.
    model.config.dtype = model.model.language_model.dtype
    with atomic_path(out) as temporary:
        model.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        copy_provenance(locate_checkpoint(checkpoint), temporary)
    size = sum(path.stat().st_size for path in out.iterdir())
    return [f"wrote        {out}, {size / 1e6:,.1f} MB, the base models included", *_serves(model)]


def export_merged(
    checkpoint: str | Path, out: Path, *, llm: str | None = None, encoder: str | None = None
) -> list[str]:
    """Write the language model with LoRA added, and a checkpoint of the adapter upon it.

    Returns:
        What was written and how far answers changed, in lines for a person.

    Raises:
        InputError: there is no LoRA, or it acts at speech alone.
    """
    model, processor = _load(checkpoint, out, llm, encoder)
    scope = model.config.lora.scope
    if scope != "all":
        found = {"none": "none", "speech": "LoRA that acts at speech alone (PLoRA)"}[scope]
        advice = {
            "none": "leave out --merge",
            "speech": "text must not get it: leave out --merge, and serve it with blsp",
        }[scope]
        raise InputError(
            f"{checkpoint}: expected LoRA that acts everywhere, found {found}; {advice}"
        )
    recordings = [make_recording(seconds) for seconds in _SECONDS]
    before = answer_alone(model, processor, recordings)
    merge_lora(model.model.language_model)
    base = (model.config.bases or {})["llm"]
    tokenizer = load_tokenizer(llm or base["source"], None if llm else base["revision"])
    with atomic_path(out) as temporary:
        folder = temporary / LLM_FOLDER
        model.model.language_model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        again, its_processor = _rejoin(model, processor, folder)
        after = answer_alone(again, its_processor, recordings)
        bases = again.config.bases or {}
        bases["llm"] = bases["llm"] | {"source": str((out / LLM_FOLDER).resolve())}
        write_checkpoint(again, its_processor, again.delta_state(), temporary)
        _write_sources(locate_checkpoint(checkpoint), temporary, base["source"])
        mark_complete(temporary)
    return [
        f"wrote        {out / LLM_FOLDER}, a language model like any other",
        f"wrote        {out}, the adapter for it",
        f"changed      {_compare(before, after)}",
        *_serves(again),
    ]


def _write_sources(checkpoint: Path, folder: Path, base: str) -> None:
    """Say of the checkpoint, and of its language model too, what both have learnt from."""
    copy_provenance(checkpoint, folder)
    if sources := read_sources(checkpoint):
        write_text_provenance(folder / LLM_FOLDER, sources, base)


def _load(
    checkpoint: str | Path, out: Path, llm: str | None, encoder: str | None
) -> tuple[BlspForConditionalGeneration, BlspProcessor]:
    if out.exists():
        raise InputError(f"{out}: expected a new folder, found one; choose another")
    source = locate_checkpoint(checkpoint)
    options = LlmOptions(quantization_config=False)
    return load_checkpoint(source, llm=llm, encoder=encoder, options=options)


def _rejoin(
    model: BlspForConditionalGeneration, processor: BlspProcessor, llm: Path
) -> tuple[BlspForConditionalGeneration, BlspProcessor]:
    """Put the ears of a model onto another language model."""
    encoder = (model.config.bases or {}).get("encoder")
    ears = Ears(
        encoder=model.model.audio_tower,
        extractor=processor.feature_extractor,
        base=Base(**encoder) if encoder else None,
    )
    again, its_processor = join(
        llm,
        ears,
        options=LlmOptions(dtype=model.model.language_model.dtype),
        adapter_config=model.config.adapter_config,
        audio_padding=model.config.audio_padding,
        template_variables=model.config.template_variables,
        emotions=model.config.emotions,
        trained_max_seconds=model.config.trained_max_seconds,
    )
    kept = {
        name: tensor
        for name, tensor in model.delta_state().items()
        if not name.startswith("model.language_model.")
    }
    apply_delta(again, kept, str(llm))
    return again, its_processor


def _compare(before: Answered, after: Answered) -> str:
    pairs = list(zip(before.logits, after.logits, strict=True))
    largest = max((one - other).abs().max().item() for one, other in pairs)
    spread = torch.stack([one for one, _ in pairs]).std().item()
    same = sum(a == b for a, b in zip(before.tokens, after.tokens, strict=True))
    return (
        f"{same} of {len(pairs)} answers of {len(before.tokens[0])} tokens equal, logits within "
        f"{largest:.2g} (their spread is {spread:.2g}): rounding of the sum to 16 bits"
    )


def _serves(model: BlspForConditionalGeneration) -> list[str]:
    if model.config.lora.scope == "speech":
        return ["serves with  blsp only: nothing else knows LoRA at speech alone"]
    return ["serves with  blsp, and transformers after `import blsp.model`"]
