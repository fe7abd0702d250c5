"""Batches of similar duration, bounded by what they cost instead of by a count.

Which examples share a batch is settled once, from the seed; an epoch only shuffles the order. So
the number of batches never changes, every rank has the same number of them, and a run that is
resumed sees what the uninterrupted run would have seen. Nothing is drawn from a rank's own random
state: each computes the same plan and takes its share. Durations enter, lists of indices leave.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from blsp.errors import InputError

_TOKEN_BUCKET = 64  # within one second of duration, examples are put in order of tokens this coarse


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How large a batch may be, padding included, on one device."""

    max_seconds: float = 120.0
    """Seconds of audio: the longest example times the number of examples."""
    max_tokens: int = 8192
    """Tokens of the longer of the two views: the most of an example times their number."""
    max_examples: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_seconds", "max_tokens", "max_examples"):
            if getattr(self, name) <= 0:
                raise InputError(f"expected {name} above 0, found {getattr(self, name)}; raise it")


class DurationBatchSampler(Sampler[list[int]]):
    """Yields the batches of one rank.

    Given to `DataLoader(batch_sampler=...)` as it is; a loader prepared by accelerate would not
    pass the epoch on when it resumes with several processes. Its own `batch_sampler` is itself,
    because Trainer looks for `set_epoch` there.

    Args:
        durations: (N,) seconds of audio of each example, 0 where there is none.
        tokens: (N,) tokens of each example.
        config: the bounds and the seed.
        rank: which share to yield.
        world: how many ranks there are.

    Raises:
        InputError: an example that alone exceeds a bound, or fewer examples than ranks.
    """

    def __init__(
        self,
        durations: Sequence[float] | np.ndarray,
        tokens: Sequence[int] | np.ndarray,
        config: BatchConfig,
        *,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        assert 0 <= rank < world
        self.batch_size = None
        self.drop_last = False
        self.batch_sampler = self
        self.epoch = 0
        self.config, self.rank, self.world = config, rank, world
        seconds = np.asarray(durations, dtype=np.float32)
        counts = np.asarray(tokens, dtype=np.int32)
        _check_bounds(seconds, counts, config)
        rng = np.random.default_rng(config.seed)
        self._order = _sort_by_size(seconds, counts, rng)
        ends = _close_batches(seconds[self._order], counts[self._order], config)
        self._starts, self._ends, self.dropped = _fit_to_world(ends, self._order, world, rng)

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.config.seed, 1 + self.epoch])
        # A step waits for its slowest rank, so its batches are neighbours in size.
        for step in rng.permutation(len(self)):
            batch = step * self.world + rng.permutation(self.world)[self.rank]
            yield self._order[self._starts[batch] : self._ends[batch]].tolist()

    def __len__(self) -> int:
        return len(self._ends) // self.world

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; the batches themselves stay."""
        self.epoch = epoch


def _check_bounds(seconds: np.ndarray, tokens: np.ndarray, config: BatchConfig) -> None:
    """Refuse an example that alone exceeds a bound: training would fail on it, hours later."""
    bounds = (("max_seconds", seconds, "s"), ("max_tokens", tokens, "tokens"))
    for name, sizes, unit in bounds:
        bound = getattr(config, name)
        too_many = int((sizes > bound).sum())
        if too_many:
            largest = int(sizes.argmax())
            raise InputError(
                f"{name}: expected examples of at most {bound:g} {unit}, found {too_many} above "
                f"it, the largest number {largest} with {sizes[largest]:g}; raise {name} or leave "
                "them out"
            )


def _sort_by_size(seconds: np.ndarray, tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return indices by whole seconds, then by coarse tokens, then at random."""
    order = rng.permutation(len(seconds)).astype(np.int32)
    by_size = np.lexsort((tokens[order] // _TOKEN_BUCKET, np.rint(seconds[order])))
    return order[by_size]


def _close_batches(seconds: np.ndarray, tokens: np.ndarray, config: BatchConfig) -> np.ndarray:
    """Return where each batch of the sorted examples ends, filling one after the other."""
    ends = array("q")
    start, longest, most = 0, 0.0, 0
    for i, (duration, count) in enumerate(zip(seconds.flat, tokens.flat, strict=True)):
        size = i - start + 1
        longest, most = max(longest, duration), max(most, count)
        too_long = longest * size > config.max_seconds or int(most) * size > config.max_tokens
        if size > 1 and (too_long or size > config.max_examples):
            ends.append(i)
            start, longest, most = i, duration, count
    if len(seconds):
        ends.append(len(seconds))
    return np.frombuffer(ends, dtype=np.int64).astype(np.int32)


def _fit_to_world(
    ends: np.ndarray, order: np.ndarray, world: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make the number of batches a multiple of the ranks.

    The largest batches are split, which costs no example. Where all batches are single examples,
    randomly chosen ones are dropped: cutting the end would always drop the longest.

    Returns:
        Starts and ends of the batches, and the indices of dropped examples.
    """
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int32)
    while len(ends) % world and (ends - starts).max() > 1:
        largest = int((ends - starts).argmax())
        middle = (starts[largest] + ends[largest]) // 2
        starts, ends = np.insert(starts, largest + 1, middle), np.insert(ends, largest, middle)
    excess = len(ends) % world
    if len(ends) == excess:
        raise InputError(
            f"expected at least one example for each of {world} processes, found {excess}; "
            "start fewer processes or give more data"
        )
    unlucky = rng.choice(len(ends), size=excess, replace=False)
    kept = np.delete(np.arange(len(ends)), unlucky)
    return starts[kept], ends[kept], order[starts[unlucky]]
