"""Batches of similar duration, bounded by what they cost instead of by a count.

Which examples share a batch is settled once, from the seed; an epoch only shuffles the order. So
the number of batches never changes, every rank has the same number of them, and a run that is
resumed sees what the uninterrupted run would have seen. Nothing is drawn from a rank's own random
state: each computes the same plan and takes its share. Where audio stays on the hub, a batch is
made of what is read together, and an epoch goes from region to region. Durations enter, lists of
indices leave.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from blsp.errors import InputError
from blsp.regions import Regions

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
        regions: of the data set, where some of its audio is on the hub.
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
        regions: Regions | None = None,
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
        order = _sort_by_size(seconds, counts, rng)
        if regions is not None:
            order = order[np.argsort(regions.numbers[order], kind="stable")]
        self._order, self._regions = order, regions
        borders = _find_borders(regions.numbers[order]) if regions is not None else []
        ends = _close_all(seconds[order], counts[order], config, borders)
        self._starts, self._ends, self.dropped = _fit_to_world(ends, self._order, world, rng)

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.config.seed, 1 + self.epoch])
        # A step waits for its slowest rank, so its batches are neighbours in size.
        for step in self._draw_steps(rng):
            batch = step * self.world + rng.permutation(self.world)[self.rank]
            yield self._order[self._starts[batch] : self._ends[batch]].tolist()

    def _draw_steps(self, rng: np.random.Generator) -> np.ndarray:
        if self._regions is None:
            return rng.permutation(len(self))
        first = self._order[self._starts[:: self.world]]  # an example of each step
        return _order_by_region(self._regions.numbers[first], self._regions.lanes, rng)

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


def _find_borders(numbers: np.ndarray) -> list[int]:
    """Return where a number differs from the one before it."""
    return (np.flatnonzero(np.diff(numbers)) + 1).tolist()


def _close_all(
    seconds: np.ndarray, tokens: np.ndarray, config: BatchConfig, borders: list[int]
) -> np.ndarray:
    """Return where each batch ends, none of them across a border."""
    parts = zip(np.split(seconds, borders), np.split(tokens, borders), strict=True)
    closed = [_close_batches(*part, config) for part in parts]
    firsts = [0, *borders]
    ends = [first + part for first, part in zip(firsts, closed, strict=True)]
    return np.concatenate(ends).astype(np.int32)


def _order_by_region(regions: np.ndarray, lanes: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the order of an epoch that goes through each region once.

    Regions are dealt to lanes at random, and steps come from the lanes in turn. What lies here is
    scattered over them; what makes a lane longer than the others comes at the end of those.

    Args:
        regions: (S,) of each step, -1 where it may stand anywhere.
        lanes: how many regions are gone through at the same time.

    Returns:
        (S,) the steps.
    """
    steps = rng.permutation(len(regions))
    steps = steps[np.argsort(regions[steps], kind="stable")]
    parts = np.split(steps, _find_borders(regions[steps]))
    anywhere = parts.pop(0).tolist() if len(steps) and regions[steps[0]] < 0 else []
    dealt: list[list[int]] = [[] for _ in range(lanes)]
    for number in rng.permutation(len(parts)):
        min(dealt, key=len).extend(parts[number].tolist())
    scattered: list[list[int]] = [[] for _ in range(lanes)]
    for step in anywhere:
        shortest = min(range(lanes), key=lambda lane: len(dealt[lane]) + len(scattered[lane]))
        scattered[shortest].append(step)
    queues = [_scatter(*both, rng) for both in zip(dealt, scattered, strict=True)]
    order = np.empty_like(steps)
    sizes = [len(order[lane::lanes]) for lane in range(lanes)]
    over = [step for queue, size in zip(queues, sizes, strict=True) for step in queue[size:]]
    for lane, (queue, size) in enumerate(zip(queues, sizes, strict=True)):
        lacking = max(0, size - len(queue))
        order[lane::lanes] = queue[:size] + over[:lacking]
        over = over[lacking:]
    return order


def _scatter(steps: list[int], others: list[int], rng: np.random.Generator) -> list[int]:
    """Return steps in their order with others anywhere between them."""
    mixed = np.empty(len(steps) + len(others), dtype=np.int64)
    is_other = rng.permutation(len(mixed)) < len(others)
    mixed[is_other], mixed[~is_other] = others, steps
    return mixed.tolist()


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
