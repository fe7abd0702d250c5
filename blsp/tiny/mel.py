"""Log-mel features of the tiny Whisper's training: computed once, disturbed at every use.

What is kept is the mel power before Whisper's clamp and scale, because level, noise and another
throat can be put on there: powers of independent sounds add, so noise costs one addition instead
of a new recording.
"""

import random
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperFeatureExtractor

from blsp.noise import make_noise
from blsp.tiny.voices import NOISES

FLOOR = -10.0  # log10 of the smallest mel power kept


def compute_mel_power(audio: np.ndarray, extractor: WhisperFeatureExtractor) -> Tensor:
    """log10 of Whisper's mel power, (ceil(n / 160), 80), before its clamp and scale.

    Silence of one window follows the audio, so that the last frames are those of 30 s padding.
    """
    count = -(-len(audio) // extractor.hop_length)
    padded = np.zeros(count * extractor.hop_length + extractor.n_fft, np.float32)
    padded[: len(audio)] = audio
    window = torch.hann_window(extractor.n_fft)
    wave = torch.from_numpy(padded)
    spectrum = torch.stft(
        wave, extractor.n_fft, extractor.hop_length, window=window, return_complex=True
    )
    power = spectrum[:, :count].abs() ** 2
    filters = torch.from_numpy(extractor.mel_filters).to(torch.float32)
    return (filters.T @ power).clamp(min=10**FLOOR).log10().T


def normalize_mel(log_power: Tensor) -> Tensor:
    """Whisper's clamp to 8 decades below the loudest value of the utterance, and its scale."""
    return (torch.maximum(log_power, log_power.max() - 8.0) + 4.0) / 4.0


@lru_cache(maxsize=1)
def _noise_bank() -> dict[str, Tensor]:
    """Mel power of 30 s of each open noise at root mean square 1."""
    rng = np.random.default_rng(0)
    extractor = WhisperFeatureExtractor()
    return {
        kind: 10 ** compute_mel_power(make_noise(kind, rng, 480_000), extractor) for kind in NOISES
    }


@lru_cache(maxsize=64)
def _warp(percent: int) -> Tensor:
    """(80, 80) matrix that stretches the mel axis by ``percent``: a longer or shorter throat."""
    source = torch.arange(80) * (1 + percent / 100)
    source = source.clamp(max=79)
    low = source.floor().long().clamp(max=78)
    share = source - low
    matrix = torch.zeros(80, 80)
    matrix[low, torch.arange(80)] += 1 - share
    matrix[low + 1, torch.arange(80)] += share
    return matrix


def augment(log_power: Tensor, power: float, rng: random.Random) -> Tensor:
    """Another throat, level and noise for one utterance; (F, 80) -> (F, 80), still log10 power."""
    mel = log_power @ _warp(rng.randint(-9, 9)) if rng.random() < 0.6 else log_power
    if rng.random() < 0.55:
        bank = _noise_bank()[rng.choice(NOISES)]
        start = rng.randrange(len(bank) - len(mel)) if len(bank) > len(mel) else 0
        scale = power / 10 ** (rng.uniform(0, 25) / 10)
        mel = (10**mel + bank[start : start + len(mel)][: len(mel)] * scale).log10()
    mel = (mel + rng.uniform(-1.5, 0.5)).clamp(min=FLOOR)
    return mel


def mask_some(features: Tensor, rng: random.Random) -> Tensor:
    """Blank a few bands and moments of one (F, 80) log-mel."""
    features = features.clone()
    floor = features.min()
    for _ in range(rng.randint(0, 2)):
        band, width = rng.randrange(72), rng.randint(2, 8)
        features[:, band : band + width] = floor
    for _ in range(rng.randint(0, 2)):
        moment, width = rng.randrange(len(features)), rng.randint(2, 10)
        features[moment : moment + width] = floor
    return features
