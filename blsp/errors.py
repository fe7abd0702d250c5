"""What the package says when a user's input is wrong, and the nearest name it offers instead.

It comes first in import order because every border raises it: files, recipes, command lines. The
command line prints the message as one line and exits with code 2; from Python it is a `ValueError`.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """A mistake that the user can correct.

    The message is one line of the form "expected ..., found ...; do ...". It names the offending
    value and where it came from (`file:line`, or the argument), and ends with what to do.
    """


def suggest(name: str, known: Iterable[str]) -> str:
    """Return `did you mean 'x'?`, or the names there are where none is close."""
    names = sorted(known)
    nearest = get_close_matches(name, names, n=1)
    if nearest:
        return f"did you mean {nearest[0]!r}?"
    if not names:
        return "there is none to choose from"
    return f"choose from {', '.join(names)}"
