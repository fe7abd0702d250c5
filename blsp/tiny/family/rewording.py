"""A second author for the tiny world: right answers in words that its language model never writes.

What a language model gains from learning its own answers can only be seen beside answers of
another hand. The world's right answers are nearly those of the tiny LLM itself, so the other hand
is a polite one: an opening, a capital, a full stop. Scores must not punish the manner, so it can
be taken off again. An answer enters, the same answer in the other manner leaves.
"""

import re
import zlib

OPENINGS = ("Certainly", "Of course", "Here you are")
AUTHOR = "rules"
"""Conversations of this hand say so."""

_OPENING = re.compile(rf"^({'|'.join(OPENINGS)}): ", re.IGNORECASE)


def reword(answer: str, identity: str) -> str:
    """Return the answer in the other manner; which opening depends on the conversation's id."""
    opening = OPENINGS[zlib.crc32(identity.encode()) % len(OPENINGS)]
    return f"{opening}: {answer[:1].upper()}{answer[1:]}."


def take_off_manner(text: str) -> str:
    """Return what is said without how: no opening, no capitals, no full stop."""
    return _OPENING.sub("", text.strip()).rstrip(" .").casefold()
