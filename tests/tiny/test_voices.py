"""Voices, prosody and noise: what is split is disjoint, what is sealed is nowhere else."""

import random
import re
from itertools import combinations

import numpy as np
import pytest

from blsp.tiny.espeak import Prosody, Synthesizer, list_variants, load_library
from blsp.tiny.voices import (
    EMOTIONS,
    LANGUAGES,
    NOISES,
    SEALED_NOISE,
    UNFIT,
    VARIANTS,
    VoiceSplit,
    make_noise,
    mix_noise,
    sample_prosody,
    variants_of,
    voices_of,
)
from blsp.tiny.world import SPLITS, Split

ALL: tuple[VoiceSplit, ...] = ("train", "dev", "test", "sealed")


def neutral_prosodies(split: Split) -> list[Prosody]:
    rng = random.Random(f"test {split}")
    return [sample_prosody(rng, split, "neutral") for _ in range(500)]


def power_between(noise: np.ndarray, low: float, high: float) -> float:
    """Mean power density from `low` to `high` Hz."""
    power = np.abs(np.fft.rfft(noise.astype(np.float64))) ** 2
    frequency = np.fft.rfftfreq(len(noise), 1 / 16_000)
    return float(power[(frequency >= low) & (frequency < high)].mean())


def test_more_than_a_hundred_voices_train() -> None:
    assert len(set(voices_of("train"))) == len(voices_of("train")) >= 100


def test_four_voices_are_sealed_one_in_each_accent() -> None:
    assert [voice.split("+")[0] for voice in voices_of("sealed")] == list(LANGUAGES)
    assert len(variants_of("sealed")) == 4


@pytest.mark.parametrize(("one", "other"), list(combinations(ALL, 2)))
def test_splits_share_neither_voice_nor_timbre(one: VoiceSplit, other: VoiceSplit) -> None:
    assert not set(voices_of(one)) & set(voices_of(other))
    assert not set(variants_of(one)) & set(variants_of(other))


def test_every_variant_is_in_a_split_or_unfit() -> None:
    dealt = [name for split in ALL for name in variants_of(split)]
    assert sorted([*dealt, *UNFIT]) == sorted(VARIANTS)


def test_the_unfit_are_those_without_pitch_or_with_a_tempo_of_their_own() -> None:
    folder = load_library()[1] / "voices" / "!v"
    told = re.compile(r"^(voicing +0|stressLength\b.*)$", re.M)
    found = {name for name in VARIANTS if told.search((folder / name).read_text("latin-1"))}
    assert found == UNFIT


def test_no_two_variants_are_one_timbre_under_two_names() -> None:
    folder = load_library()[1] / "voices" / "!v"
    contents = {
        "\n".join(
            line.strip()
            for line in (folder / variant).read_text("utf-8", "replace").splitlines()
            if line.strip() and not line.startswith(("name", "language", "gender", "//"))
        )
        for variant in VARIANTS
    }
    assert len(contents) == len(VARIANTS)


def test_espeak_knows_every_voice() -> None:
    synthesizer = Synthesizer()
    for voice in (voice for split in ALL for voice in voices_of(split)):
        assert synthesizer.speak("hi", voice=voice, prosody=Prosody()).words
    assert set(VARIANTS) <= set(list_variants(load_library()[1]))


def test_neutral_rates_and_pitches_of_a_split_are_in_no_other() -> None:
    for name in ("words_per_minute", "pitch"):
        values = {s: {getattr(p, name) for p in neutral_prosodies(s)} for s in SPLITS}
        assert all(values.values())
        for one, other in combinations(SPLITS, 2):
            assert not values[one] & values[other]


@pytest.mark.parametrize("emotion", EMOTIONS)
@pytest.mark.parametrize("split", SPLITS)
def test_prosody_stays_in_espeaks_ranges(split: Split, emotion: str) -> None:
    rng = random.Random(1)
    for _ in range(200):
        prosody = sample_prosody(rng, split, emotion)
        assert 80 <= prosody.words_per_minute <= 450
        assert 0 <= prosody.pitch < 100
        assert 0 <= prosody.pitch_range <= 100
        assert 0 <= prosody.volume <= 200


def test_each_emotion_moves_the_prosody_its_own_way() -> None:
    """The same speaker's draw in all five: only the offsets of the emotion differ."""
    five = {e: sample_prosody(random.Random(5), "train", e) for e in EMOTIONS}
    neutral = five["neutral"]
    assert five["happy"].pitch == neutral.pitch + 20
    assert five["sad"].words_per_minute == round(neutral.words_per_minute * 0.8)
    assert five["angry"].volume == 170
    assert five["fearful"].pitch == neutral.pitch + 38
    assert len({(p.pitch_range, p.volume) for p in five.values()}) == 5


def test_the_sealed_noise_is_in_no_plan() -> None:
    assert SEALED_NOISE not in NOISES


@pytest.mark.parametrize("kind", [*NOISES, SEALED_NOISE])
def test_noise_has_root_mean_square_one(kind: str) -> None:
    noise = make_noise(kind, np.random.default_rng(3), 40_001)
    assert noise.dtype == np.float32
    assert len(noise) == 40_001
    assert np.sqrt(np.mean(noise.astype(np.float64) ** 2)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("kind", [*NOISES, SEALED_NOISE])
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
    noise = make_noise(SEALED_NOISE, np.random.default_rng(3), 160_000)
    assert np.count_nonzero(noise) / len(noise) == pytest.approx(0.004, rel=0.2)


def test_noise_is_mixed_at_the_ratio_asked_for() -> None:
    """Speech of power 4 at 6.0206 dB: noise of power 1; at 20 dB: of power 0.04."""
    audio = np.array([2, -2, 2, -2], dtype=np.float32)
    noise = np.array([1, 1, -1, -1], dtype=np.float32)
    assert mix_noise(audio, noise, snr_db=6.0206) == pytest.approx([3, -1, 1, -3], abs=1e-5)
    assert mix_noise(audio, noise, snr_db=20) == pytest.approx([2.2, -1.8, 1.8, -2.2], abs=1e-6)
