"""Cuts: in pauses, at most so far apart, and nothing between them is lost."""

import numpy as np
import pytest

from blsp.pauses import find_cut, find_edges

SECOND = 16_000
LONGEST = 30 * SECOND


def lay_out(*parts: tuple[str, float], level: float = 0.3, noise: float = 0.0) -> np.ndarray:
    """Tones and pauses of so many seconds, one after the other."""
    pieces = []
    for kind, seconds in parts:
        times = np.arange(round(seconds * SECOND)) / SECOND
        tone = np.sin(2 * np.pi * 220 * times) * level
        pieces.append(tone if kind == "tone" else np.zeros_like(tone))
    audio = np.concatenate(pieces)
    hiss = np.random.default_rng(0).standard_normal(len(audio)) * noise
    return (audio + hiss).astype(np.float32)


def cut(audio: np.ndarray) -> float:
    return find_cut(audio, SECOND) / SECOND


def test_a_cut_is_in_the_middle_of_the_pause() -> None:
    assert cut(lay_out(("tone", 10), ("rest", 1), ("tone", 19))) == pytest.approx(10.5, abs=0.03)


def test_the_latest_long_pause_is_taken() -> None:
    audio = lay_out(("tone", 9), ("rest", 2), ("tone", 9), ("rest", 0.4), ("tone", 9.6))
    assert cut(audio) == pytest.approx(20.2, abs=0.03)


def test_a_short_pause_is_taken_where_there_is_no_long_one() -> None:
    audio = lay_out(("tone", 5), ("rest", 0.2), ("tone", 9), ("rest", 0.12), ("tone", 15.68))
    assert 5 < cut(audio) < 5.2


def test_a_long_pause_goes_before_a_later_short_one() -> None:
    audio = lay_out(("tone", 5), ("rest", 0.4), ("tone", 9), ("rest", 0.15), ("tone", 15.45))
    assert cut(audio) == pytest.approx(5.2, abs=0.03)


def test_a_piece_begins_with_half_a_second_of_a_long_silence_at_most() -> None:
    audio = lay_out(("tone", 10), ("rest", 8), ("tone", 12))
    assert cut(audio) == pytest.approx(17.5, abs=0.06)


@pytest.mark.parametrize("level", [0.9, 0.001])
def test_the_level_of_a_recording_does_not_matter(level: float) -> None:
    audio = lay_out(("tone", 10), ("rest", 1), ("tone", 19), level=level)
    assert cut(audio) == pytest.approx(10.5, abs=0.03)


def test_a_pause_is_found_in_noise_10_db_below_the_voice() -> None:
    """The tone has a power of 0.3 ** 2 / 2 = 0.045."""
    parts = (("tone", 10.0), ("rest", 0.5), ("tone", 19.5))
    assert 10 < cut(lay_out(*parts, noise=0.067)) < 10.5


def test_what_is_left_of_the_pause_at_an_earlier_cut_is_no_pause() -> None:
    audio = lay_out(("rest", 0.9), ("tone", 10), ("rest", 0.15), ("tone", 18.95))
    assert 10.9 < cut(audio) < 11.05


def test_a_voice_that_never_rests_is_cut_where_it_is_quietest() -> None:
    audio = lay_out(("tone", 30))
    audio[20 * SECOND : 20 * SECOND + SECOND // 5] *= 0.4  # 8 dB
    assert 20 < cut(audio) < 20.2


def test_silence_is_cut_too() -> None:
    assert 1 <= cut(np.zeros(30 * SECOND, dtype=np.float32)) < 30


@pytest.mark.parametrize("seconds", [0.001, 29.99, 30.0, 30.01, 30.5, 61.0, 95.3])
def test_pieces_cover_all_and_none_is_too_long(seconds: float) -> None:
    audio = lay_out(("tone", seconds))
    edges = find_edges(audio, LONGEST)
    lengths = np.diff(edges)
    assert edges[0] == 0 and edges[-1] == len(audio)
    assert lengths.min() > 0 and lengths.max() <= LONGEST
    assert len(lengths) == 1 if seconds <= 30 else lengths.min() >= SECOND


def test_no_cut_is_in_a_tone_where_there_are_pauses() -> None:
    draw = np.random.default_rng(3)
    parts = [("tone" if at % 2 == 0 else "rest", draw.uniform(0.3, 8)) for at in range(60)]
    audio = lay_out(*parts)
    for edge in find_edges(audio, LONGEST)[1:-1]:
        assert not audio[edge - 160 : edge + 160].any()
