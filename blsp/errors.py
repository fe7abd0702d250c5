"""The one error a user can cause.

Programs catch it, print its single line and exit with code 2; everything else is a bug and
keeps its traceback.
"""


class InputError(ValueError):
    """Input that cannot be used, in one line.

    The message reads "WHERE: expected …, found …; what to do", with the offending value and
    the place it came from (a file, or `file:line`).
    """
