"""Corpora in miniature: the tree, names and lines of the real ones, with real audio in them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from blsp.audio import save_audio

CHAPTERS = {
    "1272/141231": {
        "1272-141231-0000": "A MAN SAID TO THE UNIVERSE SIR I EXIST",
    },
    "121/121726": {"121-121726-0000": "ALSO A POPULAR CONTRIVANCE"},
}


def write_audio(path: Path, seconds: float = 0.5) -> Path:
    """Noise as 16 kHz mono."""
    samples = np.random.default_rng(0).normal(0, 0.1, round(seconds * 16_000))
    save_audio(path, samples.astype(np.float32))
    return path


def build_librispeech(folder: Path, splits: Iterable[str]) -> Path:
    """The folder in which the archives of some splits were unpacked; each has the same chapters."""
    corpus = folder / "LibriSpeech"
    for split in splits:
        for chapter, lines in CHAPTERS.items():
            speaker, number = chapter.split("/")
            for name in lines:
                write_audio(corpus / split / chapter / f"{name}.flac", seconds=1.8)
            text = "".join(f"{name} {words}\n" for name, words in lines.items())
            (corpus / split / chapter / f"{speaker}-{number}.trans.txt").write_text(text)
    for name in ("SPEAKERS.TXT", "CHAPTERS.TXT", "BOOKS.TXT", "README.TXT", "LICENSE.TXT"):
        (corpus / name).write_text(";\n")
    return folder


@pytest.fixture
def librispeech(tmp_path: Path) -> Path:
    """The folder in which the archives of two splits were unpacked."""
    return build_librispeech(tmp_path / "corpora", ("dev-clean", "test-clean"))
