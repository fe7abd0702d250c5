"""Objectives on speech embeddings, against loops over recordings and enumerated alignments."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from blsp.losses import CTC_BLANK, CTC_VARIANCE, ctc


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
