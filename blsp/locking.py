"""One run at a time on one output.

Two runs that write one file would mix their rows, or each undo what the other did. A file
`.NAME.lock` beside the output is held while a run lasts; the operating system lets go of it when
the process ends, however it ends, so that a killed run leaves nothing to clean up. A path enters.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from blsp.errors import InputError


class HeldError(InputError):
    """Another process holds an output."""


@contextmanager
def hold(out: Path) -> Iterator[None]:
    """Within the block no other process can hold this output.

    Args:
        out: a file or folder to be written; it need not be there.

    Raises:
        HeldError: another process holds it.
        InputError: its folder cannot be written.
    """
    path = out.with_name(f".{out.name}.lock")
    lock = FileLock(path, timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise HeldError(
            f"{out}: expected no other run on it, found one that is still going; wait for it, "
            "stop it, or choose another --out"
        ) from error
    except OSError as error:
        raise InputError(
            f"{out}: expected a place to write, found: {error.strerror}; choose another --out"
        ) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()
