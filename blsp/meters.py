"""Alignment meters: how far the LLM that hears still is from the LLM that reads.

They need no labels, but teacher-forced agreement is high without hearing anything, so each number
stands beside its floor (the audio of another utterance) and its ceiling (the transcript itself).
What a loss says of every response token enters, batch by batch; sums are kept, one tensor a meter,
so that processes can add theirs; named numbers and the progress line leave.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from blsp.losses import ResponseLoss

Condition = Literal["speech", "floor", "ceiling"]
"""What the student is given: its audio, the audio of another utterance, the transcript."""

CONDITIONS: tuple[Condition, ...] = get_args(Condition)

BIN_STARTS = (0, 1, 2, 4, 8, 16, 32, 64)
"""First response position of each bin of the curve; the last bin has no end."""

AllReduce = Callable[[Tensor], Tensor]
"""Adds a tensor over processes, as ``Accelerator.reduce`` does with ``reduction="sum"``."""


class TokenMeter:
    """KL and top-1 agreement of response tokens, binned by their position in the response."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        # Rows: tokens, summed KL, agreements; float64, so that a long run still counts each one.
        self.sums = torch.zeros(3, len(BIN_STARTS), dtype=torch.float64, device=device)

    def update(self, found: ResponseLoss, positions: Tensor) -> None:
        """Take in (N,) tokens of a KL at temperature 1, at (N,) ``response_positions``.

        Raises:
            ValueError: there is not one position a token.
        """
        if positions.shape != found.per_token.shape:
            raise ValueError(
                f"expected {len(found.per_token)} positions, one a token, found "
                f"{tuple(positions.shape)}; take both from the same labels"
            )
        starts = torch.tensor(BIN_STARTS[1:], device=positions.device)
        bins = torch.bucketize(positions, starts, right=True)
        rows = torch.stack([torch.ones_like(found.per_token), found.per_token, found.agree])
        self.sums.index_add_(1, bins.to(self.sums.device), rows.to(self.sums))

    @property
    def tokens(self) -> int:
        return int(self.sums[0].sum())

    @property
    def kl(self) -> float:
        """Nats a response token; nan before the first."""
        return _ratio(self.sums[1].sum(), self.sums[0].sum())

    @property
    def agreement(self) -> float:
        """Share of response tokens whose most likely token is the teacher's."""
        return _ratio(self.sums[2].sum(), self.sums[0].sum())

    def curve(self) -> list[dict[str, float | str]]:
        """A row for every bin that has tokens: ``positions, tokens, kl, agreement``."""
        rows = zip(_bin_names(), self.sums.T.tolist(), strict=True)
        return [
            {"positions": name, "tokens": n, "kl": kl / n, "agreement": agreements / n}
            for name, (n, kl, agreements) in rows
            if n
        ]


class LayerMeter:
    """Mean similarity of what each layer makes of the speech and of its transcript."""

    def __init__(self, layers: int, device: torch.device | str = "cpu") -> None:
        # Rows: utterances, summed similarities.
        self.sums = torch.zeros(2, layers, dtype=torch.float64, device=device)

    def update(self, similarities: Tensor) -> None:
        """Take in (L, B) from ``span_similarity``; its nan, of rows without audio, do not count."""
        both = torch.stack([~similarities.isnan(), similarities.nan_to_num(0.0)])
        self.sums += both.to(self.sums).sum(-1)  # (2, L, B) -> (2, L)

    def similarity(self) -> list[float]:
        """One mean a layer, from the embeddings up."""
        return [_ratio(total, count) for count, total in self.sums.T]


class AlignmentMeter:
    """The meters of one evaluation, in all three conditions.

    Args:
        layers: hidden states a model returns (its layers + 1); 0 leaves similarity out.
        device: where the sums lie; NCCL adds only what lies on its GPU.
    """

    def __init__(self, *, layers: int = 0, device: torch.device | str = "cpu") -> None:
        self.tokens = {name: TokenMeter(device) for name in CONDITIONS}
        self.layers = {name: LayerMeter(layers, device) for name in CONDITIONS}

    def update(
        self,
        *,
        positions: Tensor,
        speech: ResponseLoss,
        floor: ResponseLoss | None = None,
        ceiling: ResponseLoss | None = None,
    ) -> None:
        """Take in a batch: each condition's KL to the same teacher on the same response tokens.

        Floor and ceiling are None between evaluations, when only the student's own audio ran.
        """
        given = {"speech": speech, "floor": floor, "ceiling": ceiling}
        for name in CONDITIONS:
            if (found := given[name]) is not None:
                self.tokens[name].update(found, positions)

    def update_layers(
        self, *, speech: Tensor, floor: Tensor | None = None, ceiling: Tensor | None = None
    ) -> None:
        """Take in a batch's (L, B) similarities in each condition."""
        given = {"speech": speech, "floor": floor, "ceiling": ceiling}
        for name in CONDITIONS:
            if (found := given[name]) is not None:
                self.layers[name].update(found)

    def reduce(self, all_reduce: AllReduce) -> None:
        """Add up what the processes saw; every process calls it, also one that saw nothing."""
        for meter in [*self.tokens.values(), *self.layers.values()]:
            meter.sums = all_reduce(meter.sums)

    @property
    def recovered(self) -> float:
        """How much of the way from not hearing to reading is gone; 1 is all, 0 none, below worse.

        ``(KL_floor - KL) / KL_floor``; nan where the floor has not been measured.
        """
        return recovered(kl=self.tokens["speech"].kl, kl_floor=self.tokens["floor"].kl)

    def numbers(self) -> dict[str, float]:
        """Every number that was measured, named as it is logged."""
        found = {"recovered": self.recovered}
        for condition in CONDITIONS:
            suffix = "" if condition == "speech" else f"_{condition}"
            found[f"kl{suffix}"] = self.tokens[condition].kl
            found[f"agreement{suffix}"] = self.tokens[condition].agreement
            for layer, value in enumerate(self.layers[condition].similarity()):
                found[f"similarity{suffix}/layer_{layer}"] = value
        return {name: value for name, value in found.items() if not math.isnan(value)}

    def line(self) -> str:
        """The part of the progress line that says how well the model hears."""
        speech, floor, ceiling = (self.tokens[name] for name in CONDITIONS)
        parts = [
            f"KL {speech.kl:.3f}{_beside(floor.kl, ceiling.kl, '.3f')}",
            f"top-1 {speech.agreement:.1%}{_beside(floor.agreement, ceiling.agreement, '.1%')}",
        ]
        if not math.isnan(self.recovered):
            parts.insert(0, f"recovered {self.recovered:.1%}")
        return " | ".join(parts)


def recovered(*, kl: float, kl_floor: float) -> float:
    """Return (KL_floor - KL) / KL_floor, nan where there is no floor to rise from."""
    return (kl_floor - kl) / kl_floor if kl_floor > 0 else math.nan


def span_similarity(
    speech_states: Sequence[Tensor],
    speech_span: Tensor,
    text_states: Sequence[Tensor],
    text_span: Tensor,
) -> Tensor:
    """Return (L, B) cosines of the mean state over the speech and over the transcript.

    A row of the batch with an empty span gives nan.

    Args:
        speech_states: L tensors (B, T, D), the ``hidden_states`` of the view that hears.
        speech_span: (B, T), true at the utterance's positions in it.
        text_states: L tensors (B, T', D) of the view that reads.
        text_span: (B, T'), true at the transcript's positions in it.
    """
    pairs = zip(speech_states, text_states, strict=True)
    return torch.stack(
        [
            cosine_similarity(mean_over(heard, speech_span), mean_over(read, text_span), dim=-1)
            for heard, read in pairs
        ]
    )


def retrieval(heard: Tensor, read: Tensor, transcripts: Sequence[str]) -> float:
    """Return how often a recording is most similar to its own words among those of all: R@1.

    Utterances of the same words are one candidate. By chance it is one in the number of different
    transcripts.

    Args:
        heard: (N, D) a state of each recording.
        read: (N, D) the same of its transcript.
        transcripts: N texts.
    """
    numbers = {text: number for number, text in enumerate(dict.fromkeys(transcripts))}
    own = torch.tensor([numbers[text] for text in transcripts])
    firsts = torch.tensor([transcripts.index(text) for text in numbers])
    # As states of the same words differ by what stands around them, the first stands for all.
    similar = similarity_map(heard, read[firsts])  # (N, different transcripts)
    return (similar.argmax(-1).cpu() == own).float().mean().item()


def similarity_map(speech_states: Tensor, text_states: Tensor) -> Tensor:
    """Return (S, T) cosines of every speech position (S, D) with every transcript token (T, D).

    In a model that hears, the large values run along a diagonal.
    """
    return normalize(speech_states.float(), dim=-1) @ normalize(text_states.float(), dim=-1).T


def mean_over(states: Tensor, span: Tensor) -> Tensor:
    """Return (B, D) means of (B, T, D) states where the (B, T) span is true."""
    weights = span.to(torch.float32)[..., None]
    return (states.float() * weights).sum(1) / weights.sum(1)


def _ratio(total: Tensor, count: Tensor) -> float:
    return (total / count).item()  # 0 / 0 is nan: nothing was measured


def _bin_names() -> list[str]:
    ends = [start - 1 for start in BIN_STARTS[1:]]
    closed = [str(a) if a == b else f"{a}-{b}" for a, b in zip(BIN_STARTS, ends, strict=False)]
    return [*closed, f"{BIN_STARTS[-1]}-"]


def _beside(floor: float, ceiling: float, form: str) -> str:
    known = [("floor", floor), ("transcript", ceiling)]
    shown = [f"{name} {value:{form}}" for name, value in known if not math.isnan(value)]
    return f" ({', '.join(shown)})" if shown else ""
