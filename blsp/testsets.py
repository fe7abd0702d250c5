"""Test sets: utterances that are scored together, as they are heard.

A manifest enters, or its first lines; what is laid over its recordings (noise, babble of others)
belongs to the set, so that every system hears the same. Samples leave, and a digest by which a run
knows that it goes on with the same set.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blsp.audio import load_audio
from blsp.errors import InputError
from blsp.manifest import Utterance, find_root, read_manifest, to_row
from blsp.noise import BABBLE, TALKERS, Noise, make_babble, make_noise, mix_noise
from blsp.systems import Audio


@dataclass(frozen=True, kw_only=True)
class TestSet:
    """Utterances scored together under the name of their condition."""

    __test__ = False  # pytest takes the name for a test's

    condition: str
    utterances: tuple[Utterance, ...]
    root: Path
    """What `audio` is relative to."""
    manifest: str = ""
    known: frozenset[str] = frozenset()
    """Ids of the whole manifest, those included that are not asked about."""
    noise: Noise | None = None
    """Laid over every recording when it is loaded."""

    def __post_init__(self) -> None:
        if self.noise and self.noise.kind == BABBLE and len(self.utterances) < 2:
            raise InputError(
                f"{self.manifest or self.condition}: expected other recordings for babble, found "
                "none beside one; choose another noise"
            )

    def load(self, utterance: Utterance) -> Audio:
        """Samples of an utterance, as the systems hear it."""
        audio = _load(utterance, self.root)
        if self.noise is None:
            return audio
        rng, samples = self.noise.generator(utterance.id), len(audio)
        if self.noise.kind == BABBLE:
            voices = [_load(one, self.root) for one in self._draw_talkers(utterance, rng)]
            noise = make_babble(voices, rng, samples)
        else:
            noise = make_noise(self.noise.kind, rng, samples)
        return mix_noise(audio, noise, snr_db=self.noise.snr_db).astype(np.float32)

    def _draw_talkers(self, utterance: Utterance, rng: np.random.Generator) -> list[Utterance]:
        # Sorted: the draw must not depend on the order of the manifest.
        others = sorted((x for x in self.utterances if x.id != utterance.id), key=lambda x: x.id)
        chosen = rng.choice(len(others), size=min(TALKERS, len(others)), replace=False)
        return [others[index] for index in chosen]

    def describe(self) -> dict[str, Any]:
        """Name, size and a digest of every line."""
        lines = "\n".join(json.dumps(to_row(one), sort_keys=True) for one in self.utterances)
        return {
            "condition": self.condition,
            "manifest": self.manifest,
            "n": len(self.utterances),
            "sha256": hashlib.sha256(lines.encode()).hexdigest()[:16],
            **({"noise": asdict(self.noise)} if self.noise else {}),
        }


def load_test_set(path: Path, condition: str, *, limit: int | None = None) -> TestSet:
    """Read a manifest, or its first so many lines.

    Raises:
        InputError: a line that is wrong, or none.
    """
    utterances = tuple(read_manifest(path))
    if not utterances:
        raise InputError(f"{path}: expected utterances, found none; name another manifest")
    return TestSet(
        condition=condition,
        utterances=utterances[:limit],
        root=find_root(path),
        manifest=str(path),
        known=frozenset(one.id for one in utterances),
    )


def _load(utterance: Utterance, root: Path) -> Audio:
    return load_audio(
        utterance.audio, start=utterance.start, duration=utterance.duration, root=root
    )
