"""How every objective is summed: in which dtype, over which recordings, divided by what.

Sixteen bits lose small terms of long sums. A sum divided by a number known for the whole step adds
up over accumulation and processes, which a mean of means does not. Recordings lie one after the
other in a batch, as rows with lengths beside them, so that nothing here knows of padding.
"""

import torch
from torch import Tensor


def sum_dtype(tensor: Tensor) -> torch.dtype:
    """What sums over this tensor are taken in: float64 where it is that, else float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def divisor(num_items: float | Tensor | None, count: int) -> float | Tensor:
    """The items of the whole step, or where they are not given the ``count`` here, at least 1."""
    return max(count, 1) if num_items is None else num_items


def check_lengths(
    speech: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor
) -> tuple[list[int], list[int]]:
    """Return the lengths as integers: speech embeddings and tokens of each of N recordings.

    Args:
        speech: (S, ...), one recording after the other.
        lengths: (N,)
        tokens: (U, ...) of their transcripts, in the same order.
        token_lengths: (N,)

    Raises:
        ValueError: lengths and what they are the lengths of differ.
    """
    heard, read = lengths.tolist(), token_lengths.tolist()
    if len(heard) != len(read):
        raise ValueError(
            f"expected as many transcripts as recordings, found {len(read)} for {len(heard)}; "
            "take all from the same batch"
        )
    found = (len(speech), sum(heard), len(tokens), sum(read))
    if found[0] != found[1] or found[2] != found[3]:
        raise ValueError(
            f"expected as many rows as the lengths say, found {found[0]} speech embeddings for "
            f"{found[1]} and {found[2]} tokens for {found[3]}; take all from the same batch"
        )
    return heard, read


def check_width(rows: Tensor, others: Tensor, what: str) -> None:
    """Refuse rows that cannot be compared with others.

    Raises:
        ValueError: their last dimensions differ.
    """
    if rows.shape[-1] != others.shape[-1]:
        raise ValueError(
            f"expected {what} of width {rows.shape[-1]} like the speech, found {others.shape[-1]}; "
            "take both from the same model"
        )


def mean_rows(rows: Tensor, lengths: Tensor) -> Tensor:
    """Average the rows of each recording: (S, D) with (N,) lengths -> (N, D), zero where none.

    As a product, because adding rows by index is not deterministic on a GPU.

    Raises:
        ValueError: the lengths are not those of the rows.
    """
    if len(rows) != int(lengths.sum()):
        raise ValueError(
            f"expected as many rows as the lengths say, {int(lengths.sum())}, found {len(rows)}; "
            "take both from the same batch"
        )
    ends = lengths.cumsum(0)[:, None]
    place = torch.arange(len(rows), device=rows.device)
    inside = (place < ends) & (place >= ends - lengths[:, None])  # (N, S)
    wide = sum_dtype(rows)
    return inside.to(wide) @ rows.to(wide) / lengths.clamp(min=1)[:, None]
