"""Noise: how loud it is, how it sounds, and that all systems hear the same."""

from pathlib import Path

import numpy as np
import pytest

from blsp.audio import save_audio
from blsp.errors import InputError
from blsp.manifest import Meta, Utterance, write_rows
from blsp.noise import BABBLE, KINDS, Noise, make_babble, make_noise, mix_noise
from blsp.testsets import TestSet, load_test_set

COLOURS = [kind for kind in KINDS if kind != BABBLE]


def power_between(noise: np.ndarray, low: float, high: float) -> float:
    """Mean power density from `low` to `high` Hz."""
    power = np.abs(np.fft.rfft(noise.astype(np.float64))) ** 2
    frequency = np.fft.rfftfreq(len(noise), 1 / 16_000)
    return float(power[(frequency >= low) & (frequency < high)].mean())


@pytest.mark.parametrize("kind", COLOURS)
def test_noise_has_root_mean_square_one(kind: str) -> None:
    noise = make_noise(kind, np.random.default_rng(3), 40_001)
    assert noise.dtype == np.float32
    assert len(noise) == 40_001
    assert np.sqrt(np.mean(noise.astype(np.float64) ** 2)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("kind", COLOURS)
def test_noise_is_the_same_for_the_same_seed(kind: str) -> None:
    one, other = (make_noise(kind, np.random.default_rng(3), 1600) for _ in range(2))
    assert np.array_equal(one, other)


@pytest.mark.parametrize(("kind", "fall"), [("white", 1), ("pink", 8), ("brown", 64)])
def test_the_power_of_coloured_noise_falls_with_frequency(kind: str, fall: float) -> None:
    """Three octaves up: white keeps its density, pink (1/f) has 1/8, brown (1/f^2) 1/64."""
    noise = make_noise(kind, np.random.default_rng(3), 160_000)
    ratio = power_between(noise, 200, 400) / power_between(noise, 1600, 3200)
    assert ratio == pytest.approx(fall, rel=0.15)


def test_hum_is_mains_and_its_harmonics() -> None:
    noise = make_noise("hum", np.random.default_rng(3), 160_000)
    assert power_between(noise, 45, 65) > 1000 * power_between(noise, 2000, 8000)


def test_crackle_is_silent_but_for_rare_clicks() -> None:
    noise = make_noise("crackle", np.random.default_rng(3), 160_000)
    assert np.count_nonzero(noise) / len(noise) == pytest.approx(0.004, rel=0.2)


def test_noise_is_mixed_at_the_ratio_asked_for() -> None:
    """Speech of power 4 at 6.0206 dB: noise of power 1; at 20 dB: of power 0.04."""
    audio = np.array([2, -2, 2, -2], dtype=np.float32)
    noise = np.array([1, 1, -1, -1], dtype=np.float32)
    assert mix_noise(audio, noise, snr_db=6.0206) == pytest.approx([3, -1, 1, -3], abs=1e-5)
    assert mix_noise(audio, noise, snr_db=20) == pytest.approx([2.2, -1.8, 1.8, -2.2], abs=1e-6)


def test_babble_is_all_voices_alike_loud() -> None:
    """One is ten times as loud as the other, and longer; both are as strong in the sum."""
    time = np.arange(16_000) / 16_000
    voices = [10 * np.sin(2 * np.pi * 200 * time), np.sin(2 * np.pi * 3000 * time[:4000])]
    noise = make_babble(voices, np.random.default_rng(1), 40_000)
    assert np.sqrt(np.mean(noise**2)) == pytest.approx(1, abs=1e-4)
    ratio = power_between(noise, 150, 250) / power_between(noise, 2950, 3050)
    assert ratio == pytest.approx(1, rel=0.1)


def test_silence_in_babble_is_no_division_by_zero() -> None:
    assert not make_babble([np.zeros(5)], np.random.default_rng(1), 9).any()


def test_a_recordings_noise_is_the_same_at_every_level_and_another_for_another() -> None:
    def draw(name: str, snr_db: float) -> float:
        return Noise(kind="white", snr_db=snr_db).generator(name).random()

    assert draw("a", 0) == draw("a", 20) != draw("b", 0)


# --- of a test set --------------------------------------------------------------------------------


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Four tones of a quarter of a second and more."""
    rows = []
    for i in range(4):
        time = np.arange(4000 + 100 * i) / 16_000
        save_audio(tmp_path / f"{i}.wav", 0.3 * np.sin(2 * np.pi * 300 * (i + 1) * time))
        rows.append(Utterance(id=f"u{i}", audio=f"{i}.wav", duration=len(time) / 16_000, text="a"))
    write_rows(tmp_path / "test.jsonl", rows, Meta(command="test"))
    return tmp_path / "test.jsonl"


def load(manifest: Path, noise: Noise | None) -> np.ndarray:
    clean = load_test_set(manifest, "test")
    made = TestSet(condition="test", utterances=clean.utterances, root=clean.root, noise=noise)
    return made.load(made.utterances[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_set_is_heard_at_the_ratio_asked_for(kind: str, manifest: Path) -> None:
    clean = load(manifest, None)
    noises = [load(manifest, Noise(kind=kind, snr_db=level)) - clean for level in (0, 20)]
    power = [float(np.mean(each.astype(np.float64) ** 2)) for each in (clean, *noises)]
    assert power[0] / power[1] == pytest.approx(1, rel=1e-3)
    assert power[0] / power[2] == pytest.approx(100, rel=1e-3)
    assert noises[0] == pytest.approx(10 * noises[1], abs=1e-3)  # the same, but for its level


def test_who_speaks_is_not_among_the_babble(manifest: Path) -> None:
    noise = load(manifest, Noise(kind=BABBLE, snr_db=0)) - load(manifest, None)
    own, others = power_between(noise, 550, 650), power_between(noise, 250, 350)
    assert own < 0.05 * others


def test_a_single_recording_has_no_babble(manifest: Path) -> None:
    one = load_test_set(manifest, "test", limit=1)
    with pytest.raises(InputError, match="expected other recordings for babble, found none"):
        TestSet(
            condition="test",
            utterances=one.utterances,
            root=one.root,
            noise=Noise(kind=BABBLE, snr_db=0),
        )
