"""Batches: bounds hold, nothing is lost or seen twice, ranks agree, epochs repeat."""

import tracemalloc

import numpy as np
import pytest
from torch.utils.data import DataLoader

from blsp.errors import InputError
from blsp.sampler import BatchConfig, DurationBatchSampler

CONFIG = BatchConfig(max_seconds=40, max_tokens=600, max_examples=16, seed=3)


def draw(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(0.5, 20, count), rng.integers(5, 300, count)


def samplers(count: int, world: int, config: BatchConfig = CONFIG) -> list[DurationBatchSampler]:
    durations, tokens = draw(count)
    return [
        DurationBatchSampler(durations, tokens, config, rank=rank, world=world)
        for rank in range(world)
    ]


def test_batches_are_filled_by_padded_seconds() -> None:
    """4 + 4 + 4 fill 12 s; 6 + 6 fill them too; 10 s stand alone."""
    config = BatchConfig(max_seconds=12, max_tokens=1000, max_examples=10)
    sampler = DurationBatchSampler([4, 6, 4, 10, 6, 4], [1] * 6, config)
    assert sorted(sorted(batch) for batch in sampler) == [[0, 2, 5], [1, 4], [3]]


def test_batches_are_filled_by_padded_tokens() -> None:
    config = BatchConfig(max_seconds=100, max_tokens=400, max_examples=10)
    sampler = DurationBatchSampler([0, 0, 0, 0, 0], [100, 390, 100, 10, 100], config)
    assert sorted(sorted(batch) for batch in sampler) == [[0, 2, 3, 4], [1]]


def test_batches_are_filled_by_count() -> None:
    config = BatchConfig(max_seconds=100, max_tokens=400, max_examples=2)
    sampler = DurationBatchSampler([1] * 5, [1] * 5, config)
    assert sorted(len(batch) for batch in sampler) == [1, 2, 2]


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [8, 9, 50, 333, 2000])
def test_the_ranks_together_see_each_example_once_but_for_the_dropped(
    count: int, world: int
) -> None:
    ranks = samplers(count, world)
    seen = [index for sampler in ranks for batch in sampler for index in batch]
    assert sorted([*seen, *ranks[0].dropped]) == list(range(count))
    assert len({len(list(sampler)) for sampler in ranks} | {len(ranks[0])}) == 1


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_no_batch_exceeds_a_bound(world: int) -> None:
    durations, tokens = draw(2000)
    for sampler in samplers(2000, world):
        for batch in sampler:
            assert durations[batch].max() * len(batch) <= 40
            assert tokens[batch].max() * len(batch) <= 600
            assert 1 <= len(batch) <= 16


def test_batches_are_split_rather_than_dropped() -> None:
    """Two batches of four become three for three ranks."""
    config = BatchConfig(max_seconds=100, max_tokens=400, max_examples=4)
    ranks = [
        DurationBatchSampler([1] * 8, [1] * 8, config, rank=rank, world=3) for rank in range(3)
    ]
    assert sorted(len(batch) for sampler in ranks for batch in sampler) == [2, 2, 4]
    assert len(ranks[0].dropped) == 0


def test_what_must_be_dropped_is_not_the_longest() -> None:
    """Five examples that fill a batch each, two ranks: one goes, each as often as another."""
    config = {"max_seconds": 10.0, "max_tokens": 100, "max_examples": 4}
    durations = [6.0, 7.0, 8.0, 9.0, 10.0]
    dropped = [
        int(
            DurationBatchSampler(
                durations, [1] * 5, BatchConfig(**config, seed=s), world=2
            ).dropped[0]
        )
        for s in range(500)
    ]
    assert np.bincount(dropped, minlength=5).min() > 60


def test_an_epoch_changes_the_order_and_keeps_the_batches() -> None:
    [sampler] = samplers(500, 1)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert first != second
    assert sorted(first) == sorted(second)


def test_the_seed_changes_the_batches() -> None:
    durations, tokens = draw(500)
    one, other = (
        DurationBatchSampler(durations, tokens, BatchConfig(seed=seed)) for seed in (1, 2)
    )
    assert sorted(one) != sorted(other)


def test_a_fresh_sampler_at_an_epoch_repeats_it() -> None:
    """So that resuming is to set the epoch and skip batches."""
    used, fresh = samplers(500, 2)[1], samplers(500, 2)[1]
    for epoch in range(2):
        used.set_epoch(epoch)
        list(used)
    used.set_epoch(2)
    fresh.set_epoch(2)
    assert list(fresh) == list(used)


def test_the_ranks_of_a_step_have_batches_of_neighbouring_duration() -> None:
    durations, _ = draw(2000)
    ranks = [list(sampler) for sampler in samplers(2000, 4)]
    spans = []
    for step in zip(*ranks, strict=True):
        longest = [durations[batch].max() for batch in step]
        spans.append(max(longest) - min(longest))
    assert np.mean(spans) < 1


def test_no_rank_gets_the_longer_batch_always() -> None:
    durations, _ = draw(4000)
    ranks = [list(sampler) for sampler in samplers(4000, 2)]
    longer = [durations[a].sum() > durations[b].sum() for a, b in zip(*ranks, strict=True)]
    assert 0.4 < np.mean(longer) < 0.6


def test_an_example_longer_than_a_batch_may_be_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        DurationBatchSampler([1, 50, 41], [1, 1, 1], CONFIG)
    assert str(caught.value) == (
        "max_seconds: expected examples of at most 40 s, found 2 above it, the largest number 1 "
        "with 50; raise max_seconds or leave them out"
    )
    with pytest.raises(InputError, match="max_tokens: expected examples of at most 600 tokens"):
        DurationBatchSampler([1, 1], [601, 1], CONFIG)


@pytest.mark.parametrize(("count", "world"), [(0, 1), (2, 3)])
def test_fewer_examples_than_processes_are_refused(count: int, world: int) -> None:
    with pytest.raises(InputError, match=f"each of {world} processes, found {count}"):
        DurationBatchSampler([1] * count, [1] * count, CONFIG, world=world)


def test_a_bound_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="expected max_seconds above 0, found 0"):
        BatchConfig(max_seconds=0)


def test_a_loader_passes_the_epoch_on_the_way_the_trainer_does() -> None:
    [sampler] = samplers(50, 1)
    loader = DataLoader(list(range(50)), batch_sampler=sampler)  # pyright: ignore[reportArgumentType]
    assert sum(len(batch) for batch in loader) == 50
    assert len(loader) == len(sampler)
    loader.batch_sampler.batch_sampler.set_epoch(4)  # pyright: ignore
    assert sampler.epoch == 4


def draw_librispeech(count: int) -> np.ndarray:
    """Seconds as in LibriSpeech's training parts: three of four between 12 and 17, mean 12.3."""
    draws = np.random.default_rng(0)
    long = draws.normal(14.5, 1.4, count)
    short = draws.uniform(1.5, 10.0, count)
    return np.clip(np.where(draws.random(count) < 0.75, long, short), 1.3, 24.5)


@pytest.mark.parametrize("world", [1, 8])
def test_little_of_a_batch_of_librispeech_is_padding(world: int) -> None:
    durations = draw_librispeech(30_000)
    assert durations.mean() == pytest.approx(12.3, abs=0.1)
    tokens = (60 + 10 * durations).astype(np.int64)
    for seconds in (80, 240):
        config = BatchConfig(max_seconds=seconds)
        sampler = DurationBatchSampler(durations, tokens, config, world=world)
        heard = sum(durations[batch].sum() for batch in sampler)
        padded = sum(durations[batch].max() * len(batch) for batch in sampler)
        assert 1 - heard / padded < 0.10


@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_a_plan_takes_at_most_150_bytes_an_utterance(count: int) -> None:
    """Without the memory being traced, a million takes 2 s on one core."""
    durations, tokens = draw(count)
    tracemalloc.start()
    sampler = DurationBatchSampler(durations, tokens, BatchConfig(), world=4)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(sampler) > 0
    assert kept < count * 8
    assert peak < count * 150
