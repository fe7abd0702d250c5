"""Voices, prosody and noise: what is split is disjoint, what is sealed is nowhere else."""

import random
import re
from itertools import combinations

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
    sample_prosody,
    variants_of,
    voices_of,
)
from blsp.tiny.world import SPLITS, Split

ALL: tuple[VoiceSplit, ...] = ("train", "dev", "test", "sealed")


def neutral_prosodies(split: Split) -> list[Prosody]:
    rng = random.Random(f"test {split}")
    return [sample_prosody(rng, split, "neutral") for _ in range(500)]


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
