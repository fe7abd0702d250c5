"""Where long audio is cut: in its pauses, so that no word is torn.

A pause is what is about as quiet as the quietest place around, so that neither the level of a
recording nor steady noise matters. The latest long one is taken, since longer pieces say more.
Samples enter; positions leave, between which lies all of the audio.
"""

import numpy as np
from numpy.typing import NDArray

_FRAME = 320
"""Samples whose power is measured at once: 20 ms."""
_SMOOTHED = 5
"""Frames a level is the mean of: shorter gaps in a voice (stops as in "p") are no pauses."""
_RANGE_DB = 60.0
"""What is further below the loudest place is silence, and one silence is as good as another."""
_TOLERANCE_DB = 6.0
"""How far above the quietest place a pause may be."""
_LONG = 10
"""Levels in a row that make a pause a long one: 0.3 s, as each is of 0.1 s."""

_LEAD = 25
"""Levels of a silence that the next piece gets, at most: half a second."""


def find_edges(audio: NDArray[np.float32], longest: int) -> list[int]:
    """Where pieces of at most `longest` samples begin, and where the last one ends.

    Args:
        audio: (n,) samples at 16 kHz.
        longest: no piece is shorter than a thirtieth of it, unless the audio is.
    """
    edges, shortest = [0], longest // 30
    while len(audio) - edges[-1] > longest:
        first = edges[-1]
        last = min(first + longest, len(audio) - shortest)
        edges.append(first + find_cut(audio[first:last], shortest))
    return [*edges, len(audio)]


def find_cut(audio: NDArray[np.float32], first: int) -> int:
    """Return where to cut (n,) samples at 16 kHz, at `first` or later.

    It is in the latest pause of 0.3 s; if there is none, in the longest pause; if the voice never
    rests, where it is quietest.
    """
    levels = _measure_levels(audio)  # -> (m,), of the 0.1 s around _place(0), _place(1), ...
    skipped = max(0, -(-(first - _place(0)) // _FRAME))
    levels = levels[skipped:]
    begin, end = _choose_run(levels <= levels.min() + _TOLERANCE_DB)
    quietest = np.flatnonzero(levels[begin:end] == levels[begin:end].min())
    middle = max(len(quietest) // 2, len(quietest) - _LEAD)
    return _place(skipped + begin + int(quietest[middle]))


def _place(index: int) -> int:
    """The sample in the middle of a level."""
    return index * _FRAME + _SMOOTHED * _FRAME // 2


def _measure_levels(audio: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean power of every five frames in a row, in dB."""
    frames = audio[: len(audio) // _FRAME * _FRAME].reshape(-1, _FRAME).astype(np.float64)
    power = np.convolve((frames**2).mean(1), np.full(_SMOOTHED, 1 / _SMOOTHED), mode="valid")
    floor = max(power.max() * 10 ** (-_RANGE_DB / 10), 1e-12)
    return 10 * np.log10(np.maximum(power, floor))


def _choose_run(quiet: NDArray[np.bool_]) -> tuple[int, int]:
    """First and last (excluded) of the latest long run of true values, or of the longest."""
    turns = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]])))
    runs = turns.reshape(-1, 2)
    lengths = runs[:, 1] - runs[:, 0]
    long = np.flatnonzero(lengths >= _LONG)
    begin, end = runs[long[-1] if len(long) else int(lengths.argmax())]
    return int(begin), int(end)
