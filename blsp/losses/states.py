"""Objectives that compare hidden states of the two views: of the LLM that hears with the LLM that
reads.

The student's states enter with a gradient, the teacher's without, from one layer or several; a
scalar leaves, connected to the student's states also where there are none.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from blsp.losses.sums import check_lengths, check_width, divisor, mean_rows, sum_dtype


def hidden_cosine(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    num_items: float | Tensor | None = None,
) -> Tensor:
    """How far states at the speech embeddings point from those at the transcript's tokens.

    ``1 - cos`` summed over positions and averaged over layers, one embedding to one token: the
    token-level objective of "Do SLMs Hear Speech as They Read Text?" (Maum AI, 2026), there at the
    embeddings and layers N/4, N/2, 3N/4 and N, at weight 0.1. More weight makes the states more
    alike and the model worse at following instructions.

    Args:
        student: for each layer (M, D) states at the speech embeddings, from ``gather_spans``.
        teacher: for each layer (M, D) states at the transcripts' tokens; no gradient.
        num_items: what the sum over positions is divided by; None is M.

    Raises:
        ValueError: layers, positions or directions differ, or there is no layer.
    """
    _check_layers(student, teacher)
    for heard, read in zip(student, teacher, strict=True):
        if heard.shape != read.shape:
            raise ValueError(
                f"expected one speech embedding for each transcript token, states of shape "
                f"{tuple(read.shape)}, found {tuple(heard.shape)}; train with an adapter that "
                "gives one embedding a token (`cformer`), or leave this objective out"
            )
    apart = [_sum_angles(*layer) for layer in zip(student, teacher, strict=True)]
    return torch.stack(apart).mean() / divisor(num_items, len(student[0]))


def _sum_angles(heard: Tensor, read: Tensor) -> Tensor:
    """(M, D) twice -> the sum of 1 - cos."""
    wide = sum_dtype(heard)
    with torch.autocast(heard.device.type, enabled=False):
        return (1 - cosine_similarity(heard.to(wide), read.detach().to(wide), dim=1)).sum()


def contrastive(  # noqa: PLR0913 - states of two views of two parts each
    student: Sequence[Tensor],
    lengths: Tensor,
    teacher: Sequence[Tensor],
    text_lengths: Tensor,
    *,
    temperature: float = 0.1,
    groups: Tensor | None = None,
    num_items: float | Tensor | None = None,
) -> Tensor:
    """Pick a transcript's recording among those of the batch, by the cosine of mean states.

    InfoNCE as in "Contrastive Learning for Task-Independent SpeechLLM-Pretraining" (Züfle and
    Niehues, arXiv 2412.15712)::

        - log( exp(cos(t_i, s_i) / temperature) / sum_j exp(cos(t_i, s_j) / temperature) )

    summed over recordings, averaged over layers. Their code has this direction alone, from a
    transcript to the recordings, and adds up seven layers (every fifth, from the embeddings on): to
    reproduce it, weigh by the number of layers. Their other similarity, a Wasserstein distance of
    each pair, is not here.

    Negatives are those of the batch, so that unlike the others this does not add up over parts.

    Args:
        student: for each layer (S, D) states at the speech embeddings of N recordings, one after
            the other, from ``gather_spans``.
        lengths: (N,) embeddings of each; recordings without speech or text are left out.
        teacher: for each layer (U, D) states at the transcripts' tokens; no gradient.
        text_lengths: (N,) tokens of each.
        temperature: that cosines are divided by, over 0.
        groups: (N,) equal numbers where recordings say the same, which are then no negatives of
            each other; None is that all differ.
        num_items: what the sum over recordings is divided by; None is the recordings compared.

    Raises:
        ValueError: layers, states, recordings or directions differ, or there is no layer.
    """
    _check_layers(student, teacher)
    if groups is not None and groups.shape != lengths.shape:
        raise ValueError(
            f"expected {len(lengths)} groups, one a recording, found {tuple(groups.shape)}; "
            "number the transcripts of the same batch"
        )
    kept = (lengths > 0) & (text_lengths > 0)
    same = torch.eye(len(lengths), dtype=torch.bool, device=lengths.device)
    excluded = torch.zeros_like(same) if groups is None else (groups == groups[:, None]) & ~same
    totals = []
    for heard, read in zip(student, teacher, strict=True):
        check_lengths(heard, lengths, read, text_lengths)
        check_width(heard, read, "states of the transcripts")
        with torch.autocast(heard.device.type, enabled=False):
            recordings = normalize(mean_rows(heard, lengths)[kept])  # (S, D) -> (n, D)
            transcripts = normalize(mean_rows(read.detach(), text_lengths)[kept])
            scores = transcripts.to(recordings.dtype) @ recordings.T / temperature
            scores = scores.masked_fill(excluded[kept][:, kept], -torch.inf)  # (n, n)
            totals.append((scores.logsumexp(1) - scores.diagonal()).sum())
    return torch.stack(totals).mean() / divisor(num_items, int(kept.sum()))


def first_state(
    student: Tensor, teacher: Tensor, *, num_items: float | Tensor | None = None
) -> Tensor:
    """Euclidean distance of the two states that predict the first token of each response.

    DiVA's output distillation (arXiv 2410.02678). Its lemma: where both views share one frozen
    head, zero distance is a global minimum of the KL of their predictions, and it costs no logits.
    The norm, not its square, as in the code its authors trained with and in ``embedding_l2``, with
    which it is added unweighted there. Published warning: alone it is not enough. DiVA answers long
    multiple choice at chance (VoiceBench OpenBookQA 25.5, its LLM reading 76.7), and without the
    distance of the embeddings it answers in the right language 1.4 % of the time.

    Args:
        student: (R, D) last states: rows of ``gather_response`` where ``response_positions`` is 0.
        teacher: (R, D) the same rows of the view that reads; no gradient.
        num_items: what the sum is divided by; None is R.

    Raises:
        ValueError: the two do not have the same shape.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"expected states of shape {tuple(teacher.shape)} like the teacher's, found "
            f"{tuple(student.shape)}; take the first row of each response in both views"
        )
    wide = sum_dtype(student)
    total = torch.linalg.vector_norm(student.to(wide) - teacher.detach().to(wide), dim=1).sum()
    return total / divisor(num_items, len(student))


def _check_layers(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
    if not student or len(student) != len(teacher):
        raise ValueError(
            f"expected states of the same layers, at least one, found {len(student)} of the "
            f"student and {len(teacher)} of the teacher; ask both views for the same layers"
        )
