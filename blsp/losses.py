"""Objectives as pure functions of tensors: on the response, cross-entropy and KL to the text-fed
LLM; on the speech embeddings, CTC.

Logits over a large vocabulary are the largest tensors of a training step, so they never exist all
at once: a chunk of response rows is turned into logits, its loss and its gradient are formed while
they are there, and backward is one multiplication. Hidden states and the LLM's head enter; the loss
and what every response token contributed leave. The shift between logits and labels is here and
nowhere else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import ctc_loss
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

IGNORED = -100
"""The label of a position that nothing is learnt at."""

DEFAULT_CHUNK = 64
"""Response rows whose logits exist together; memory is some four times rows x V x 4 bytes."""

_VOCABULARY_TILE = 8192

CTC_VARIANCE = 1 / 30
"""Of a token's Gaussian, in mean squared distances of two tokens: 15 nats between those two."""

CTC_BLANK = 0.3
"""Squared distance that blank stands at, in the same unit."""

_CTC_CHUNK = 256


def gather_response(hidden: Tensor, labels: Tensor) -> Tensor:
    """Return the hidden states that predict a label, row by row of the batch.

    Position t predicts the label at t + 1: the last prompt position predicts the first response
    token, the last response token predicts the end of turn, and the end of turn predicts nothing.

    Args:
        hidden: (B, T, D) last hidden states, before the LLM's head.
        labels: (B, T) token ids at their own positions, ``IGNORED`` outside responses.

    Returns:
        (N, D), in the order of ``response_targets(labels)``.

    Raises:
        ValueError: the two do not cover the same positions.
    """
    if hidden.shape[:2] != labels.shape:
        raise ValueError(
            f"expected labels of shape {tuple(hidden.shape[:2])} like the hidden states, "
            f"found {tuple(labels.shape)}; pass the labels of the same batch"
        )
    return hidden[:, :-1][labels[:, 1:] != IGNORED]  # (B, T, D) -> (N, D)


def response_targets(labels: Tensor) -> Tensor:
    """Return (N,) the token ids that ``gather_response`` rows predict, from (B, T) labels."""
    following = labels[:, 1:]
    return following[following != IGNORED]


def response_positions(labels: Tensor) -> Tensor:
    """Return (N,) the place of each target in its own response, from 0; each turn starts again."""
    inside = labels[:, 1:] != IGNORED
    count = inside.cumsum(1)
    before = count.masked_fill(inside, 0).cummax(1).values  # what earlier responses had counted
    return (count - before - 1)[inside]


@dataclass(frozen=True, eq=False)
class Head:
    """What turns hidden states into logits: ``cap * tanh(scale * (h W^T + b) / cap)``."""

    weight: Tensor
    """(V, D)"""
    bias: Tensor | None = None
    """(V,)"""
    scale: float = 1.0
    """Cohere multiplies by ``logit_scale``; Granite divides by ``logits_scaling``."""
    softcap: float | None = None
    """Gemma's ``final_logit_softcapping``; None leaves the logits as they are."""
    logits_fp32: bool = True
    """Multiply 16-bit states into float32 logits, rather than round the logits to 16 bits."""

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, D) -> (N, V) in float32, or float64 where the states are."""
        logits = _multiply(hidden, self.weight, fp32=self.logits_fp32)
        if self.bias is not None:
            logits += self.bias
        logits *= self.scale
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits


class ResponseLoss(NamedTuple):
    """A loss and what it is made of."""

    loss: Tensor
    """Scalar; the only part with a gradient."""
    per_token: Tensor
    """(N,) unweighted values in nats, at the temperature of the loss and without its T^2."""
    agree: Tensor
    """(N,) whether the most likely token is the teacher's most likely one, or the target."""


def response_ce(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    *,
    num_items: float | Tensor | None = None,
    chunk: int = DEFAULT_CHUNK,
) -> ResponseLoss:
    """Cross-entropy on response tokens: BLSP's objective (arXiv 2309.00916).

    Args:
        hidden: (N, D) from ``gather_response``.
        head: the LLM's head; its weight and bias get a gradient where they require one.
        targets: (N,) from ``response_targets``.
        num_items: response tokens of the whole step, over accumulation and processes; None is N.
        chunk: rows whose logits exist together.

    Raises:
        ValueError: there is not one target a row.
    """
    if targets.shape != hidden.shape[:1]:
        raise ValueError(
            f"expected {len(hidden)} targets, one a row, found {tuple(targets.shape)}; take both "
            "from the same labels"
        )

    def rows_ce(rows: slice, logits: Tensor) -> _Rows:
        wanted = targets[rows, None]
        agree = logits.argmax(-1) == wanted[:, 0]
        log_p = _log_softmax_(logits)
        values = -log_p.gather(1, wanted)[:, 0]
        slope = log_p.exp_()
        slope.scatter_add_(1, wanted, slope.new_full(wanted.shape, -1.0))
        return _Rows(values, agree, slope)

    total, values, agree = _sum_over_rows(hidden, head, rows_ce, weight=None, chunk=chunk)
    return ResponseLoss(total / _divisor(num_items, hidden), values, agree)


def response_kl(  # noqa: PLR0913 - two models of two parts each, and every option by keyword
    student_hidden: Tensor,
    student_head: Head,
    teacher_hidden: Tensor,
    teacher_head: Head,
    *,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    num_items: float | Tensor | None = None,
    chunk: int = DEFAULT_CHUNK,
) -> ResponseLoss:
    """KL(teacher || student) of next-token distributions at response tokens.

    ``T^2 / num_items * sum_i weight_i * KL(softmax(z_t,i / T) || softmax(z_s,i / T))``. The
    behaviour alignment of BLSP-KD (arXiv 2405.19041); T^2 keeps the size of the gradient when the
    temperature changes (Hinton et al., arXiv 1503.02531).

    Args:
        student_hidden: (N, D) rows of the view that hears, from ``gather_response``.
        student_head: gets a gradient where its weight or bias requires one.
        teacher_hidden: (N, D') rows of the view that reads, in the same order; no gradient.
        teacher_head: head of the same vocabulary; no gradient.
        temperature: T, over 0.
        weight: (N,) factors of the rows; None is one each.
        num_items: response tokens of the whole step, over accumulation and processes; None is N.
        chunk: rows whose logits exist together.

    Raises:
        ValueError: the two sides differ in rows or vocabulary.
    """
    sides = [(len(student_hidden), len(student_head.weight))]
    sides.append((len(teacher_hidden), len(teacher_head.weight)))
    if sides[0] != sides[1]:
        raise ValueError(
            f"expected as many rows and vocabulary entries from the teacher as from the student "
            f"{sides[0]}, found {sides[1]}; label the same tokens in both views"
        )

    def rows_kl(rows: slice, logits: Tensor) -> _Rows:
        wanted = teacher_head.logits(teacher_hidden[rows])
        agree = logits.argmax(-1) == wanted.argmax(-1)
        log_s = _log_softmax_(logits.div_(temperature))
        log_t = _log_softmax_(wanted.div_(temperature))
        p_t = log_t.exp()
        values = log_t.sub_(log_s).mul_(p_t).sum(-1)
        return _Rows(values, agree, log_s.exp_().sub_(p_t).div_(temperature))

    total, values, agree = _sum_over_rows(
        student_hidden, student_head, rows_kl, weight=weight, chunk=chunk
    )
    factor = temperature**2 / _divisor(num_items, student_hidden)
    return ResponseLoss(total * factor, values, agree)


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
    found = (len(speech), int(lengths.sum()), len(targets), int(target_lengths.sum()))
    if found[0] != found[1] or found[2] != found[3]:
        raise ValueError(
            f"expected as many rows as the lengths say, found {found[0]} speech embeddings for "
            f"{found[1]} and {found[2]} tokens for {found[3]}; take all from the same batch"
        )
    table = table.detach()
    norms = torch.linalg.vector_norm(table, dim=1, dtype=_sum_dtype(table)).square()
    middle = table.mean(0, dtype=_sum_dtype(table))
    unit = 2 * (norms.mean() - middle @ middle)  # mean |e_v - e_w|^2
    known, classes = torch.unique(targets, return_inverse=True)

    def score(rows: Tensor) -> Tensor:
        return _score_tokens(rows, table, norms, known, 2 * CTC_VARIANCE * unit)

    with torch.autocast(speech.device.type, enabled=False):
        pieces = [checkpoint(score, rows, use_reentrant=False) for rows in speech.split(chunk)]
        log_p = torch.cat(pieces).log_softmax(-1)  # type: ignore[arg-type]  -> (S, known + 2)
    padded = pad_sequence(list(log_p.split(lengths.tolist())))  # -> (longest, N, known + 2)
    total = ctc_loss(
        padded, classes, lengths, target_lengths, len(known), reduction="sum", zero_infinity=True
    )
    return total / _divisor(num_items, targets)


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


class _Rows(NamedTuple):
    """What a chunk of n rows gives: values (n,), agreement (n,), d values / d logits (n, V)."""

    values: Tensor
    agree: Tensor
    slope: Tensor


_RowLoss = Callable[[slice, Tensor], _Rows]
"""Takes the rows' place and their logits (n, V), which it may overwrite."""


@dataclass(frozen=True)
class _Plan:
    """What the autograd function needs beside the tensors that may get a gradient."""

    head: Head
    row_loss: _RowLoss
    weight: Tensor | None
    chunk: int
    differentiate: bool


def _sum_over_rows(
    hidden: Tensor, head: Head, row_loss: _RowLoss, *, weight: Tensor | None, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted sum of the row losses, with a gradient; their values and agreement, without."""
    # Asked here because inside an autograd function the grad mode is always off.
    plan = _Plan(head, row_loss, weight, chunk, torch.is_grad_enabled())
    return _ChunkedRows.apply(hidden, head.weight, head.bias, plan)  # type: ignore[return-value]


class _ChunkedRows(torch.autograd.Function):
    """Forms the gradient in forward, while a chunk's logits exist."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, plan: _Plan
    ) -> tuple[Tensor, Tensor, Tensor]:
        values = hidden.new_empty(len(hidden), dtype=_sum_dtype(hidden))
        agree = torch.empty(len(hidden), dtype=torch.bool, device=hidden.device)
        needed = [plan.differentiate and need for need in ctx.needs_input_grad[:3]]
        ctx.gradients = _Gradients.of((hidden, weight, bias), needed)
        # Autocast would round float32 logits that were asked for.
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), plan.chunk):
                rows = slice(start, start + plan.chunk)
                logits = plan.head.logits(hidden[rows])
                slope = _head_slope(plan.head, logits)
                values[rows], agree[rows], row_slope = plan.row_loss(rows, logits)
                if any(needed):
                    row_slope *= slope if plan.weight is None else slope * plan.weight[rows, None]
                    ctx.gradients.add(rows, row_slope, hidden[rows], weight)
        ctx.mark_non_differentiable(values, agree)
        weighted = values if plan.weight is None else values * plan.weight
        return weighted.sum(), values, agree

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override] - once_differentiable hides the name of ctx
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, ...]:
        return *ctx.gradients.times(grad_outputs[0]), None


@dataclass
class _Gradients:
    """Gradients of a sum over rows; None where nobody asks for one."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    dtypes: list[torch.dtype | None]

    @classmethod
    def of(cls, inputs: tuple[Tensor | None, ...], needed: list[bool]) -> "_Gradients":
        hidden, weight, bias = (
            # Sums over many rows lose small terms in 16 bits, and float16 small gradients too.
            torch.zeros_like(tensor, dtype=_sum_dtype(tensor))
            if tensor is not None and need
            else None
            for tensor, need in zip(inputs, needed, strict=True)
        )
        dtypes = [None if tensor is None else tensor.dtype for tensor in inputs]
        return cls(hidden, weight, bias, dtypes)

    def add(self, rows: slice, slope: Tensor, hidden: Tensor, weight: Tensor) -> None:
        """Take in a chunk: (n, V) d loss / d (h W^T + b), (n, D) and (V, D)."""
        if self.hidden is not None:
            self.hidden[rows] = slope.to(weight.dtype) @ weight  # (n, V) -> (n, D)
        if self.weight is not None:
            self.weight += slope.to(hidden.dtype).T @ hidden
        if self.bias is not None:
            self.bias += slope.sum(0)

    def times(self, grad: Tensor) -> list[Tensor | None]:
        parts = zip((self.hidden, self.weight, self.bias), self.dtypes, strict=True)
        return [None if part is None else (part * grad).to(dtype) for part, dtype in parts]


def _head_slope(head: Head, logits: Tensor) -> Tensor | float:
    """d logits / d (h W^T + b): the scale, and under a soft cap the slope of its tanh."""
    if head.softcap is None:
        return head.scale
    return (logits / head.softcap).square_().neg_().add_(1.0).mul_(head.scale)


def _multiply(hidden: Tensor, weight: Tensor, *, fp32: bool) -> Tensor:
    """(N, D) x (V, D) -> (N, V) in the dtype that losses are summed in."""
    wide = _sum_dtype(hidden)
    if hidden.dtype == weight.dtype == wide:
        return hidden @ weight.T
    if not fp32:
        return (hidden.to(weight.dtype) @ weight.T).to(wide)
    if hidden.is_cuda and hidden.dtype == weight.dtype:
        return torch.mm(hidden, weight.T, out_dtype=wide)
    # A whole float32 copy of the head would be larger than the logits.
    logits = hidden.new_empty(len(hidden), len(weight), dtype=wide)
    for start in range(0, len(weight), _VOCABULARY_TILE):
        tile = slice(start, start + _VOCABULARY_TILE)
        logits[:, tile] = hidden.to(wide) @ weight[tile].to(wide).T
    return logits


def _log_softmax_(logits: Tensor) -> Tensor:
    """Log-softmax over the last dimension, in place."""
    return logits.sub_(logits.logsumexp(-1, keepdim=True))


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _divisor(num_items: float | Tensor | None, rows: Tensor) -> float | Tensor:
    return max(len(rows), 1) if num_items is None else num_items
