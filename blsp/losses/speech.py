"""Objectives on speech embeddings that need no run of the LLM: CTC.

They say where the words are before a response can, at the cost of an adapter alone. The embeddings
of all recordings of a batch enter, one recording after the other, with their lengths and what was
said; a scalar leaves, connected to them also where there are none.
"""

import torch
from torch import Tensor
from torch.nn.functional import ctc_loss
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from blsp.losses.sums import check_lengths, divisor, sum_dtype

CTC_VARIANCE = 1 / 30
"""Of a token's Gaussian, in mean squared distances of two tokens: 15 nats between those two."""

CTC_BLANK = 0.3
"""Squared distance that blank stands at, in the same unit."""

_CTC_CHUNK = 256


def ctc(  # noqa: PLR0913 - speech and transcripts of two parts each, and the table
    speech: Tensor,
    lengths: Tensor,
    targets: Tensor,
    target_lengths: Tensor,
    table: Tensor,
    *,
    num_items: float | Tensor | None = None,
    chunk: int = _CTC_CHUNK,
) -> Tensor:
    """Connectionist temporal classification of speech embeddings as the LLM's own tokens.

    The classifier has no weights of its own. Each token is a Gaussian around its embedding, so that
    the score of token v at speech embedding x is ``-|x - e_v|^2 / (2 s^2)``, and only the embedding
    itself, in direction and in length, scores best. Blank, of id V, scores as a token at a fixed
    distance: what is near no token is a blank. The unit of both is the mean squared distance of two
    tokens. Alignments are summed over as in Graves et al. (ICML 2006); CTC before alignment to text
    is what "CTC meets OT" (arXiv 2301.11716) pre-trains with.

    Only the labels of the batch, blank and all other tokens together are told apart, which gives
    the loss and gradients of the whole vocabulary at a fraction of the memory.

    Args:
        speech: (S, D) speech embeddings of N recordings, one after the other.
        lengths: (N,) embeddings of each.
        targets: (U,) token ids of their transcripts, one after the other.
        target_lengths: (N,) tokens of each; one that does not fit into its speech adds nothing.
        table: (V, D) token embeddings; they get no gradient.
        num_items: what the sum is divided by; None is U.
        chunk: rows whose scores over V exist together.

    Raises:
        ValueError: lengths and what they are the lengths of differ.
    """
    heard, _ = check_lengths(speech, lengths, targets, target_lengths)
    table = table.detach()
    norms = torch.linalg.vector_norm(table, dim=1, dtype=sum_dtype(table)).square()
    middle = table.mean(0, dtype=sum_dtype(table))
    unit = 2 * (norms.mean() - middle @ middle)  # mean |e_v - e_w|^2
    known, classes = torch.unique(targets, return_inverse=True)

    def score(rows: Tensor) -> Tensor:
        return _score_tokens(rows, table, norms, known, 2 * CTC_VARIANCE * unit)

    with torch.autocast(speech.device.type, enabled=False):
        pieces = [checkpoint(score, rows, use_reentrant=False) for rows in speech.split(chunk)]
        log_p = torch.cat(pieces).log_softmax(-1)  # type: ignore[arg-type]  -> (S, known + 2)
    padded = pad_sequence(list(log_p.split(heard)))  # -> (longest, N, known + 2)
    total = ctc_loss(
        padded, classes, lengths, target_lengths, len(known), reduction="sum", zero_infinity=True
    )
    return total / divisor(num_items, len(targets))


def _score_tokens(
    rows: Tensor, table: Tensor, norms: Tensor, known: Tensor, width: Tensor
) -> Tensor:
    """(n, D) -> (n, known + 2): the ``known`` tokens, blank, and all other tokens together."""
    rows = rows.to(norms.dtype)
    products = (rows.to(table.dtype) @ table.T).to(norms.dtype)
    scores = (2 * products - rows.square().sum(1, keepdim=True) - norms) / width
    others = scores.index_fill(1, known, torch.finfo(scores.dtype).min / 2)
    blanks = scores.new_full((len(rows), 1), -CTC_BLANK / (2 * CTC_VARIANCE))
    return torch.cat([scores[:, known], blanks, others.logsumexp(1, keepdim=True)], dim=1)
