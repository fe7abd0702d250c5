"""What a training step learns: the objectives that a recipe weighs, fed from both views of a batch.

The formulas are pure functions of `blsp.losses`; here is which tensors they get. The student hears,
the teacher is the same language model reading the transcript; each runs once a batch, and only
where an objective asks for it. Every objective is a mean over its own items (response tokens,
transcript tokens, recordings), counted over the whole step, so that weights mean the same for any
batch size, accumulation and number of processes. A collated batch enters; a scalar leaves.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from blsp import losses
from blsp.alignment import Batch, head_of, hear, read, response_states
from blsp.config import DOTTED
from blsp.errors import InputError, suggest
from blsp.extensions import find_named
from blsp.losses import Head
from blsp.model import BlspForConditionalGeneration, BlspOutput, num_speech_tokens
from blsp.model.sharding import gather

BY_TOKEN = ("input_kl", "cif_quantity", "hidden_cosine")
"""Objectives that need one speech embedding for each token of the transcript."""

OF_SPEECH = frozenset({"ctc", "cif_quantity", "emotion_ce", "optimal_transport", "embedding_l2"})
"""Objectives that look at the speech embeddings alone: no language model runs for them."""
_OF_LAYERS = frozenset({"hidden_cosine", "contrastive"})


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the objectives; one of them at least is above 0."""

    response_kl: float = 1.0
    """Divergence from the text-fed model's next-token distributions."""
    response_ce: float = 0.0
    """Cross-entropy on the response: BLSP's objective."""
    input_kl: float = 0.0
    """The divergence at the tokens of the transcript: BLSP-KD's, beside `response_kl`."""
    cif_quantity: float = 0.0
    """How far the number of speech embeddings is from the number of tokens, in shares of it."""
    emotion_ce: float = 0.0
    """Cross-entropy of a linear classifier on the mean speech embedding: BLSP-Emo's; the classes
    are `model.emotions`."""
    hidden_cosine: float = 0.0
    """One minus the cosine of speech and text states, token by token, at some layers."""
    hidden_cosine_layers: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Which, as shares of the depth; 0 is the embeddings."""
    contrastive: float = 0.0
    """InfoNCE of mean speech and mean text states at all layers, against the rest of the batch."""
    contrastive_temperature: float = 0.1
    ctc: float = 0.0
    """Speech embeddings as the transcript's tokens, with the language model's own embeddings as the
    classifier. It says where the words are, which the response alone takes long to tell."""
    optimal_transport: float = 0.0
    """Cost of moving the speech embeddings onto the transcript's token embeddings."""
    embedding_l2: float = 0.0
    """Distance of the last speech embeddings from the token embeddings: DiVA's, beside
    `first_state`."""
    first_state: float = 0.0
    """Distance of the states that predict the first token of a response: DiVA's."""
    pretraining_steps: int = 0
    """So many steps at the beginning learn from `pretraining` alone."""
    pretraining: tuple[str, ...] = ("ctc",)
    """Objectives of those steps. Where none of them needs the language model (`ctc`,
    `optimal_transport`, `embedding_l2`, `cif_quantity`, `emotion_ce`), a step is several times as
    fast."""
    temperature: float = 1.0
    """Of `response_kl` and `input_kl`; they carry T squared. Published code leaves it out: to
    reproduce a run with T = 2, weigh them by 0.25."""
    others: dict[str, float] = field(default_factory=dict, metadata={DOTTED: True})
    """Weights of functions of installed packages, by dotted name; see `LossStep`."""

    def __post_init__(self) -> None:
        for name in ("pretraining", "hidden_cosine_layers"):  # JSON and YAML give lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        given = {name: getattr(self, name) for name in OBJECTIVES} | self.others
        wrong = [name for name, weight in given.items() if weight < 0]
        if wrong or max(given.values()) <= 0:
            found = f"{wrong[0]} {given[wrong[0]]:g}" if wrong else "0 everywhere"
            raise InputError(
                f"expected weights of 0 or more and one above 0, found {found}; change one"
            )
        self._check_pretraining()
        if self.temperature <= 0 or self.contrastive_temperature <= 0:
            raise InputError(
                f"expected temperatures above 0, found {self.temperature:g} and "
                f"{self.contrastive_temperature:g}; 1 changes nothing"
            )
        layers = self.hidden_cosine_layers
        if not layers or not all(0 <= layer <= 1 for layer in layers):
            raise InputError(
                "hidden_cosine_layers: expected one or more shares of the depth from 0 to 1, found "
                f"{list(layers)}; 0.5 is the middle layer"
            )

    def _check_pretraining(self) -> None:
        for name in self.pretraining:
            if name not in OBJECTIVES:
                raise InputError(
                    f"pretraining: expected objectives, found {name!r}; {suggest(name, OBJECTIVES)}"
                )
        if self.pretraining_steps < 0 or (
            self.pretraining_steps and not any(getattr(self, name) for name in self.pretraining)
        ):
            raise InputError(
                "expected pretraining_steps of 0 or more, and for any an objective of pretraining "
                f"with a weight above 0, found {self.pretraining_steps} and "
                f"{', '.join(self.pretraining) or 'none'}; change one"
            )

    def weights(self) -> dict[str, float]:
        """Name -> weight of the objectives that count, those of other packages left out."""
        return {name: getattr(self, name) for name in OBJECTIVES if getattr(self, name)}

    def at(self, step: int) -> "LossConfig":
        """The objectives of a step, counted from 0."""
        if step >= self.pretraining_steps:
            return self
        unused: dict[str, Any] = dict.fromkeys(set(OBJECTIVES) - set(self.pretraining), 0.0)
        return replace(self, **unused, others={}, pretraining_steps=0)


OBJECTIVES = tuple(
    one.name
    for one in fields(LossConfig)
    if one.type in (float, "float") and "temperature" not in one.name
)


class Items(NamedTuple):
    """What objectives are means over, each a number or a tensor of one."""

    tokens: Any
    """Response tokens."""
    words: Any
    """Tokens of transcripts."""
    recordings: Any
    labelled: Any
    """Recordings of which the emotion is known."""
    responses: Any

    @classmethod
    def of(cls, counts: Tensor) -> "Items":
        """From `count_items`, or a sum of several; nothing is divided by zero."""
        return cls(*counts.clamp(min=1))


def count_items(batch: Batch) -> Tensor:
    """Return (5,) how many of each of `Items` a batch has."""
    labels = batch["labels"]
    none = labels.new_empty(0)
    counts = (
        losses.response_targets(labels).numel(),
        batch.get("transcript_ids", none).numel(),
        batch.get("speech_lengths", none).numel(),
        int((batch.get("emotion_labels", none) != losses.IGNORED).sum()),
        int((losses.response_positions(labels) == 0).sum()),
    )
    return torch.tensor(counts, dtype=torch.float32, device=labels.device)


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


def compute_loss(
    model: nn.Module,
    teacher: BlspForConditionalGeneration,
    batch: Batch,
    config: LossConfig,
    counts: Tensor | None = None,
) -> Tensor:
    """Return the weighted sum of the objectives on a batch.

    Args:
        model: the student, possibly wrapped for several processes.
        teacher: the same model, bare.
        batch: collated.
        config: the weights.
        counts: (5,) `count_items` of the whole step; None is that of the batch.
    """
    items = Items.of(count_items(batch) if counts is None else counts)
    views = _Views(model, teacher, batch, config, items)
    loss = views.head.weight.new_zeros((), dtype=torch.float32)
    for name, weight in config.weights().items():
        loss = loss + weight * _COMPUTE[name](views)
    for name, weight in config.others.items():
        found = find_named(name, key=f"loss.{name}")(views.step())
        loss = loss + weight * found / items.tokens
    return loss + 0.0 * views.unasked


def _sum_trained(model: nn.Module) -> Tensor | float:
    trained = [gather(p.sum()) for p in model.parameters() if p.requires_grad]
    return torch.stack(trained).sum() if trained else 0.0


@dataclass
class _Views:
    """A batch, heard and read; each view runs when it is first asked for."""

    model: nn.Module
    teacher: BlspForConditionalGeneration
    batch: Batch
    config: LossConfig
    items: Items

    @property
    def responds(self) -> bool:
        """Whether the language model must run on what is heard."""
        return bool(self.config.others or set(self.config.weights()) - OF_SPEECH)

    @property
    def _layers(self) -> dict[str, bool]:
        wanted = bool(_OF_LAYERS & set(self.config.weights()))
        return {"output_hidden_states": True} if wanted else {}

    @cached_property
    def head(self) -> Head:
        return head_of(self.teacher)

    @cached_property
    def heard(self) -> BlspOutput:
        more = self._layers if self.responds else {"skip_llm": True}
        return hear(self.model, self.batch, **more)

    @cached_property
    @torch.no_grad()
    def read(self) -> BlspOutput:
        return read(self.teacher, self.batch, **self._layers)

    @cached_property
    def student_states(self) -> Tensor:
        """(N, D) that predict the response tokens."""
        return response_states(self.heard, self.batch["labels"], self.head)

    @cached_property
    @torch.no_grad()
    def teacher_states(self) -> Tensor:
        """(N, D) that predict the response tokens."""
        return response_states(self.read, self.batch["teacher_labels"], self.head)

    @property
    def speech(self) -> Tensor:
        """(S, D) speech embeddings of all recordings."""
        return self.heard.speech_embeds  # type: ignore[return-value]

    @property
    def words(self) -> tuple[Tensor, Tensor]:
        """(S, D) speech embeddings and (N,) how many of each recording, without its summaries."""
        lengths: Any = self.heard.speech_lengths
        config = self.teacher.config
        if not config.adapter.summary:
            return self.speech, lengths
        whole: Any = num_speech_tokens(
            config.adapter, config.window_frames, window_frames=config.window_frames
        )
        place = torch.arange(len(self.speech), device=lengths.device)
        place = place - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        said = place % whole >= config.adapter.summary  # each window of the encoder has a summary
        owner = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
        return self.speech[said], torch.zeros_like(lengths).index_add(0, owner, said.long())

    @property
    def unasked(self) -> Tensor | float:
        """What is trained and no objective may have asked for. It must have a gradient, if of zero,
        because other processes wait for it."""
        if not self.responds:
            return _sum_trained(self.teacher.model)
        total, quantity = 0.0, self.heard.speech_quantity
        if quantity is not None:
            total = total + quantity.sum()
        classifier = self.teacher.model.emotion_head
        return total if classifier is None else total + _sum_trained(classifier)

    @property
    def has_audio(self) -> bool:
        return "input_features" in self.batch

    @property
    def nothing(self) -> Tensor:
        """Zero, connected to the adapter: where a batch has no audio."""
        return self.speech.float().sum()

    @cached_property
    def table(self) -> Tensor:
        """(V, D) token embeddings; gathered by all processes together."""
        return gather(self.teacher.get_input_embeddings().weight)  # type: ignore[arg-type]

    @property
    def is_speech(self) -> Tensor:
        """(B, T), true at speech embeddings."""
        return self.batch["input_ids"] == self.teacher.config.audio_token_id

    @property
    def is_transcript(self) -> Tensor:
        """(B, U), true at the transcripts' tokens in the teacher's view."""
        ids = self.batch["teacher_input_ids"]
        return self.batch.get("teacher_transcript_mask", torch.zeros_like(ids, dtype=torch.bool))

    def step(self) -> LossStep:
        """For losses of other packages."""
        return LossStep(
            batch=self.batch,
            student_states=self.student_states,
            teacher_states=self.teacher_states,
            targets=losses.response_targets(self.batch["labels"]),
            head=self.head,
            speech_embeds=self.speech,
        )


# --- which tensors each objective gets ------------------------------------------------------------


def _response_kl(views: _Views) -> Tensor:
    return losses.response_kl(
        views.student_states,
        views.head,
        views.teacher_states,
        views.head,
        temperature=views.config.temperature,
        num_items=views.items.tokens,
    ).loss


def _response_ce(views: _Views) -> Tensor:
    targets = losses.response_targets(views.batch["labels"])
    return losses.response_ce(
        views.student_states, views.head, targets, num_items=views.items.tokens
    ).loss


def _input_kl(views: _Views) -> Tensor:
    sides = (views.heard, views.is_speech), (views.read, views.is_transcript)
    states = [
        losses.gather_spans(output.last_hidden_state, mask).to(views.head.weight.dtype)  # type: ignore[arg-type]
        for output, mask in sides
    ]
    return losses.input_kl(
        states[0],
        views.head,
        states[1].detach(),
        views.head,
        temperature=views.config.temperature,
        num_items=views.items.words,
    ).loss


def _cif_quantity(views: _Views) -> Tensor:
    if not views.has_audio:
        return views.nothing
    quantity: Any = views.heard.speech_quantity
    return losses.cif_quantity(
        quantity, views.batch["transcript_lengths"], num_items=views.items.recordings
    )


def _emotion_ce(views: _Views) -> Tensor:
    speech, classifier = views.speech, views.teacher.model.emotion_head
    # After the forward pass, which makes sharded weights whole: a shard gathered before it would
    # get the gradient of this process alone.
    assert classifier is not None
    weight, bias = gather(classifier.weight), gather(classifier.bias)
    if not views.has_audio:
        return views.nothing + 0.0 * (weight.sum() + bias.sum())
    return losses.emotion_ce(
        speech,
        views.heard.speech_lengths,  # type: ignore[arg-type]
        views.batch["emotion_labels"],
        weight,
        bias,
        num_items=views.items.labelled,
    )


def _hidden_cosine(views: _Views) -> Tensor:
    depth = len(views.heard.hidden_states) - 1  # type: ignore[arg-type]
    chosen = sorted({round(share * depth) for share in views.config.hidden_cosine_layers})
    student, teacher = _layer_spans(views, chosen)
    return losses.hidden_cosine(student, teacher, num_items=views.items.words)


def _contrastive(views: _Views) -> Tensor:
    student, teacher = _layer_spans(views, range(len(views.heard.hidden_states)))  # type: ignore[arg-type]
    if not views.has_audio:  # zero, through all that other processes run
        return torch.stack([layer.float().sum() for layer in student]).sum()
    return losses.contrastive(
        student,
        views.heard.speech_lengths,  # type: ignore[arg-type]
        teacher,
        views.batch["transcript_lengths"],
        groups=_same_words(views.batch),
        temperature=views.config.contrastive_temperature,
        num_items=views.items.recordings,
    )


def _layer_spans(views: _Views, layers: Any) -> tuple[list[Tensor], list[Tensor]]:
    """States of the recordings and of their transcripts at some layers."""
    heard: Any = views.heard.hidden_states
    written: Any = views.read.hidden_states
    return (
        [losses.gather_spans(heard[layer], views.is_speech) for layer in layers],
        [losses.gather_spans(written[layer], views.is_transcript) for layer in layers],
    )


def _same_words(batch: Batch) -> Tensor:
    """(N,) a number for each recording, the same for the same transcript."""
    words = batch["transcript_ids"].split(batch["transcript_lengths"].tolist())
    numbers: dict[tuple[int, ...], int] = {}
    found = [numbers.setdefault(tuple(each.tolist()), len(numbers)) for each in words]
    return batch["transcript_lengths"].new_tensor(found)


def _ctc(views: _Views) -> Tensor:
    table = views.table
    if not views.has_audio:
        return views.nothing
    return losses.ctc(
        *views.words,
        views.batch["transcript_ids"],
        views.batch["transcript_lengths"],
        table,
        num_items=views.items.words,
    )


def _optimal_transport(views: _Views) -> Tensor:
    # A tenth of the mean square of a token: there 100 iterations leave 0.2 % of the gradient.
    compute = partial(
        losses.optimal_transport, regularization=0.1, iterations=100, position_weight=1.0
    )
    return _to_tokens(views, compute, views.items.recordings)


def _embedding_l2(views: _Views) -> Tensor:
    return _to_tokens(views, losses.embedding_l2, views.items.words)


def _to_tokens(views: _Views, compute: Callable[..., Tensor], items: Any) -> Tensor:
    """A distance of speech embeddings from the transcripts' token embeddings."""
    table = views.table.detach()
    if not views.has_audio:
        return views.nothing
    return compute(
        *views.words,
        table[views.batch["transcript_ids"]],
        views.batch["transcript_lengths"],
        num_items=items,
    )


def _first_state(views: _Views) -> Tensor:
    first = losses.response_positions(views.batch["labels"]) == 0
    student, teacher = views.student_states[first], views.teacher_states[first]
    return losses.first_state(student, teacher, num_items=views.items.responses)


_COMPUTE: dict[str, Callable[[_Views], Tensor]] = {
    "response_kl": _response_kl,
    "response_ce": _response_ce,
    "input_kl": _input_kl,
    "cif_quantity": _cif_quantity,
    "emotion_ce": _emotion_ce,
    "hidden_cosine": _hidden_cosine,
    "contrastive": _contrastive,
    "ctc": _ctc,
    "optimal_transport": _optimal_transport,
    "embedding_l2": _embedding_l2,
    "first_state": _first_state,
}
