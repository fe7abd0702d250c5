"""What holds of every objective: parts add up, nothing heard is zero, gradients are true."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from blsp.losses import (
    IGNORED,
    Head,
    cif_quantity,
    contrastive,
    ctc,
    embedding_l2,
    emotion_ce,
    first_state,
    hidden_cosine,
    input_kl,
    optimal_transport,
)

TABLE = torch.randn(11, 4, generator=torch.Generator().manual_seed(1))
BIAS = torch.linspace(-1, 1, 11)


@dataclass(frozen=True)
class Batch:
    """Recordings one after the other, and what an LLM that reads makes of them."""

    speech: Tensor
    lengths: Tensor
    tokens: Tensor
    text_lengths: Tensor
    emotions: Tensor
    read: Tensor
    """A state for each speech embedding."""
    text: Tensor
    """A state for each token."""

    def part(self, first: int, last: int) -> "Batch":
        def rows(tensor: Tensor, lengths: Tensor) -> Tensor:
            return tensor[lengths[:first].sum() : lengths[:last].sum()]

        return Batch(
            speech=rows(self.speech, self.lengths),
            lengths=self.lengths[first:last],
            tokens=rows(self.tokens, self.text_lengths),
            text_lengths=self.text_lengths[first:last],
            emotions=self.emotions[first:last],
            read=rows(self.read, self.lengths),
            text=rows(self.text, self.text_lengths),
        )


def draw(dtype: torch.dtype = torch.float32) -> Batch:
    torch.manual_seed(0)
    return Batch(
        speech=torch.randn(13, 4, dtype=dtype).requires_grad_(),
        lengths=torch.tensor([5, 2, 4, 2]),
        tokens=torch.tensor([4, 4, 7, 1, 4, 0, 6, 2]),
        text_lengths=torch.tensor([2, 2, 1, 3]),
        emotions=torch.tensor([3, IGNORED, 0, 10]),
        read=torch.randn(13, 4, dtype=dtype),
        text=torch.randn(8, 4, dtype=dtype),
    )


Items = float | Tensor | None


def _ctc(batch: Batch, items: Items) -> Tensor:
    table = TABLE.to(batch.speech.dtype)
    sizes = batch.lengths, batch.tokens, batch.text_lengths
    return ctc(batch.speech, *sizes, table, num_items=items)


def _cif_quantity(batch: Batch, items: Items) -> Tensor:
    quantity = batch.speech[batch.lengths.cumsum(0) - 1, 0]
    return cif_quantity(quantity, batch.text_lengths, num_items=items)


def _emotion_ce(batch: Batch, items: Items) -> Tensor:
    return emotion_ce(batch.speech, batch.lengths, batch.emotions, TABLE, BIAS, num_items=items)


def _embedding_l2(batch: Batch, items: Items) -> Tensor:
    text = batch.text, batch.text_lengths
    return embedding_l2(batch.speech, batch.lengths, *text, num_items=items)


def _optimal_transport(batch: Batch, items: Items) -> Tensor:
    return optimal_transport(
        *(batch.speech, batch.lengths, batch.text, batch.text_lengths),
        regularization=1.0,
        iterations=100,
        position_weight=1.0,
        num_items=items,
    )


def _input_kl(batch: Batch, items: Items) -> Tensor:
    head = Head(TABLE.to(batch.speech.dtype), logits_fp32=True)
    return input_kl(
        batch.speech, head, batch.read, head, temperature=2.0, num_items=items, chunk=3
    ).loss


def _hidden_cosine(batch: Batch, items: Items) -> Tensor:
    layers = [batch.speech, batch.speech.square()], [batch.read, batch.read]
    return hidden_cosine(*layers, num_items=items)


def _first_state(batch: Batch, items: Items) -> Tensor:
    return first_state(batch.speech, batch.read, num_items=items)


def _contrastive(batch: Batch, items: Items) -> Tensor:
    layers = [batch.speech, batch.speech.square()], [batch.text, batch.text]
    return contrastive(
        layers[0], batch.lengths, layers[1], batch.text_lengths, temperature=0.5, num_items=items
    )


Objective = Callable[[Batch, Items], Tensor]
COUNTED: list[tuple[Objective, int]] = [
    (_ctc, 8),  # tokens
    (_cif_quantity, 4),  # recordings
    (_emotion_ce, 3),  # labelled recordings
    (_embedding_l2, 7),  # 2 + 2 + 1 + the last 2 of 3 tokens
    (_optimal_transport, 4),
    (_input_kl, 13),  # positions
    (_hidden_cosine, 13),
    (_first_state, 13),
    (_contrastive, 4),
]
every = pytest.mark.parametrize("objective", [objective for objective, _ in COUNTED])


# CTC's are held against those of enumerated alignments, beside its values.
@pytest.mark.parametrize("objective", [each for each, _ in COUNTED if each is not _ctc])
def test_gradients_are_those_of_the_value(objective: Objective) -> None:
    batch = draw(torch.float64)
    assert torch.autograd.gradcheck(
        lambda speech: objective(replace(batch, speech=speech), None), (batch.speech,)
    )


@pytest.mark.parametrize(("objective", "count"), COUNTED)
def test_without_a_number_of_items_it_is_what_was_counted(objective: Objective, count: int) -> None:
    batch = draw()
    total = objective(batch, 1.0)
    torch.testing.assert_close(objective(batch, None) * count, total)
    torch.testing.assert_close(objective(batch, torch.tensor(5)) * 5, total)


@pytest.mark.parametrize("objective", [each for each, _ in COUNTED if each is not _contrastive])
@pytest.mark.parametrize("cut", [1, 3])
def test_two_parts_of_a_step_add_up(objective: Objective, cut: int) -> None:
    batch = draw()
    whole = objective(batch, 8.0)
    parts = objective(batch.part(0, cut), 8.0) + objective(batch.part(cut, 4), 8.0)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, batch.speech)[0] for loss in (parts, whole)),
        rtol=1e-5,
        atol=1e-6,
    )


@every
@pytest.mark.parametrize("items", [None, 7.0])
def test_where_nothing_is_heard_it_is_zero_and_still_reaches_the_adapter(
    objective: Objective, items: Items
) -> None:
    batch = draw()
    found = objective(batch.part(0, 0), items)
    found.backward()
    assert found.item() == 0.0
    assert batch.speech.grad is not None
    assert not batch.speech.grad.any()


@every
def test_autocast_changes_nothing(objective: Objective) -> None:
    batch = draw()
    with torch.autocast("cpu", torch.bfloat16):
        found = objective(batch, None)
    # CTC takes its unit of distance outside of what it guards.
    tolerance = 1e-4 if objective is _ctc else 0.0
    assert found.item() == pytest.approx(objective(batch, None).item(), rel=tolerance, abs=0.0)


@every
def test_sixteen_bits_are_summed_in_thirty_two(objective: Objective) -> None:
    batch = draw(torch.bfloat16)
    wide = replace(
        batch, speech=batch.speech.float(), read=batch.read.float(), text=batch.text.float()
    )
    found, exact = objective(batch, None), objective(wide, None)
    gradient = torch.autograd.grad(found, batch.speech)[0]
    assert found.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    assert gradient.isfinite().all()
    # CTC and the head multiply in the bits of their table, of which bfloat16 has eight.
    torch.testing.assert_close(found, exact, rtol=2e-2, atol=0)


@every
def test_no_gradient_reaches_what_is_read(objective: Objective) -> None:
    batch = draw()
    given = [tensor.requires_grad_() for tensor in (batch.read, batch.text)]
    found = torch.autograd.grad(objective(batch, None), [batch.speech, *given], allow_unused=True)
    assert [gradient is not None for gradient in found] == [True, False, False]
