"""Objectives on speech embeddings that need no run of the LLM: CTC, their distance to the
transcript's, their number, the emotion in them.

They say where the words are before a response can, at the cost of an adapter alone. The embeddings
of all recordings of a batch enter, one recording after the other, with their lengths and what was
said; a scalar leaves, connected to them also where there are none.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, ctc_loss
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from blsp.losses.response import IGNORED
from blsp.losses.sums import check_lengths, check_width, divisor, mean_rows, sum_dtype

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
    if not heard:
        return speech[:0].sum(dtype=sum_dtype(speech))  # zero, and connected to what gave it
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


def cif_quantity(
    quantity: Tensor, targets: Tensor, *, num_items: float | Tensor | None = None
) -> Tensor:
    """Relative error of the number of embeddings that continuous integrate-and-fire would give.

    ``sum_i |quantity_i / targets_i - 1| / num_items``: BLSP-KD's form (arXiv 2405.19041) of the
    quantity loss of Dong and Xu (arXiv 1905.11235). Relative, so that a long recording counts as
    much as a short one.

    Args:
        quantity: (N,) sum of each recording's weights, before they are scaled to the true number.
        targets: (N,) tokens of each transcript; where there are none nothing is asked.
        num_items: what the sum is divided by; None is the recordings with a token.

    Raises:
        ValueError: there is not one target a recording.
    """
    if quantity.shape != targets.shape:
        raise ValueError(
            f"expected {len(quantity)} numbers of tokens, one a recording, found "
            f"{tuple(targets.shape)}; take both from the same batch"
        )
    spoken = targets > 0
    ratio = quantity[spoken].to(sum_dtype(quantity)) / targets[spoken]
    return (ratio - 1).abs().sum() / divisor(num_items, len(ratio))


def emotion_ce(
    speech: Tensor,
    lengths: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    num_items: float | Tensor | None = None,
) -> Tensor:
    """Cross-entropy of a recording's emotion from the mean of its speech embeddings.

    BLSP-Emo's auxiliary objective, `input_er` (arXiv 2406.03872): mean, linear, cross-entropy. It
    keeps in the embeddings what the words do not say; without it the paper loses 3.8 points on
    IEMOCAP.

    Args:
        speech: (S, D) speech embeddings of N recordings, one after the other.
        lengths: (N,) embeddings of each.
        labels: (N,) classes, ``IGNORED`` where nobody labelled; silence is left out too.
        weight: (C, D) of the classifier, which learns beside the adapter.
        bias: (C,) of the classifier.
        num_items: what the sum is divided by; None is the labelled recordings.

    Raises:
        ValueError: the numbers of embeddings, recordings or directions differ.
    """
    if labels.shape != lengths.shape:
        raise ValueError(
            f"expected {len(lengths)} emotions, one a recording, found {tuple(labels.shape)}; "
            f"label with {IGNORED} where none is known"
        )
    check_width(speech, weight, "a classifier")
    labelled = (labels != IGNORED) & (lengths > 0)
    with torch.autocast(speech.device.type, enabled=False):
        heard = mean_rows(speech, lengths)[labelled]  # (S, D) -> (labelled, D)
        logits = heard @ weight.to(heard.dtype).T + bias.to(heard.dtype)
        total = cross_entropy(logits, labels[labelled], reduction="sum")
    return total / divisor(num_items, len(heard))


def embedding_l2(
    speech: Tensor,
    lengths: Tensor,
    text: Tensor,
    text_lengths: Tensor,
    *,
    num_items: float | Tensor | None = None,
) -> Tensor:
    """Euclidean distance of the last speech embeddings to the transcript's token embeddings.

    DiVA's input distillation (arXiv 2410.02678): the last n embeddings of a recording are to be the
    n tokens of its transcript, and those before are free to hold what is not in the words. The
    norm, not its square, as in the code its authors trained with: what is far away pulls no harder.
    Where there is less speech than text, the last of both are compared.

    Args:
        speech: (S, D) speech embeddings of N recordings, one after the other.
        lengths: (N,) embeddings of each.
        text: (U, D) token embeddings of their transcripts, one after the other; no gradient.
        text_lengths: (N,) tokens of each.
        num_items: what the sum is divided by; None is the tokens compared.

    Raises:
        ValueError: the numbers of embeddings, tokens, recordings or directions differ.
    """
    check_lengths(speech, lengths, text, text_lengths)
    check_width(speech, text, "token embeddings")
    compared = torch.minimum(lengths, text_lengths)
    wide = sum_dtype(speech)
    heard = speech[_is_last(lengths, compared)].to(wide)  # (S, D) -> (compared, D)
    read = text[_is_last(text_lengths, compared)].detach().to(wide)
    total = torch.linalg.vector_norm(heard - read, dim=1).sum()
    return total / divisor(num_items, len(heard))


def _is_last(lengths: Tensor, counts: Tensor) -> Tensor:
    """(N,) twice -> a mask of the rows: true at the last ``counts`` of each recording."""
    ends = lengths.cumsum(0)
    recording = torch.repeat_interleave(lengths)  # (S,)
    place = torch.arange(len(recording), device=lengths.device)
    return place >= (ends - counts)[recording]
