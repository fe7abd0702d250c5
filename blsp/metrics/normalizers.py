"""What is done to a text before it is compared: Whisper's two normalisers, and their variants.

The English one needs a table of spellings that transformers does not ship; it lies in every Whisper
checkpoint folder as `normalizer.json` and is loaded from there or not at all, because a score with
half a table looks like a score. Every normaliser has a name, which is part of a metric's signature.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers.models.whisper.english_normalizer import (
    BasicTextNormalizer,
    EnglishTextNormalizer,
)

from blsp.errors import InputError

# Vowel signs and tone marks of these scripts are combining marks, which the basic one deletes.
_MARKED_SCRIPTS = frozenset(
    ("bn", "gu", "hi", "kn", "km", "lo", "ml", "mr", "my", "ne", "pa", "si", "ta", "te", "th")
)
_UNSPACED = frozenset({"ja", "yue", "zh"})
_CURLY = str.maketrans({"‘": "'", "’": "'"})  # noqa: RUF001 - the point is that they are not '


@dataclass(frozen=True)
class Normalizer:
    """A named function of a text."""

    name: str
    apply: Callable[[str], str]


basic_normalizer = BasicTextNormalizer()
"""Whisper's own; it may leave a space at either end."""

RAW = Normalizer("raw", str)
"""The text as it is."""

BASIC = Normalizer("whisper-basic", lambda text: basic_normalizer(text).strip())
"""Lower case, no punctuation, nothing in brackets; for languages other than English."""

BASIC_CHARACTERS = Normalizer(
    "whisper-basic-unspaced", lambda text: "".join(basic_normalizer(text).split())
)
"""The same without any space, for character error rates of Chinese and Japanese."""

_FILLERS = frozenset(
    ("ACH", "AH", "EEE", "EH", "ER", "EW", "HA", "HEE", "HM", "HUH", "MM", "OOF", "UH", "UHH", "UM")
)
_PUNCTUATION = frozenset(("<COMMA>", "<PERIOD>", "<QUESTIONMARK>", "<EXCLAMATIONPOINT>"))
_NO_SPEECH = frozenset(("<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>", "<UNK>"))
_UNSCORED = _FILLERS | _PUNCTUATION | _NO_SPEECH


def _spell_gigaspeech(text: str) -> str:
    words = text.upper().replace("-", " ").split()
    return " ".join(word for word in words if word not in _UNSCORED)


GIGASPEECH = Normalizer("gigaspeech", _spell_gigaspeech)
"""What GigaSpeech's own scorer does before it counts: capitals, hyphens apart, no fillers, no tags
of punctuation, noise and unknown words. Its scores are not those of Whisper's normaliser."""

_MARKS = re.compile(r"[,.?!]+(?=\s|$)")

GIGASPEECH_WRITTEN = Normalizer(
    "gigaspeech-written", lambda text: _spell_gigaspeech(_MARKS.sub(" ", text))
)
"""The same for texts with signs where the corpus has tags, as our manifests and language models
write them."""


def load_english_normalizer(path: Path) -> Normalizer:
    """Return Whisper's English normaliser with the spellings of a checkpoint.

    Args:
        path: a Whisper checkpoint folder, or its ``normalizer.json``.

    Raises:
        InputError: the table is absent or is not a JSON object of strings.
    """
    file = path / "normalizer.json" if path.is_dir() else path
    if not file.is_file():
        raise InputError(
            f"expected Whisper's table of spellings, found no file {file}; name a Whisper "
            "checkpoint (--whisper FOLDER), every one has a normalizer.json"
        )
    try:
        spellings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"expected JSON in {file}, found: {error}; download it again") from None
    if not isinstance(spellings, dict):
        raise InputError(
            f"expected an object of spellings in {file}, found {type(spellings).__name__}; "
            "download it again"
        )
    # The number tells a full table from a cut one: another table is another metric.
    return Normalizer(f"whisper-en-{len(spellings)}", EnglishTextNormalizer(spellings))


def build_normalizer(language: str, checkpoint: Path) -> Normalizer:
    """Return the normaliser that transcripts of a language are scored with.

    LLMs write curly apostrophes, which Whisper's English normaliser takes for spaces; they are made
    straight first, and the name says so.

    Args:
        language: code such as ``en``, ``de`` or ``zh-CN``.
        checkpoint: Whisper folder, read for English only.

    Raises:
        InputError: no normaliser is known to be right for the language.
    """
    code = re.split("[-_]", language.lower())[0]
    if code == "en":
        english = load_english_normalizer(checkpoint)
        straight = lambda text: english.apply(text.translate(_CURLY))  # noqa: E731
        return Normalizer(f"{english.name}+straight-quotes", straight)
    if code in _UNSPACED:
        return BASIC_CHARACTERS
    if code in _MARKED_SCRIPTS:
        raise InputError(
            "expected a language that Whisper's basic normaliser keeps intact, found "
            f"{language!r}, whose vowel signs it deletes; score the raw text"
        )
    return BASIC
