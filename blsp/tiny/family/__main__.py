"""``python -m blsp.tiny.family``, see `blsp.tiny.family.stages`."""

import sys

from blsp.errors import InputError
from blsp.tiny.family.stages import main

if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as mistake:
        print(f"blsp: {mistake}", file=sys.stderr)
        sys.exit(2)
