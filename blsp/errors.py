"""What the package says when a user's input is wrong, and the nearest name it offers instead.

It comes first in import order because every border raises it: files, recipes, command lines. The
command line prints the message as one line and exits with code 2; from Python it is a `ValueError`.
A host that does not answer is another kind of error, with the same kind of line.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """A mistake that the user can correct.

    The message is one line of the form "expected ..., found ...; do ...". It names the offending
    value and where it came from (`file:line`, or the argument), and ends with what to do.
    """


class UnreachableError(Exception):
    """A host that does not answer, or may not be asked: nothing is known of what it holds.

    It is no `InputError`, because what leaves out or counts a recording that cannot be read must
    not do so here: all of them would be, one by one. Its message is one line in the same form.
    """


def describe_error(error: InputError | UnreachableError) -> str:
    """Return the line of an error; out of a data-loading process it has a traceback before it."""
    text = str(error)
    if not text.startswith("Caught "):
        return text
    return text.rstrip().rpartition("\n")[2].partition(": ")[2]


def suggest(name: str, known: Iterable[str]) -> str:
    """Return `did you mean 'x'?`, or the names there are where none is close."""
    names = sorted(known)
    nearest = get_close_matches(name, names, n=1)
    if nearest:
        return f"did you mean {nearest[0]!r}?"
    if not names:
        return "there is none to choose from"
    return f"choose from {', '.join(names)}"
