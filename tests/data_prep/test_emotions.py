"""One vocabulary of emotions over all corpora, so that they can be mixed and scored together."""

import re
from pathlib import Path

import pytest

from data_prep import esd, iemocap, meld, ravdess


def documented(checkout: Path) -> set[str]:
    """The words between two sentences of the README."""
    text = (checkout / "data_prep" / "README.md").read_text()
    section = text[text.index("Emotions have the same words") : text.index("So corpora\ncan be")]
    return set(re.findall(r"`(\w+)`", section))


@pytest.mark.parametrize(
    "emotions",
    [
        esd.EMOTIONS.values(),
        iemocap.CLASSES["four"].values(),
        iemocap.CLASSES["all"].values(),
        meld.EMOTIONS.values(),
        [ravdess.OURS.get(label, label) for label in ravdess.THEIRS],
    ],
    ids=["esd", "iemocap four", "iemocap all", "meld", "ravdess"],
)
def test_a_program_uses_the_documented_words_only(emotions: list[str], checkout: Path) -> None:
    assert set(emotions) <= documented(checkout)


def test_every_documented_word_is_used(checkout: Path) -> None:
    used = {*iemocap.ALL.values(), *ravdess.THEIRS} - ravdess.OURS.keys()
    assert used == documented(checkout)
