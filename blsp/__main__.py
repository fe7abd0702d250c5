"""`python -m blsp` is the `blsp` command.

It serves an installation whose scripts folder is not on the search path.
"""

import sys

from blsp.cli import main

if __name__ == "__main__":
    sys.exit(main())
