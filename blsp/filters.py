"""Which answers are no training text, and why: each reason has a name, by which it is counted.

A language model that refuses, thinks aloud, runs in circles or answers in another language would
teach just that. What the transcript itself holds is no fault of the answer: who repeats `I'm sorry,
but I can't` word for word does what was asked. An answer and its transcript enter; a reason, or
None, leaves. How refusals sound is data (`refusals.yaml`).
"""

import re
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from blsp.config import load_config
from blsp.journal import digest
from blsp.languages import is_other_language, split_words
from blsp.rendering import contains_thinking

Cut = Literal["keep", "drop"]
"""What becomes of an answer that ended at the limit: it is taught without its end, or left out."""

VERSION = 1
"""Of the rules below: who changes what they leave out raises it, so that no run mixes two."""

LOOP_TIMES = 4
LOOP_WORDS = 12


@dataclass(frozen=True, kw_only=True)
class Refusals:
    """How language models refuse."""

    refusals: dict[str, tuple[str, ...]]
    """Language code -> regular expressions, in which an apostrophe is a straight one."""


@cache
def load_refusals() -> Refusals:
    """Load the lists of the package."""
    return load_config(Refusals, Path(__file__).with_name("refusals.yaml"))


@cache
def _refusal_pattern() -> re.Pattern[str]:
    lists = load_refusals().refusals.values()
    return re.compile("|".join(f"(?:{one})" for some in lists for one in some), re.IGNORECASE)


def describe_filters(cut: Cut) -> str:
    """What stands for the filters in the plan of a run: equal texts leave out equal answers."""
    return f"{digest([VERSION, asdict(load_refusals())])}, cut: {cut}"


def find_fault(text: str, *, transcript: str = "", language: str | None = None) -> str | None:
    """Why an answer is no training text; None if it is one.

    Args:
        text: the answer.
        transcript: what was said.
        language: in which the answer has to be; None where nobody can know.

    Returns:
        `empty`, `thinking`, `refusal`, `repeats` or `wrong language`.
    """
    if not text.strip():
        return "empty"
    if contains_thinking(text):
        return "thinking"
    if refuses(text) and not refuses(transcript):
        return "refusal"
    if loops(text) and not loops(transcript):
        return "repeats"
    return "wrong language" if language and is_other_language(text, language) else None


def refuses(text: str) -> bool:
    """Tell whether a text sounds like a refusal in any of the languages."""
    return _refusal_pattern().search(text.strip().replace("\u2019", "'")) is not None


def loops(text: str) -> bool:
    """Tell whether the same words come four times in a row or more, and are twelve words together.

    Capitals and punctuation do not count; of Chinese and Japanese a character is a word, and of a
    text without any word (`!!!!!!!!!!!!`) every character. `No, no, no, no!` is too short for one.
    """
    words = split_words(text) or [each for each in text if not each.isspace()]
    return any(
        _longest_run(words, period) + period >= max(LOOP_TIMES * period, LOOP_WORDS)
        for period in range(1, len(words) // LOOP_TIMES + 1)
    )


def _longest_run(words: list[str], period: int) -> int:
    """How many words in a row are the same as those a period before them."""
    longest = run = 0
    for earlier, word in zip(words, words[period:], strict=False):
        run = run + 1 if word == earlier else 0
        longest = max(longest, run)
    return longest
