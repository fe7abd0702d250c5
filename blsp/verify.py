"""`blsp verify`: proof that a checkpoint left its language model alone, and that it is sound.

Every tensor of the language model is hashed against the base files, one at a time; then text must
give the very logits the library's own class gives, a batch what its rows give alone, and a saved
copy what was saved. There is never a second model in memory. A checkpoint enters, a list of checks
leaves; the exit code is 1 when one fails.
"""

import argparse
import gc
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blsp.arguments import add_checkpoint_options
from blsp.audio import SAMPLING_RATE
from blsp.checkpoint import read_delta, stored_tensors
from blsp.manifest import AudioPart, Message, TextPart
from blsp.model import (
    BlspForConditionalGeneration,
    BlspProcessor,
    load_checkpoint,
    save_checkpoint,
)
from blsp.model.foundations import resolve_folder
from blsp.model.lora import is_lora
from blsp.model.processing import pad_features
from blsp.prompts import build_renderer
from blsp.systems import locate_checkpoint

TOLERANCE = 1e-4
"""Largest difference of logits between a batch and its rows alone, in float32."""

NEW_TOKENS = 16

_SECONDS = (0.35, 0.6, 1.0, 1.4, 1.9, 2.5, 3.2, 4.0)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the proof; ``passed`` is None where it cannot be decided."""

    name: str
    passed: bool | None
    found: str

    def line(self) -> str:
        """As it is printed."""
        mark = {True: "ok  ", False: "FAIL", None: "??  "}[self.passed]
        return f"{mark}  {self.name:<34} {self.found}"


class Answered(NamedTuple):
    """What a model made of some recordings, one entry each."""

    logits: list[Tensor]
    """(V,) of the first token to come."""
    tokens: list[list[int]]


def main(argv: Sequence[str]) -> int:
    """Print the proof; return 1 if a check fails."""
    parser = argparse.ArgumentParser(
        prog="blsp verify",
        description="Prove that a checkpoint left its language model untouched, that batches "
        "change nothing, and that what is saved is what is loaded.",
    )
    add_checkpoint_options(parser)
    options = parser.parse_args(argv)
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    failed = 0
    for check in verify(options.checkpoint, llm=options.llm, encoder=options.encoder):
        failed += check.passed is False
        print(check.line(), flush=True)
    print(f"\n{failed} failed" if failed else "\nall that could be checked holds")
    return 1 if failed else 0


def verify(
    checkpoint: str | Path, *, llm: str | None = None, encoder: str | None = None
) -> Iterator[Check]:
    """Yield the checks of a checkpoint as they are made.

    Raises:
        InputError: it cannot be loaded.
    """
    source = locate_checkpoint(checkpoint)
    model, processor = load_checkpoint(source, llm=llm, encoder=encoder)
    yield check_weights(model, llm)
    yield check_text(model, processor)
    yield check_delta(model, source)
    recordings = [make_recording(seconds) for seconds in _SECONDS]
    first = answer_alone(model, processor, recordings[:2])
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(model, processor, Path(folder) / "copy")
        del model  # the copy takes its place: never two in memory
        gc.collect()
        model, processor = load_checkpoint(Path(folder) / "copy", llm=llm, encoder=encoder)
    yield check_reload(first, answer_alone(model, processor, recordings[:2]))
    _compute_in_float32(model)
    yield check_batch(model, processor, recordings)


# --- the language model ---------------------------------------------------------------------------


def check_weights(model: BlspForConditionalGeneration, llm: str | None = None) -> Check:
    """Compare the hash of every tensor of the language model with that of the base files."""
    name = "language model = its base files"
    base = (model.config.bases or {})["llm"]
    folder = resolve_folder(llm or base["source"], base["revision"], what="language model")
    if (folder / "adapter_config.json").is_file():
        return Check(name=name, passed=None, found="the base is merged from LoRA weights")
    held = _tensors_by_name(model.model.language_model)
    digest, compared, changed = hashlib.sha256(), set(), []
    for stored_name, stored in stored_tensors(folder):
        own = _find(stored_name, held)
        if own is None:
            continue  # buffers of older versions, such as rotary tables
        tensor = _as_held(stored[...], own)
        theirs = _hash(tensor)
        digest.update(stored_name.encode() + theirs)
        compared.add(own.data_ptr())
        if tensor.shape != own.shape or theirs != _hash(own):
            changed.append(stored_name)
    # Tied weights are one tensor under two names, of which files hold one.
    unknown = [each for each, tensor in held.items() if tensor.data_ptr() not in compared]
    if unknown:
        found = f"{len(unknown)} tensors have no counterpart in {folder} ({unknown[0]})"
        return Check(name=name, passed=None if not changed else False, found=found)
    if changed:
        found = f"{len(changed)} of {len(compared)} tensors differ ({changed[0]})"
        return Check(name=name, passed=False, found=found)
    found = f"{len(compared)} tensors, sha256 {digest.hexdigest()[:16]}, {folder}"
    return Check(name=name, passed=True, found=found)


def _tensors_by_name(module: torch.nn.Module) -> dict[str, Tensor]:
    """The base's own weights: LoRA stands beside them, and the checkpoint holds it."""
    return {
        name.replace(".base_layer.", "."): parameter
        for name, parameter in module.named_parameters()
        if not is_lora(name)
    }


def _as_held(stored: Tensor, own: Tensor) -> Tensor:
    """A stored tensor as loading makes it: of the same type, and quantised in the same way."""
    kind: Any = type(own)
    if kind.__name__ == "Params4bit":
        how = ("compress_statistics", "quant_type", "blocksize", "quant_storage")
        options = {name: getattr(own, name) for name in how}
        return kind(stored, requires_grad=False, **options).to(own.device).data
    if kind.__name__ == "Int8Params":
        return kind(stored.half(), requires_grad=False).to(own.device).data
    return stored.to(own.dtype)


def _find(name: str, held: dict[str, Tensor]) -> Tensor | None:
    """The tensor of a stored name; files of base models lack the prefix that heads add."""
    if name in held:
        return held[name]
    ends = [
        own for own in held if own.endswith(f".{name}") and own.count(".") == name.count(".") + 1
    ]
    return held[ends[0]] if len(ends) == 1 else None


def _hash(tensor: Tensor) -> bytes:
    data = tensor.detach().contiguous().cpu().view(-1).view(torch.uint8)
    return hashlib.sha256(data.numpy().data).digest()


@torch.no_grad()
def check_text(model: BlspForConditionalGeneration, processor: BlspProcessor) -> Check:
    """Compare text-only logits with those of the library's own class on the same weights."""
    name = "text-only logits, bit for bit"
    llm: Any = model.model.language_model
    device = llm.get_input_embeddings().weight.device
    size = min(len(processor.tokenizer), llm.get_input_embeddings().weight.shape[0])
    generator = torch.Generator().manual_seed(0)
    if model.config.lora.scope == "all":
        found = "LoRA acts on text, too: it is not the base's; compare the benchmark of text"
        return Check(name=name, passed=None, found=found)
    equal = total = 0
    for rows, length in ((1, 1), (1, 7), (1, 64), (4, 24)):
        ids = torch.randint(0, size, (rows, length), generator=generator)
        ids[ids == model.config.audio_token_id] = 0  # it stands for a recording, not for text
        mask = torch.ones_like(ids)
        if rows > 1:
            for row in range(rows):
                mask[row, : 3 * row] = 0
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        heard = model(**inputs).logits
        with model.model.without_lora():
            equal += torch.equal(heard, llm(**inputs).logits)
        total += 1
    kind = type(llm).__name__
    lora = " without LoRA" if model.model.lora_state else ""
    dtype = str(llm.dtype).removeprefix("torch.")
    found = f"{equal} of {total} batches equal {kind}{lora} in {dtype}"
    return Check(name=name, passed=equal == total, found=found)


# --- the checkpoint -------------------------------------------------------------------------------


def check_delta(model: BlspForConditionalGeneration, checkpoint: Path) -> Check:
    """Compare the trained weights in the model with those in the file; name what they change."""
    stored, own = read_delta(checkpoint), dict(model.named_parameters())
    same = sum(torch.equal(own[name].detach().cpu(), one) for name, one in stored.items())
    size = sum(one.numel() for one in stored.values())
    parts = sorted({".".join(name.split(".")[:2]) for name in stored})
    found = f"{same} of {len(stored)} tensors, {size:,} numbers in {', '.join(parts)}"
    return Check(name="trained weights = the file", passed=same == len(stored), found=found)


def check_reload(saved: Answered, loaded: Answered) -> Check:
    """Compare answers before saving with those after loading."""
    logits = all(map(torch.equal, saved.logits, loaded.logits))
    tokens = saved.tokens == loaded.tokens
    found = f"logits {_same(logits)}, answers {_same(tokens)}"
    return Check(name="saved and loaded again = before", passed=logits and tokens, found=found)


def _compute_in_float32(model: torch.nn.Module) -> None:
    torch.nn.Module.float(model)  # the library's own refuses a quantised model
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.compute_dtype = torch.float32  # type: ignore[assignment]


def _same(equal: bool) -> str:
    return "equal" if equal else "differ"


def check_batch(
    model: BlspForConditionalGeneration,
    processor: BlspProcessor,
    recordings: Sequence[NDArray[np.float32]],
) -> Check:
    """Compare a batch of recordings of many lengths with each alone; the model is in float32."""
    name = "batch = one by one, float32"
    if getattr(model, "is_loaded_in_8bit", False):
        found = "8-bit layers round the activations of a batch together"
        return Check(name=name, passed=None, found=found)
    alone = answer_alone(model, processor, recordings)
    together = answer(model, processor, recordings)
    pairs = zip(alone.logits, together.logits, strict=True)
    difference = max((one - other).abs().max().item() for one, other in pairs)
    same = sum(a == b for a, b in zip(alone.tokens, together.tokens, strict=True))
    found = (
        f"{len(recordings)} recordings of {min(_SECONDS)} to {max(_SECONDS)} s: {same} answers "
        f"equal, logits within {difference:.1e} (at most {TOLERANCE:.0e})"
    )
    passed = same == len(recordings) and difference <= TOLERANCE
    return Check(name=name, passed=passed, found=found)


# --- answers --------------------------------------------------------------------------------------


def make_recording(seconds: float) -> NDArray[np.float32]:
    """A voice-like hum with noise; what is said does not matter here."""
    rng = np.random.default_rng(round(1000 * seconds))
    time = np.arange(round(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    pitch = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 2 * time)) / SAMPLING_RATE
    voice = sum(np.sin(k * pitch) / k for k in range(1, 12)) * (1 + np.sin(8 * np.pi * time))
    return (0.05 * voice + 0.01 * rng.standard_normal(len(time))).astype(np.float32)


def answer_alone(
    model: BlspForConditionalGeneration,
    processor: BlspProcessor,
    recordings: Sequence[NDArray[np.float32]],
) -> Answered:
    """Answer recordings one by one."""
    each = [answer(model, processor, [recording]) for recording in recordings]
    return Answered([one.logits[0] for one in each], [one.tokens[0] for one in each])


@torch.no_grad()
def answer(
    model: BlspForConditionalGeneration,
    processor: BlspProcessor,
    recordings: Sequence[NDArray[np.float32]],
) -> Answered:
    """Answer recordings in one left-padded batch, greedily and without stopping."""
    embeddings: Any = model.get_input_embeddings()
    device = embeddings.weight.device
    features = [processor.extract_features(recording) for recording in recordings]
    prompts = [_prompt_ids(model, processor, len(recording)) for recording in recordings]
    width = max(map(len, prompts))
    pad: Any = processor.tokenizer.pad_token_id
    inputs = {
        "input_ids": torch.tensor([[pad] * (width - len(p)) + p for p in prompts]),
        "attention_mask": torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts]),
        **pad_features(features),
    }
    out = model.generate(
        **{name: tensor.to(device) for name, tensor in inputs.items()},
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return Answered(list(out.logits[0].float().cpu()), out.sequences[:, width:].tolist())


def _prompt_ids(
    model: BlspForConditionalGeneration, processor: BlspProcessor, samples: int
) -> list[int]:
    renderer = build_renderer(model, processor)
    part = AudioPart(audio="recording", duration=samples / SAMPLING_RATE, transcript="")
    message = Message(role="user", content=(TextPart(text="Answer this:\n"), part))
    rendered = renderer.render_prompt([message], view="student")
    ((place, _),) = rendered.audio
    count = processor.num_speech_tokens(samples)
    return [*rendered.ids[:place], *[rendered.ids[place]] * count, *rendered.ids[place + 1 :]]
