"""Noise laid over recordings, so that scores can be followed while it grows.

Coloured noise, mains hum, crackle, and babble: other recordings of the same set speaking at once,
which hides speech best since it is like it. Which noise a recording gets depends on its name
alone, so that every system, and every level of noise, hears the same. Samples enter and leave.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BABBLE = "babble"
KINDS = ("white", "pink", "brown", "hum", "crackle", BABBLE)
TALKERS = 4
"""At once, in babble."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What is laid over the recordings of a test set, and how loud."""

    kind: str
    snr_db: float
    """Power of the recording by that of the noise, in decibels."""

    def generator(self, name: str) -> np.random.Generator:
        """What a recording's noise is drawn from, whatever its level."""
        return np.random.default_rng([*name.encode()])


def make_noise(kind: str, rng: np.random.Generator, samples: int) -> np.ndarray:
    """``samples`` of noise at 16 kHz, float32, root mean square 1."""
    if kind == "hum":
        noise = _hum(rng, samples)
    elif kind == "crackle":
        noise = rng.standard_normal(samples) * (rng.random(samples) < 0.004)
    else:
        # Coloured noise: white noise whose power falls with frequency.
        slope = {"white": 0.0, "pink": 0.5, "brown": 1.0}[kind]
        spectrum = np.fft.rfft(rng.standard_normal(samples))
        frequency = np.maximum(np.fft.rfftfreq(samples, 1 / 16_000), 40.0)
        noise = np.fft.irfft(spectrum / frequency**slope, samples)
    return _normalise(noise)


def _hum(rng: np.random.Generator, samples: int) -> np.ndarray:
    time = np.arange(samples) / 16_000
    base = rng.uniform(48, 62)
    waves = [
        np.sin(2 * np.pi * base * harmonic * time + rng.uniform(0, 6.28)) / harmonic
        for harmonic in range(1, 20)
    ]
    return np.sum(waves, axis=0) + 0.05 * rng.standard_normal(samples)


def make_babble(voices: Sequence[np.ndarray], rng: np.random.Generator, samples: int) -> np.ndarray:
    """Recordings at once, each as loud as the others, repeated to length; root mean square 1.

    Args:
        voices: (n,) samples each, none empty.
        rng: draws where each begins.
        samples: how many to give.
    """
    total = np.zeros(samples, dtype=np.float64)
    for voice in voices:
        start = int(rng.integers(len(voice)))
        repeated = np.resize(np.roll(voice, -start), samples)
        total += repeated / max(float(np.sqrt(np.mean(repeated**2))), 1e-9)
    return _normalise(total)


def _normalise(noise: np.ndarray) -> np.ndarray:
    return (noise / max(float(np.sqrt(np.mean(noise**2))), 1e-9)).astype(np.float32)


def mix_noise(audio: np.ndarray, noise: np.ndarray, *, snr_db: float) -> np.ndarray:
    """``audio`` plus ``noise`` scaled so that the ratio of their mean powers is ``snr_db``."""
    power = float(np.mean(audio**2))
    return audio + noise * np.sqrt(power / 10 ** (snr_db / 10))
