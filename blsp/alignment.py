"""Hearing and reading with one model: the student's and the teacher's view of a batch, compared.

The teacher is the same frozen language model given the transcript, so it costs no memory and can
never be another model. Training and evaluation go through the same few functions here, so that what
is measured is what is trained. A collated batch enters; losses and meters leave.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from blsp.config import DOTTED
from blsp.dataset import ConversationDataset, Example
from blsp.errors import InputError
from blsp.extensions import find_named
from blsp.losses import (
    Head,
    ResponseLoss,
    ctc,
    gather_response,
    response_ce,
    response_kl,
    response_positions,
    response_targets,
)
from blsp.meters import AlignmentMeter, span_similarity
from blsp.model import BlspForConditionalGeneration, BlspOutput, num_speech_tokens
from blsp.model.processing import Features
from blsp.model.sharding import gather

_DONORS_TRIED = 32
_HEARD = ("input_ids", "attention_mask", "input_features", "input_features_mask")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the objectives; one of them at least is above 0."""

    response_kl: float = 1.0
    """Divergence from the text-fed model's next-token distributions."""
    response_ce: float = 0.0
    """Cross-entropy on the response: BLSP's objective."""
    ctc: float = 0.0
    """Speech embeddings as the transcript's tokens, with the language model's own embeddings as the
    classifier. It says where the words are, which the response alone takes long to tell."""
    ctc_only_steps: int = 0
    """So many steps at the beginning learn from `ctc` alone; they need no language model, and are
    several times as fast."""
    temperature: float = 1.0
    """Of `response_kl`; its loss carries T squared."""
    others: dict[str, float] = field(default_factory=dict, metadata={DOTTED: True})
    """Weights of functions of installed packages, by dotted name; see `LossStep`."""

    def __post_init__(self) -> None:
        weights = (self.response_kl, self.response_ce, self.ctc, *self.others.values())
        if min(weights) < 0 or max(weights) <= 0:
            raise InputError(
                "expected weights of 0 or more and one above 0, found response_kl "
                f"{self.response_kl:g}, response_ce {self.response_ce:g} and ctc {self.ctc:g}; "
                "change one"
            )
        if self.ctc_only_steps < 0 or (self.ctc_only_steps and not self.ctc):
            raise InputError(
                "expected ctc_only_steps of 0 or more, and ctc above 0 for any, found "
                f"{self.ctc_only_steps} and ctc {self.ctc:g}; change one"
            )
        if self.temperature <= 0:
            raise InputError(
                f"expected a temperature above 0, found {self.temperature:g}; 1 changes nothing"
            )

    def at(self, step: int) -> "LossConfig":
        """The objectives of a step, counted from 0."""
        if step >= self.ctc_only_steps:
            return self
        return replace(self, response_kl=0.0, response_ce=0.0, others={})


Batch = dict[str, Any]
"""What `Collator` gives."""


@dataclass(frozen=True, kw_only=True)
class LossStep:
    """What a loss of another package is given; it returns a sum over the response tokens, which is
    divided by their number in the whole step."""

    batch: Batch
    student_states: Tensor
    """(N, D) states that predict the response tokens, of the view with audio."""
    teacher_states: Tensor
    """(N, D) of the view with transcripts; no gradient."""
    targets: Tensor
    """(N,) the response tokens."""
    head: Head
    """Turns states into logits: ``head.logits(states)``."""
    speech_embeds: Tensor
    """(S, D) speech embeddings of all recordings in order, and a gradient to the adapter."""


def head_of(model: BlspForConditionalGeneration) -> Head:
    """The language model's head as the losses want it."""
    head: Any = model.get_output_embeddings()
    post = model.head_transform
    bias = getattr(head, "bias", None)
    bias = None if bias is None else gather(bias)
    return Head(gather(head.weight), bias, scale=post.scale, softcap=post.softcap)


@torch.no_grad()
def read(model: BlspForConditionalGeneration, batch: Batch, head: Head) -> Tensor:
    """Return (N, D) states that predict the response tokens, of the view with transcripts."""
    return _response_states(_read(model, batch), batch["teacher_labels"], head)


def _read(model: BlspForConditionalGeneration, batch: Batch, **more: Any) -> BlspOutput:
    inputs = {name: batch[f"teacher_{name}"] for name in ("input_ids", "attention_mask")}
    with model.model.without_lora():
        return _run(model, inputs, **more)


def _heard(batch: Batch) -> dict[str, Tensor]:
    return {name: batch[name] for name in _HEARD if name in batch}


def _run(model: nn.Module, inputs: dict[str, Tensor], **more: Any) -> BlspOutput:
    return model(**inputs, skip_lm_head=True, use_cache=False, **more)


def _response_states(output: BlspOutput, labels: Tensor, head: Head) -> Tensor:
    hidden: Any = output.last_hidden_state
    # Mixed precision hands out float32 copies of 16-bit states.
    return gather_response(hidden, labels).to(head.weight.dtype)  # (B, T, D) -> (N, D)


def compute_loss(
    model: nn.Module,
    teacher: BlspForConditionalGeneration,
    batch: Batch,
    config: LossConfig,
    num_items: float | Tensor | None = None,
) -> Tensor:
    """Return the weighted sum of the objectives on a batch.

    Args:
        model: the student, possibly wrapped for several processes.
        teacher: the same model, bare.
        batch: collated.
        config: the weights.
        num_items: response tokens of the whole step, which all objectives are divided by; None is
            those of the batch.
    """
    head = head_of(teacher)
    responds = bool(config.response_kl or config.response_ce or config.others)
    output = _run(model, _heard(batch), skip_llm=not responds)
    loss = head.weight.new_zeros((), dtype=torch.float32)
    if config.ctc:
        loss = loss + config.ctc * _compute_ctc(teacher, output, batch, num_items)
    if not responds:
        return loss + 0.0 * _sum_trained(teacher.model.language_model)
    states = _response_states(output, batch["labels"], head)
    wanted: Any = None
    if config.response_kl or config.others:
        wanted = read(teacher, batch, head)
    if config.response_kl:
        found = response_kl(
            states, head, wanted, head, temperature=config.temperature, num_items=num_items
        )
        loss = loss + config.response_kl * found.loss
    if config.response_ce:
        targets = response_targets(batch["labels"])
        found = response_ce(states, head, targets, num_items=num_items)
        loss = loss + config.response_ce * found.loss
    if config.others:
        step = LossStep(
            batch=batch,
            student_states=states,
            teacher_states=wanted,
            targets=response_targets(batch["labels"]),
            head=head,
            speech_embeds=output.speech_embeds,  # type: ignore[arg-type]
        )
        items = max(len(states), 1) if num_items is None else num_items
        for name, weight in config.others.items():
            loss = loss + weight * find_named(name, key=f"loss.{name}")(step) / items
    return loss


def _sum_trained(language_model: nn.Module) -> Tensor | float:
    """What the language model learns with must have a gradient also where it was not run: other
    processes wait for it."""
    trained = [gather(p.sum()) for p in language_model.parameters() if p.requires_grad]
    return torch.stack(trained).sum() if trained else 0.0


def _compute_ctc(
    model: BlspForConditionalGeneration,
    output: BlspOutput,
    batch: Batch,
    num_items: float | Tensor | None,
) -> Tensor:
    """CTC of what the adapter gave; zero, but connected to it, where there is no audio."""
    speech: Any = output.speech_embeds
    table = gather(model.get_input_embeddings().weight)  # type: ignore[arg-type]  by all processes
    if "input_features" not in batch:
        return speech.float().sum()
    lengths = num_speech_tokens(
        model.config.adapter,
        batch["input_features_mask"].sum(-1),
        window_frames=model.config.window_frames,
    )
    return ctc(
        speech,
        lengths,
        batch["transcript_ids"],
        batch["transcript_lengths"],
        table,
        num_items=response_targets(batch["labels"]).numel() if num_items is None else num_items,
    )


@torch.no_grad()
def measure(
    model: BlspForConditionalGeneration, pairs: Iterable[tuple[Batch, Batch]]
) -> AlignmentMeter:
    """Meter batches beside their floor and ceiling.

    Args:
        model: in evaluation mode.
        pairs: a batch, and the same with the audio of other utterances; on the model's device.
    """
    head = head_of(model)
    layers = model.config.get_text_config(decoder=True).num_hidden_layers + 1
    meter = AlignmentMeter(layers=layers, device=head.weight.device)
    for batch, shuffled in pairs:
        reading = _read(model, batch, output_hidden_states=True)
        wanted = _response_states(reading, batch["teacher_labels"], head)
        speech, speech_layers = _compare(model, batch, reading, wanted, head)
        floor, floor_layers = _compare(model, shuffled, reading, wanted, head)
        meter.update(
            positions=response_positions(batch["labels"]),
            speech=speech,
            floor=floor,
            ceiling=response_kl(wanted, head, wanted, head),
        )
        meter.update_layers(speech=speech_layers, floor=floor_layers)
    return meter


def _compare(
    model: BlspForConditionalGeneration,
    batch: Batch,
    reading: BlspOutput,
    wanted: Tensor,
    head: Head,
) -> tuple[ResponseLoss, Tensor]:
    """KL of what is heard to what was read, and the (L, B) similarity of their layers."""
    hearing = _run(model, _heard(batch), output_hidden_states=True)
    found = response_kl(_response_states(hearing, batch["labels"], head), head, wanted, head)
    is_audio = batch["input_ids"] == model.config.audio_token_id
    is_read = batch.get("teacher_transcript_mask", torch.zeros_like(batch["teacher_input_ids"]))
    states: Any = hearing.hidden_states, reading.hidden_states
    return found, span_similarity(states[0], is_audio, states[1], is_read)


# --- the floor: the audio of another utterance ----------------------------------------------------


class ShuffledPairs(Dataset[tuple[Example, Example]]):
    """Each example, and the same example with recordings of other words.

    Whose recordings is drawn once from the seed, among conversations with other transcripts: a data
    set may ask several things of one recording, and to hear it would be no floor.
    """

    def __init__(self, dataset: ConversationDataset, audio_token_id: int, seed: int = 0) -> None:
        self.dataset, self.audio_token_id = dataset, audio_token_id
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(dataset), generator=generator).tolist()
        self._following = {order[i]: order[i - 1] for i in range(len(order))}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Example, Example]:
        own = self.dataset[index]
        if own.unreadable is not None or not own.features:
            return own, own
        donor = self.dataset[self._find_donor(index)]
        if donor.unreadable is not None:
            return donor, donor
        count = len(own.features)
        features = tuple(donor.features[i % len(donor.features)] for i in range(count))
        return own, replace_audio(
            own, features, self.dataset.num_speech_tokens, self.audio_token_id
        )

    def _find_donor(self, index: int) -> int:
        words = self._transcripts(index)
        donor = index
        for _ in range(_DONORS_TRIED):
            donor = self._following[donor]
            found = self._transcripts(donor)
            if found and found != words:
                return donor
        raise InputError(
            "expected at least two recordings of different words to measure the floor with, found "
            f"none beside {words!r}; give more development data"
        )

    def _transcripts(self, index: int) -> list[str]:
        conversation, _ = self.dataset.read_conversation(index)
        return [part.transcript for part in conversation.recordings]


def replace_audio(
    example: Example,
    features: tuple[Features, ...],
    num_speech_tokens: Callable[[int], int],
    audio_token_id: int,
) -> Example:
    """Return the example with other recordings, and as many placeholders as those take."""
    is_audio = example.input_ids == audio_token_id
    begins = is_audio & ~torch.cat([is_audio.new_zeros(1), is_audio[:-1]])
    repeats = (~is_audio).long()
    repeats[begins] = torch.tensor([num_speech_tokens(frames) for _, frames in features])
    return Example(
        id=example.id,
        input_ids=example.input_ids.repeat_interleave(repeats),
        labels=example.labels.repeat_interleave(repeats),
        teacher_input_ids=example.teacher_input_ids,
        teacher_labels=example.teacher_labels,
        features=features,
        transcripts=example.transcripts,
    )


def collate_pairs(
    pairs: list[tuple[Example, Example]], collate: Callable[[list[Example]], Batch]
) -> tuple[Batch, Batch]:
    """Collate both sides; a pair of which one recording cannot be read is left out."""
    kept = [pair for pair in pairs if pair[0].unreadable is None]
    return collate([own for own, _ in kept]), collate([other for _, other in kept])
