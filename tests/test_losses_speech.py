"""Objectives on speech embeddings, against loops over recordings and enumerated alignments."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from blsp.losses import (
    CTC_BLANK,
    CTC_VARIANCE,
    IGNORED,
    cif_quantity,
    ctc,
    embedding_l2,
    emotion_ce,
)


def gradients(loss: Callable[[], Tensor], *leaves: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss(), leaves))


# --- CTC ------------------------------------------------------------------------------------------

SPEECH_LENGTHS, SPOKEN_LENGTHS = torch.tensor([5, 3, 4]), torch.tensor([2, 3, 1])
SPOKEN = torch.tensor([4, 4, 7, 1, 4, 0])


def draw_speech(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Speech embeddings of three recordings, and a table of eleven tokens."""
    torch.manual_seed(0)
    speech = torch.randn(12, 5, dtype=dtype, requires_grad=True)
    return speech, torch.randn(11, 5, dtype=dtype)


def plain_ctc(speech: Tensor, table: Tensor) -> list[Tensor]:
    """-log of the summed probability of every alignment that spells the transcript, enumerated."""
    unit = torch.cdist(table, table).square().mean()
    distances = (speech[:, None] - table[None]).square().sum(-1) / unit
    blanks = torch.full_like(distances[:, :1], CTC_BLANK)
    scores = torch.cat([distances, blanks], 1) / (-2 * CTC_VARIANCE)
    losses = []
    for rows, spoken in zip(
        scores.log_softmax(-1).split(SPEECH_LENGTHS.tolist()),
        SPOKEN.split(SPOKEN_LENGTHS.tolist()),
        strict=True,
    ):
        blank, alignments = len(table), []
        labels = {*spoken.tolist(), blank}
        for path in itertools.product(labels, repeat=len(rows)):
            merged = [label for label, _ in itertools.groupby(path) if label != blank]
            if merged == spoken.tolist():
                alignments.append(sum(row[label] for row, label in zip(rows, path, strict=True)))
        losses.append(-torch.stack(alignments).logsumexp(0))  # type: ignore[arg-type]
    return losses


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_ctc_sums_over_every_alignment_of_the_whole_vocabulary(chunk: int) -> None:
    speech, table = draw_speech()
    found = ctc(speech, SPEECH_LENGTHS, SPOKEN, SPOKEN_LENGTHS, table, num_items=3, chunk=chunk)
    wanted = torch.stack(plain_ctc(speech, table)).sum() / 3
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        gradients(lambda: found, speech), gradients(lambda: wanted, speech), rtol=1e-4, atol=1e-5
    )


def test_ctc_passes_gradcheck() -> None:
    speech, table = draw_speech(torch.float64)

    def loss(some: Tensor) -> Tensor:
        return ctc(some, SPEECH_LENGTHS, SPOKEN, SPOKEN_LENGTHS, table, chunk=5)

    assert torch.autograd.gradcheck(loss, (speech,))


def test_ctc_where_the_transcripts_use_every_token() -> None:
    speech, table = draw_speech()
    loss = ctc(speech, SPEECH_LENGTHS, SPOKEN, SPOKEN_LENGTHS, table[[0, 1, 2, 3, 4, 5, 6, 7]])
    few, lengths = torch.tensor([0, 1, 0]), torch.tensor([1, 1, 1])
    whole = ctc(speech, SPEECH_LENGTHS, few, lengths, table[:2])
    assert torch.isfinite(torch.stack([loss, whole])).all()
    assert torch.isfinite(gradients(lambda: whole, speech)[0]).all()


def test_a_transcript_that_does_not_fit_into_its_speech_adds_nothing() -> None:
    speech, table = draw_speech()
    long = torch.tensor([4, 4, 7, 7, 7, 0])  # twice the same token needs a blank between
    fits = ctc(speech, SPEECH_LENGTHS, SPOKEN, SPOKEN_LENGTHS, table, num_items=1)
    first = ctc(speech, SPEECH_LENGTHS, long, SPOKEN_LENGTHS, table, num_items=1)
    wanted = plain_ctc(speech, table)
    torch.testing.assert_close(fits - first, wanted[1], rtol=1e-4, atol=1e-4)
    gradient = gradients(lambda: first, speech)[0]
    assert not gradient[5:8].any()
    assert gradient[:5].any()


def test_the_ctc_of_other_recordings_is_refused() -> None:
    speech, table = draw_speech()
    with pytest.raises(ValueError, match=r"12 speech embeddings for 11 and 6 tokens for 6"):
        ctc(speech, torch.tensor([5, 3, 3]), SPOKEN, SPOKEN_LENGTHS, table)


# --- the number of embeddings ---------------------------------------------------------------------


def test_the_error_of_a_number_of_embeddings_is_relative_to_the_tokens() -> None:
    quantity = torch.tensor([3.0, 5.0, 2.0, 7.0], requires_grad=True)
    found = cif_quantity(quantity, torch.tensor([2, 10, 0, 7]), num_items=1)
    assert found.item() == 1.0  # 3/2 and 5/10 are off by a half, nothing was said, 7/7 is right
    slope = torch.autograd.grad(found, quantity)[0]
    assert slope.tolist() == pytest.approx([1 / 2, -1 / 10, 0.0, 0.0])


def test_numbers_of_other_recordings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected 3 numbers of tokens, .* found \(2,\)"):
        cif_quantity(torch.ones(3), torch.ones(2))


# --- emotion --------------------------------------------------------------------------------------


def test_emotion_is_read_from_the_mean_of_each_labelled_recording() -> None:
    speech, table = draw_speech()
    weight, bias = table[:6].clone().requires_grad_(), torch.linspace(-1, 1, 6, requires_grad=True)
    labels = torch.tensor([4, IGNORED, 1])

    def plain() -> Tensor:
        heard = speech.split(SPEECH_LENGTHS.tolist())
        scores = [linear(heard[n].mean(0), weight, bias) for n in (0, 2)]
        return cross_entropy(torch.stack(scores), torch.tensor([4, 1]))

    def ours() -> Tensor:
        return emotion_ce(speech, SPEECH_LENGTHS, labels, weight, bias)

    torch.testing.assert_close(ours(), plain())
    leaves = speech, weight, bias
    for found, wanted in zip(gradients(ours, *leaves), gradients(plain, *leaves), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("labels", [[IGNORED, IGNORED], [IGNORED, 2]])  # the second is silent
def test_without_a_label_classifier_and_adapter_get_a_gradient_of_zero(labels: list[int]) -> None:
    speech = torch.randn(3, 5, requires_grad=True)
    leaves = [speech, torch.randn(4, 5, requires_grad=True), torch.zeros(4, requires_grad=True)]
    loss = emotion_ce(speech, torch.tensor([3, 0]), torch.tensor(labels), *leaves[1:])
    loss.backward()
    assert loss.item() == 0.0
    assert all(leaf.grad is not None and not leaf.grad.any() for leaf in leaves)


def test_emotions_of_other_recordings_are_refused() -> None:
    speech, weight, bias = torch.zeros(3, 5), torch.zeros(4, 5), torch.zeros(4)
    lengths, labels = torch.tensor([2, 1]), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"expected 2 emotions, one a recording, found \(1,\)"):
        emotion_ce(speech, lengths, labels[:1], weight, bias)
    with pytest.raises(ValueError, match="as the lengths say, 4, found 3"):
        emotion_ce(speech, lengths + labels, labels, weight, bias)
    with pytest.raises(ValueError, match="a classifier of width 5 like the speech, found 4"):
        emotion_ce(speech, lengths, labels, weight[:, 1:], bias)


# --- distance to the transcript -------------------------------------------------------------------


def test_the_last_embeddings_are_measured_against_the_tokens() -> None:
    # Of the first recording's three the last two, for two tokens; of the second's tokens the last.
    speech = torch.tensor([[9.0, 9.0], [3.0, 4.0], [0.0, 0.0], [1.0, 1.0]], requires_grad=True)
    text = torch.tensor([[0.0, 0.0], [0.0, 0.0], [5.0, 5.0], [1.0, 13.0]])
    found = embedding_l2(speech, torch.tensor([3, 1]), text, torch.tensor([2, 2]))
    assert found.item() == pytest.approx((5 + 0 + 12) / 3)
    slope = torch.autograd.grad(found * 3, speech)[0]
    torch.testing.assert_close(slope, torch.tensor([[0, 0], [0.6, 0.8], [0, 0], [0, -1.0]]))


def test_recordings_without_speech_or_text_are_not_measured() -> None:
    speech, text = torch.zeros(2, 1), torch.tensor([[7.0], [7.0], [2.0]])
    found = embedding_l2(speech, torch.tensor([0, 1, 1]), text, torch.tensor([2, 1, 0]))
    assert found.item() == 2.0


def test_the_text_of_other_recordings_is_refused() -> None:
    speech, text, lengths = torch.zeros(3, 5), torch.zeros(2, 5), torch.tensor([2, 1])
    with pytest.raises(ValueError, match="3 speech embeddings for 3 and 2 tokens for 3"):
        embedding_l2(speech, lengths, text, lengths)
    with pytest.raises(ValueError, match="token embeddings of width 5 like the speech, found 4"):
        embedding_l2(speech, lengths, text[:, 1:], torch.tensor([1, 1]))
