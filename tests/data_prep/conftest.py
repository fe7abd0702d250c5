"""Corpora in miniature: the tree, names and lines of the real ones, with real audio in them."""

import io
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile

from blsp.cli import main as run_blsp

CHAPTERS = {
    "1272/141231": {
        "1272-141231-0000": "A MAN SAID TO THE UNIVERSE SIR I EXIST",
    },
    "121/121726": {"121-121726-0000": "ALSO A POPULAR CONTRIVANCE"},
}


@cache
def encode(kind: str, seconds: float, rate: int = 16_000) -> bytes:
    """A hum as a file of `WAV`, `FLAC`, `MP3` or `OPUS`, mono."""
    file = io.BytesIO()
    samples = np.sin(np.arange(round(seconds * rate)) / 9) / 2
    subtype = {"WAV": "PCM_16", "OPUS": "OPUS"}.get(kind)
    soundfile.write(
        file, samples, rate, format="OGG" if subtype == "OPUS" else kind, subtype=subtype
    )
    return file.getvalue()


def write_audio(path: Path, seconds: float = 0.5) -> Path:
    """A hum as 16 kHz mono, in the form that the ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(path.suffix[1:].upper(), seconds))
    return path


def run_prep(program: str, root: Path, out: Path, *options: str) -> int:
    """`blsp prep` with a program; the exit code."""
    return run_blsp(["prep", program, str(root), "--out", str(out), *options])


@pytest.fixture
def corpus(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The corpus that the module of a test builds."""
    return request.module.build(tmp_path)


@pytest.fixture
def root(corpus: Path) -> Path:
    """The same, where a test looks for the corpus in the folder that is named."""
    return corpus


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
