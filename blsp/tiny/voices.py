"""Who speaks in the tiny world, how, and over which noise: all of it split and partly sealed.

A voice is an eSpeak NG language with a variant of its timbre. Whole variants are dealt to train,
dev, test and the sealed set by a hash of their name, so an unseen voice is an unseen timbre in
every accent. Emotions are prosody alone: rate, pitch, pitch range and volume of the same words.
"""

import hashlib
import random
from dataclasses import dataclass
from functools import cache
from typing import Literal

from blsp.tiny.espeak import Prosody
from blsp.tiny.world import Split

LANGUAGES = ("en-us", "en-gb-x-rp", "en-us-nyc", "en-gb-x-gbclan")
# Left out: whispers, croaks, robots and other variants in which sounds cannot be told apart.
VARIANTS = (
    "Alex",
    "Alicia",
    "Andrea",
    "Andy",
    "Annie",
    "Denis",
    "Diogo",
    "Gene",
    "Gene2",
    "Henrique",
    "Hugo",
    "Jacky",
    "Lee",
    "Marco",
    "Mario",
    "Michael",
    "Mike",
    "Nguyen",
    "Reed",
    "Storm",
    "adam",
    "anika",
    "announcer",
    "antonio",
    "aunty",
    "belinda",
    "benjamin",
    "boris",
    "caleb",
    "david",
    "ed",
    "edward",
    "f1",
    "f2",
    "f3",
    "f4",
    "f5",
    "grandma",
    "grandpa",
    "gustave",
    "ian",
    "iven",
    "john",
    "kaukovalta",
    "linda",
    "m1",
    "m2",
    "m3",
    "m4",
    "m5",
    "m6",
    "m7",
    "m8",
    "marcelo",
    "max",
    "michel",
    "miguel",
    "mike2",
    "norbert",
    "pablo",
    "paul",
    "pedro",
    "quincy",
    "rob",
    "robert",
    "sandro",
    "shelby",
    "steph",
    "travis",
    "victor",
    "zac",
)
# Taken out after the deal, so that no split gets a variant that another was trained on: a whisper
# (`voicing 0` in its file), which has no pitch, and variants with durations of their own
# (`stressLength`), whose tempo is not the one asked for. Emotions are told by pitch and tempo.
UNFIT = frozenset({"caleb", "Andrea", "anika", "antonio", "pedro"})
VoiceSplit = Literal["train", "dev", "test", "sealed"]
_SEALED, _TEST, _DEV = 4, 8, 4

EMOTIONS = ("neutral", "happy", "sad", "angry", "fearful")
NOISES = ("white", "pink", "brown", "hum")
"""Of training; see `blsp.noise`."""
SEALED_NOISE = "crackle"


@dataclass(frozen=True, kw_only=True)
class _Mood:
    """An emotion as offsets to a speaker's own neutral prosody."""

    speed: float
    pitch: int
    pitch_range: int
    volume: int


# Neighbours in tempo lie a fifth apart, more than one speaker's rate lies from another's, and on
# opposite sides in pitch or its range: what a variant does to pitch alone confuses no two of them.
_MOODS = {
    "sad": _Mood(speed=0.8, pitch=-15, pitch_range=8, volume=70),
    "neutral": _Mood(speed=1.0, pitch=0, pitch_range=45, volume=100),
    "happy": _Mood(speed=1.2, pitch=20, pitch_range=95, volume=110),
    "angry": _Mood(speed=1.45, pitch=-12, pitch_range=80, volume=170),
    "fearful": _Mood(speed=1.75, pitch=38, pitch_range=12, volume=90),
}


@cache
def variants_of(split: VoiceSplit) -> tuple[str, ...]:
    """Timbre variants of a split, dealt in the order of their hash."""
    dealt = sorted(VARIANTS, key=lambda name: hashlib.sha256(f"variant {name}".encode()).digest())
    ends = {"sealed": (0, _SEALED), "test": (_SEALED, _SEALED + _TEST)}
    ends["dev"] = (_SEALED + _TEST, _SEALED + _TEST + _DEV)
    ends["train"] = (_SEALED + _TEST + _DEV, len(dealt))
    first, last = ends[split]
    return tuple(sorted(set(dealt[first:last]) - UNFIT))


@cache
def voices_of(split: VoiceSplit) -> tuple[str, ...]:
    """Voices (``language+variant``) of a split; four sealed ones, one in each accent."""
    if split == "sealed":
        pairs = zip(LANGUAGES, variants_of(split), strict=True)
        return tuple(f"{language}+{variant}" for language, variant in pairs)
    return tuple(f"{lang}+{variant}" for lang in LANGUAGES for variant in variants_of(split))


def sample_prosody(rng: random.Random, split: Split, emotion: str) -> Prosody:
    """Prosody of ``emotion`` around a neutral one whose rate and pitch no other split uses."""
    offset = {"train": (0, 2), "dev": (1, 1), "test": (3, 3)}[split]
    rate = 4 * rng.randint(36, 40) + rng.choice(offset)  # 144 to 163 words a minute
    pitch = 4 * rng.randint(10, 14) + rng.choice(offset)  # 40 to 59
    mood = _MOODS[emotion]
    return Prosody(
        words_per_minute=round(rate * mood.speed),
        volume=mood.volume,
        pitch=min(99, pitch + mood.pitch),
        pitch_range=mood.pitch_range,
    )
