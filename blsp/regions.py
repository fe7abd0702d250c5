"""Which examples are read together, where their audio stays on the hub.

A row of a parquet file comes with its whole row group, so batches that drew their rows from all
over would fetch a group for every row. A region is a stretch of row groups that follow each other;
batches are made within one (`blsp.sampler`). The places of recordings enter, `Regions` leave.
"""

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from blsp import parquet
from blsp.remote import is_remote

REGION_BYTES = 96 * 2**20
"""Of a region, if its row groups are smaller: an hour of 16 kHz WAV, in which batches of similar
length are found. Eight of them and a few old ones find room in `parquet.CACHE_BYTES`."""

_LANES = (1, 2, 4, 8)
_OPEN_SHARE = 0.75  # of the cache, so that what was read last does not drive out what is in use
_THREADS = 16  # footers come slowly, but many at once


@dataclass(frozen=True, kw_only=True)
class Regions:
    """The regions of a data set."""

    numbers: np.ndarray
    """(N,) the region of each example, -1 where nothing is on the hub."""
    lanes: int
    """How many regions are read at the same time: 1, 2, 4 or 8. Batches come from them in turn,
    which mixes them; and as the processes that load data take turns too, each of 1, 2, 4 or 8
    processes meets regions that no other one reads."""

    def select(self, indices: np.ndarray) -> "Regions":
        """Return those of some examples."""
        return Regions(numbers=self.numbers[indices], lanes=self.lanes)


class Places:
    """Where the recordings of a data set lie on the hub: one number an example."""

    def __init__(self) -> None:
        self._columns: dict[tuple[str, str], int] = {}
        self.numbers = array("q")
        """Number of the file and column, and the row; -1 where the audio lies here."""

    def add(self, audio: Sequence[str]) -> None:
        """Note the recordings of an example; the first that is on the hub counts."""
        self.numbers.append(next((self._find(one) for one in audio if is_remote(one)), -1))

    def _find(self, audio: str) -> int:
        file, _, cell = audio.partition("::")
        parsed = parquet.parse_cell(cell)
        assert parsed is not None, audio  # rows have been checked
        column, row = parsed
        return self._columns.setdefault((file, column), len(self._columns)) << 32 | row

    def find_regions(self) -> Regions | None:
        """Read the footers of all files; None where no audio is on the hub.

        Raises:
            InputError: a file that is not there.
            UnreachableError: the hub does not answer.
        """
        if not self._columns:
            return None
        with ThreadPoolExecutor(_THREADS) as threads:
            measured = list(threads.map(_measure, self._columns))
        places = np.frombuffer(self.numbers, dtype=np.int64)
        groups = _number_groups(places, [starts for starts, _ in measured])
        sizes = np.concatenate([bytes_ for _, bytes_ in measured])
        return form_regions(groups, sizes)


def _measure(place: tuple[str, str]) -> tuple[Sequence[int], np.ndarray]:
    """First row of each group of a file, and the bytes of the column in it."""
    file, column = place
    footer = parquet.read_footer(file)
    return footer.starts, np.array(parquet.measure_groups(footer, column), dtype=np.int64)


def _number_groups(places: np.ndarray, starts: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the number of each example's group over all files, -1 where there is none.

    A row beyond the end of its file counts to the last group; reading it says what is wrong.
    """
    begins = [
        (file << 32) + np.array(rows[:-1], dtype=np.int64) for file, rows in enumerate(starts)
    ]
    return np.searchsorted(np.concatenate(begins), places, side="right") - 1


def form_regions(groups: np.ndarray, sizes: np.ndarray) -> Regions:
    """Join groups that follow each other to regions of up to `REGION_BYTES`.

    Args:
        groups: (N,) the group of each example, -1 where there is none.
        sizes: (G,) bytes of each group.

    Returns:
        The regions. So many are read at once as find room in the cache, at least one.
    """
    used = np.unique(groups[groups >= 0])
    region_of = np.full(len(sizes) + 1, -1, dtype=np.int32)  # the last is for examples without one
    regions: list[int] = []  # bytes of each
    for group in used.tolist():
        if not regions or regions[-1] + sizes[group] > REGION_BYTES:
            regions.append(0)
        regions[-1] += int(sizes[group])
        region_of[group] = len(regions) - 1
    fitting = int(_OPEN_SHARE * parquet.CACHE_BYTES / max(1, *regions))
    return Regions(numbers=region_of[groups], lanes=_LANES[bisect_right(_LANES, fitting, lo=1) - 1])
