"""Objectives on next-token predictions, in the response and at the input: cross-entropy, and KL to
the text-fed LLM.

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

from blsp.losses.sums import divisor, sum_dtype

IGNORED = -100
"""The label of a position that nothing is learnt at."""

DEFAULT_CHUNK = 64
"""Response rows whose logits exist together; memory is some four times rows x V x 4 bytes."""

_VOCABULARY_TILE = 8192


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


def gather_spans(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the states at the speech embeddings, or at the transcript's tokens, row by row.

    No shift: these are states that stand at a position, whatever they predict.

    Args:
        hidden: (B, T, D) states of any layer.
        mask: (B, T) true, or 1, at the positions wanted.

    Returns:
        (M, D) in the order of the batch, which is that of the recordings in both views.

    Raises:
        ValueError: the two do not cover the same positions.
    """
    if hidden.shape[:2] != mask.shape:
        raise ValueError(
            f"expected a mask of shape {tuple(hidden.shape[:2])} like the hidden states, "
            f"found {tuple(mask.shape)}; pass the mask of the same view"
        )
    return hidden[mask.bool()]  # (B, T, D) -> (M, D)


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
    return ResponseLoss(total / divisor(num_items, len(hidden)), values, agree)


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
    factor = temperature**2 / divisor(num_items, len(student_hidden))
    return ResponseLoss(total * factor, values, agree)


def input_kl(  # noqa: PLR0913 - two models of two parts each, and every option by keyword
    student_hidden: Tensor,
    student_head: Head,
    teacher_hidden: Tensor,
    teacher_head: Head,
    *,
    temperature: float = 1.0,
    num_items: float | Tensor | None = None,
    chunk: int = DEFAULT_CHUNK,
) -> ResponseLoss:
    """KL(teacher || student) of next-token distributions at the input, one embedding to one token.

    The other half of BLSP-KD's alignment (arXiv 2405.19041): where the adapter gives one speech
    embedding to each token of the transcript, position i of both predicts what follows it, the last
    one what follows the recording. What stands before the recording is equal in both views.

    ``response_kl`` on other rows, T^2 included. The published code of BLSP-KD and of Ultravox has
    no T^2: to reproduce it, weigh by 1 / T^2, which at their T = 2 is 0.25.

    Args:
        student_hidden: (M, D) last states at the speech embeddings, from ``gather_spans``.
        student_head: gets a gradient where its weight or bias requires one.
        teacher_hidden: (M, D') last states at the transcripts' tokens, in the same order.
        teacher_head: head of the same vocabulary; teacher states and head get no gradient.
        temperature: T, over 0.
        num_items: what the sum is divided by; None is M.
        chunk: rows whose logits exist together.

    Raises:
        ValueError: there is not one embedding a token, or the vocabularies differ.
    """
    if len(student_hidden) != len(teacher_hidden):
        raise ValueError(
            f"expected one speech embedding for each of {len(teacher_hidden)} transcript tokens, "
            f"found {len(student_hidden)}; train with an adapter that gives one embedding a token "
            "(`cformer`), or leave this objective out"
        )
    return response_kl(
        student_hidden,
        student_head,
        teacher_hidden,
        teacher_head,
        temperature=temperature,
        num_items=num_items,
        chunk=chunk,
    )


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
        values = hidden.new_empty(len(hidden), dtype=sum_dtype(hidden))
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
            torch.zeros_like(tensor, dtype=sum_dtype(tensor))
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
    wide = sum_dtype(hidden)
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
