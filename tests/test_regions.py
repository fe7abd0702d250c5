"""Batches of audio that stays on the hub: what is read together comes together, and once."""

from collections import OrderedDict
from hashlib import sha256
from itertools import chain

import numpy as np
import pytest

from blsp import parquet, regions
from blsp.regions import REGION_BYTES, Regions, form_regions
from blsp.sampler import BatchConfig, DurationBatchSampler

CONFIG = BatchConfig(max_seconds=40, max_tokens=600, max_examples=16, seed=3)
GROUPS, ROWS = 60, 100  # of 32 MB each
GROUP_BYTES = 2**25


def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.uniform(0.5, 20, count), rng.integers(5, 300, count)


def sample(
    regions: Regions | None, count: int = GROUPS * ROWS, *, rank: int = 0, world: int = 1
) -> DurationBatchSampler:
    return DurationBatchSampler(*draw(count), CONFIG, regions=regions, rank=rank, world=world)


def groups_of(count: int = GROUPS * ROWS) -> np.ndarray:
    return np.arange(count) // ROWS


def remote(*, local: int = 0) -> Regions:
    """Sixty groups, and some examples whose audio lies here."""
    groups = np.concatenate([groups_of(), np.full(local, -1)])
    return form_regions(groups, np.full(GROUPS, GROUP_BYTES))


def count_reads(batches: list[list[int]], room: int) -> int:
    """How many groups a process fetches that keeps so many."""
    kept: OrderedDict[int, None] = OrderedDict()
    reads = 0
    for index in (index for batch in batches for index in batch if index < GROUPS * ROWS):
        group = index // ROWS
        reads += group not in kept
        kept[group] = None
        kept.move_to_end(group)
        if len(kept) > room:
            kept.popitem(last=False)
    return reads


ROOM = parquet.CACHE_BYTES // GROUP_BYTES


# --- regions --------------------------------------------------------------------------------------


def test_groups_that_follow_each_other_make_a_region() -> None:
    """Of 40, 40, 40 and 100 MiB two, one and one find room; nobody asked for the fifth."""
    sizes = np.array([40, 40, 40, 100, 7]) * 2**20
    found = form_regions(np.array([3, 0, 0, -1, 1, 2]), sizes)
    assert found.numbers.tolist() == [2, 0, 0, -1, 0, 1]


@pytest.mark.parametrize(
    ("megabytes", "lanes"), [(1, 8), (96, 8), (97, 4), (192, 4), (193, 2), (385, 1), (5000, 1)]
)
def test_so_many_are_read_at_once_as_find_room(megabytes: int, lanes: int) -> None:
    found = form_regions(np.array([0, 1]), np.array([megabytes, megabytes]) * 2**20)
    assert found.lanes == lanes


def test_the_largest_lanes_find_room_in_the_cache() -> None:
    assert 8 * REGION_BYTES <= regions._OPEN_SHARE * parquet.CACHE_BYTES


# --- batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("world", "digest"), [(1, "b8a1b046033c6d39"), (3, "5bcefb5dc0126848")])
def test_what_lies_here_comes_in_the_order_it_always_came_in(world: int, digest: str) -> None:
    """The digests are of the sampler before there were regions."""
    total = sha256()
    for rank in range(world):
        sampler = sample(None, 1000, rank=rank, world=world)
        for epoch in (0, 1):
            sampler.set_epoch(epoch)
            total.update(repr(list(sampler)).encode())
    assert total.hexdigest()[:16] == digest


@pytest.mark.parametrize("world", [1, 3])
def test_every_example_comes_once_and_every_batch_from_one_region(world: int) -> None:
    found = remote(local=500)
    ranks = [sample(found, GROUPS * ROWS + 500, rank=rank, world=world) for rank in range(world)]
    durations, tokens = draw(GROUPS * ROWS + 500)
    for epoch in (0, 3):
        for sampler in ranks:
            sampler.set_epoch(epoch)
        batches = [batch for sampler in ranks for batch in sampler]
        assert sorted(chain.from_iterable(batches)) == list(range(GROUPS * ROWS + 500))
        for batch in batches:
            assert len(set(found.numbers[batch].tolist())) == 1
            assert durations[batch].max() * len(batch) <= 40
            assert tokens[batch].max() * len(batch) <= 600


def test_an_epoch_reads_each_group_about_once() -> None:
    """And most batches one each, where they are drawn from all over."""
    found = remote()
    for epoch in range(3):
        sampler = sample(found)
        sampler.set_epoch(epoch)
        assert count_reads(list(sampler), ROOM) <= 1.05 * GROUPS
    assert count_reads(list(sample(None)), ROOM) > 20 * GROUPS


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_processes_that_take_turns_read_each_group_about_once_together(workers: int) -> None:
    """What surplus stands at the end of the shorter lanes is read by others once more."""
    batches = list(sample(remote()))
    reads = sum(count_reads(batches[worker::workers], ROOM) for worker in range(workers))
    assert reads <= 1.5 * GROUPS


@pytest.mark.parametrize("world", [2, 4])
def test_each_rank_reads_each_group_about_once(world: int) -> None:
    """A step of several ranks may hold batches of two regions."""
    for rank in range(world):
        batches = list(sample(remote(), rank=rank, world=world))
        assert count_reads(batches, ROOM) <= 1.15 * GROUPS


def test_what_lies_here_is_scattered_over_the_epoch() -> None:
    count = 2000
    batches = list(sample(remote(local=count), GROUPS * ROWS + count))
    is_local = np.array([batch[0] >= GROUPS * ROWS for batch in batches])
    share = is_local.mean()
    for part in np.array_split(is_local, 5):
        assert part.mean() == pytest.approx(share, abs=0.12)
    assert count_reads(batches, ROOM) <= 1.05 * GROUPS


def test_regions_are_mixed_and_each_epoch_has_an_order_of_its_own() -> None:
    found = remote()
    sampler = sample(found)
    first = list(sampler)
    firsts = [int(found.numbers[batch[0]]) for batch in first]
    assert len(set(firsts[:8])) == 8
    assert firsts[:200] != sorted(firsts[:200])
    sampler.set_epoch(1)
    assert first != list(sampler)
    assert sorted(first) == sorted(sampler)


def test_a_fresh_sampler_at_an_epoch_repeats_it() -> None:
    used, fresh = (sample(remote(local=300), GROUPS * ROWS + 300, rank=1, world=2) for _ in "ab")
    for epoch in range(2):
        used.set_epoch(epoch)
        list(used)
    used.set_epoch(2)
    fresh.set_epoch(2)
    assert list(fresh) == list(used)


def test_fewer_regions_than_lanes_leave_nothing_out() -> None:
    found = form_regions(np.zeros(300, dtype=np.int64), np.array([1000]))
    assert found.lanes == 8
    assert sorted(chain.from_iterable(sample(found, 300))) == list(range(300))


def test_some_examples_of_a_data_set_keep_their_regions() -> None:
    found = remote(local=1).select(np.array([0, 599, 6000]))
    assert found.numbers.tolist() == [0, 1, -1]
