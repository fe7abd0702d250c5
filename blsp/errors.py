"""The one error a user can cause: a single line saying expected, found, what to do."""


class InputError(ValueError):
    """Bad input from the user: ``expected ..., found ...; what to do`` in one line."""
