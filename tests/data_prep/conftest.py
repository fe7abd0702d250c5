"""Corpora in miniature: the tree, names and lines of the real ones, with real audio in them."""

from pathlib import Path

import numpy as np
import pytest

from blsp.audio import save_audio

# The two lines quoted most: the first is of the corpus, the rest follow its form.
CHAPTERS = {
    "dev-clean/1272/141231": {
        "1272-141231-0000": "A MAN SAID TO THE UNIVERSE SIR I EXIST",
        "1272-141231-0001": "SWEAT COVERED BRION'S BODY TRICKLING INTO THE TIGHT LOINCLOTH",
    },
    "test-clean/121/121726": {"121-121726-0000": "ALSO A POPULAR CONTRIVANCE"},
}


def write_audio(path: Path, seconds: float = 0.5) -> Path:
    """Noise as 16 kHz mono."""
    samples = np.random.default_rng(0).normal(0, 0.1, round(seconds * 16_000))
    save_audio(path, samples.astype(np.float32))
    return path


@pytest.fixture
def librispeech(tmp_path: Path) -> Path:
    """The folder in which two archives were unpacked."""
    corpus = tmp_path / "corpora" / "LibriSpeech"
    for chapter, lines in CHAPTERS.items():
        speaker, number = chapter.split("/")[1:]
        for name in lines:
            write_audio(corpus / chapter / f"{name}.flac", seconds=1.8)
        text = "".join(f"{name} {words}\n" for name, words in lines.items())
        (corpus / chapter / f"{speaker}-{number}.trans.txt").write_text(text)
    for name in ("SPEAKERS.TXT", "CHAPTERS.TXT", "BOOKS.TXT", "README.TXT", "LICENSE.TXT"):
        (corpus / name).write_text(";\n")
    return corpus.parent
