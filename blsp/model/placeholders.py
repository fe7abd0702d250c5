"""As many placeholders as there are speech embeddings, where only the model knows how many.

An adapter that decides by what is said cannot tell the processor beforehand. Its prompts hold one
placeholder a recording; once the speech side has run, every row is rewritten and padded anew.
Masking superfluous places instead would be wrong: a sliding window counts them. Tensors enter and
leave.
"""

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def fit_placeholders(
    rows: dict[str, Tensor], is_audio: Tensor, counts: tuple[Tensor, Tensor], *, left: bool
) -> dict[str, Tensor]:
    """Repeat the placeholders of each recording as often as it has embeddings now.

    Args:
        rows: (B, T) each, by name: ids, labels. ``attention_mask`` is among them; where it is 0
            nothing is kept.
        is_audio: (B, T), true at placeholders.
        counts: placeholders of each recording as they are, in order, and as they are to be, (N,).
        left: pad on the left.

    Returns:
        The same names, (B, T'), padded with 0, and labels with -100.

    Raises:
        ValueError: there are not as many placeholders as the first counts say.
    """
    now, wanted = (count.to(is_audio.device) for count in counts)
    if int(is_audio.sum()) != int(now.sum()):
        raise ValueError(
            f"expected {int(now.sum())} audio tokens for {len(now)} recordings, found "
            f"{int(is_audio.sum())}; let the processor place them, and truncate text only"
        )
    repeats = torch.zeros(int(now.sum()), dtype=torch.long, device=is_audio.device)
    repeats[now.cumsum(0) - now] = wanted
    times = rows["attention_mask"].long().clone()
    times[is_audio] = repeats
    fitted = {}
    for name, tensor in rows.items():
        pieces = [row.repeat_interleave(n) for row, n in zip(tensor, times, strict=True)]
        fitted[name] = pad_sequence(
            pieces,
            batch_first=True,
            padding_value=-100 if name == "labels" else 0,
            padding_side="left" if left else "right",
        )
    return fitted


def share_out(counts: Tensor, sizes: Tensor, owners: Tensor) -> Tensor:
    """Deal the embeddings of each recording to its windows, by how long they are.

    Args:
        counts: (N,) embeddings of each recording.
        sizes: (W,) rows of each window.
        owners: (W,) the recording that each window is of, in ascending order.

    Returns:
        (W,), which add up to the counts.
    """
    if len(owners) == len(counts):
        return counts
    whole = torch.zeros_like(counts).index_add(0, owners, sizes)
    end = sizes.cumsum(0) - (whole.cumsum(0) - whole)[owners]  # rows up to each window's end
    begin = end - sizes
    total = counts[owners]
    return end * total // whole[owners] - begin * total // whole[owners]
