"""Hearing and reading with one model: the student's and the teacher's view of a batch, compared.

The teacher is the same frozen language model given the transcript, so it costs no memory and can
never be another model. Training and evaluation go through the same few functions here, so that what
is measured is what is trained. A collated batch enters; states and meters leave.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from blsp.dataset import ConversationDataset, Example
from blsp.errors import InputError
from blsp.losses import Head, ResponseLoss, gather_response, response_kl, response_positions
from blsp.meters import AlignmentMeter, mean_over, span_similarity
from blsp.model import BlspForConditionalGeneration, BlspOutput
from blsp.model.sharding import gather

_DONORS_TRIED = 32
_HEARD = (
    "input_ids",
    "attention_mask",
    "input_features",
    "input_features_mask",
    "speech_lengths",
    "speech_embeds",
)


Batch = dict[str, Any]
"""What `Collator` gives."""


def head_of(model: BlspForConditionalGeneration) -> Head:
    """The language model's head as the losses want it."""
    head: Any = model.get_output_embeddings()
    post = model.head_transform
    bias = getattr(head, "bias", None)
    bias = None if bias is None else gather(bias)
    return Head(gather(head.weight), bias, scale=post.scale, softcap=post.softcap)


def hear(model: nn.Module, batch: Batch, **more: Any) -> BlspOutput:
    """Run a model on the view with audio; ``more`` is for its forward pass."""
    inputs = {name: batch[name] for name in _HEARD if name in batch}
    return _run(model, inputs, **more)


def read(model: BlspForConditionalGeneration, batch: Batch, **more: Any) -> BlspOutput:
    """Run a model on the view with transcripts, as the language model alone reads them."""
    inputs = {name: batch[f"teacher_{name}"] for name in ("input_ids", "attention_mask")}
    with model.model.without_lora():
        return _run(model, inputs, **more)


def _run(model: nn.Module, inputs: dict[str, Tensor], **more: Any) -> BlspOutput:
    return model(**inputs, skip_lm_head=True, use_cache=False, **more)


def response_states(output: BlspOutput, labels: Tensor, head: Head) -> Tensor:
    """Return (N, D) states that predict the response tokens."""
    hidden: Any = output.last_hidden_state
    # Mixed precision hands out float32 copies of 16-bit states.
    return gather_response(hidden, labels).to(head.weight.dtype)  # (B, T, D) -> (N, D)


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
        reading = read(model, batch, output_hidden_states=True)
        wanted = response_states(reading, batch["teacher_labels"], head)
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


@torch.no_grad()
def mean_states(
    model: BlspForConditionalGeneration, batch: Batch, layer: int
) -> tuple[Tensor, Tensor]:
    """Return (B, D) means of a layer's states over each row's speech, and over its transcript.

    Args:
        model: in evaluation mode.
        batch: whose rows have audio.
        layer: of the hidden states; 0 are the embeddings.
    """
    inputs, _ = _as_in_use(model, batch)
    hearing = hear(model, inputs, output_hidden_states=True)
    reading = read(model, batch, output_hidden_states=True)
    states: Any = hearing.hidden_states[layer], reading.hidden_states[layer]  # type: ignore[index]
    is_audio = inputs["input_ids"] == model.config.audio_token_id
    return mean_over(states[0], is_audio), mean_over(states[1], batch["teacher_transcript_mask"])


def _as_in_use(model: BlspForConditionalGeneration, batch: Batch) -> tuple[Batch, Tensor]:
    """Inputs and labels with the model's own number of embeddings, not the transcript's."""
    if not model.config.adapter.decides_length or "input_features" not in batch:
        return batch, batch["labels"]
    inputs = model.fit_audio(
        batch["input_ids"],
        batch["input_features"],
        batch["input_features_mask"],
        batch["attention_mask"],
        labels=batch["labels"],
        lengths=batch["speech_lengths"],
        left=False,
    )
    return inputs, inputs["labels"]


def _compare(
    model: BlspForConditionalGeneration,
    batch: Batch,
    reading: BlspOutput,
    wanted: Tensor,
    head: Head,
) -> tuple[ResponseLoss, Tensor]:
    """KL of what is heard to what was read, and the (L, B) similarity of their layers."""
    inputs, labels = _as_in_use(model, batch)
    hearing = hear(model, inputs, output_hidden_states=True)
    found = response_kl(response_states(hearing, labels, head), head, wanted, head)
    is_audio = inputs["input_ids"] == model.config.audio_token_id
    is_read = batch.get("teacher_transcript_mask", torch.zeros_like(batch["teacher_input_ids"]))
    states: Any = hearing.hidden_states, reading.hidden_states
    return found, span_similarity(states[0], is_audio, states[1], is_read)


# --- the floor: the audio of another utterance ----------------------------------------------------


class ShuffledPairs(Dataset[tuple[Example, Example]]):
    """Each example, and the same example with recordings of other words.

    Whose recordings is drawn once from the seed, among conversations with other transcripts: a data
    set may ask several things of one recording, and to hear it would be no floor.

    Raises:
        InputError: a conversation beside which no recording has other words.
    """

    def __init__(self, dataset: ConversationDataset, audio_token_id: int, seed: int = 0) -> None:
        self.dataset, self.audio_token_id = dataset, audio_token_id
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(dataset), generator=generator).tolist()
        following = {order[i]: order[i - 1] for i in range(len(order))}
        # All of them now, so that a run which could not be measured ends before it trains.
        self._donors = [self._find_donor(index, following) for index in range(len(dataset))]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Example, Example]:
        own = self.dataset[index]
        if own.unreadable is not None or not own.features:
            return own, own
        donor = self.dataset[self._donors[index]]
        if donor.unreadable is not None:
            return donor, donor
        count = len(own.features)
        chosen = [i % len(donor.features) for i in range(count)]
        return own, replace_audio(own, donor, chosen, self.audio_token_id)

    def _find_donor(self, index: int, following: Mapping[int, int]) -> int:
        words = self._transcripts(index)
        if not words:
            return index  # nothing is heard that could be replaced
        donor = index
        for _ in range(_DONORS_TRIED):
            donor = following[donor]
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
    example: Example, donor: Example, chosen: Sequence[int], audio_token_id: int
) -> Example:
    """Return the example with a donor's recordings, and as many placeholders as they take."""
    is_audio = example.input_ids == audio_token_id
    counts = torch.tensor([donor.speech_lengths[i] for i in chosen])
    firsts = torch.tensor(example.speech_lengths).cumsum(0) - torch.tensor(example.speech_lengths)
    placeholders = torch.zeros(int(is_audio.sum()), dtype=torch.long)
    placeholders[firsts] = counts
    repeats = (~is_audio).long()
    repeats[is_audio] = placeholders
    return replace(
        example,
        input_ids=example.input_ids.repeat_interleave(repeats),
        labels=example.labels.repeat_interleave(repeats),
        features=tuple(donor.features[i] for i in chosen),
        speech_lengths=tuple(counts.tolist()),
    )


def collate_pairs(
    pairs: list[tuple[Example, Example]], collate: Callable[[list[Example]], Batch]
) -> tuple[Batch, Batch]:
    """Collate both sides; a pair of which one recording cannot be read is left out."""
    kept = [pair for pair in pairs if pair[0].unreadable is None]
    return collate([own for own, _ in kept]), collate([other for _, other in kept])
