"""Writing a file whole or not at all.

Everything the package leaves on disk goes through `atomic_path`: a process killed half-way, or a
disk that fills up, leaves the earlier file (or none), and nothing that could be taken for whole.
A path enters, a temporary path beside it leaves; an `InputError` says why a write failed.
"""

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from blsp.errors import InputError

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; it becomes `path` when the block ends well.

    The folder is made if needed. The file is flushed to disk before it is renamed; when the block
    raises, the temporary file is removed and whatever was at `path` stays as it was. The temporary
    name begins with a dot and ends in `.tmp`, so no search for `*.jsonl` or `*.wav` ever meets it.

    Raises:
        InputError: the disk is full (also when safetensors reports it), or `path` cannot be
            written. Other errors of the block pass through unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush_to_disk(temporary)
        temporary.replace(path)
        if os.name == "posix":  # the rename itself lasts only once the folder is flushed too
            _flush_to_disk(path.parent)
    except Exception as error:
        raise _explained(error, path, temporary) from error
    finally:
        with suppress(OSError):  # gone after the rename, or its folder never came to be
            temporary.unlink()


@contextmanager
def explained_writes(folder: Path) -> Iterator[None]:
    """Turn a full disk, or a folder that cannot be written, into one `InputError`.

    For libraries that write several files of their own naming, such as `save_pretrained`; the
    caller gives them a folder under a temporary name and renames it when all is there.
    """
    try:
        yield
    except Exception as error:
        raise _explained(error, folder, folder) from error


def _flush_to_disk(path: Path) -> None:
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR  # Windows flushes writable files only
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explained(error: Exception, path: Path, temporary: Path) -> Exception:
    """Return what to raise: an `InputError` if the error is about writing, else the error."""
    message = _explain(error, path, temporary)
    return error if message is None else InputError(message)


def _explain(error: Exception, path: Path, temporary: Path) -> str | None:
    """Return the one line for a failed write; None if the error is not about writing `path`."""
    code = _os_error_code(error)
    if code is not None and code in _DISK_FULL:
        return (
            f"disk full while writing {path}: expected room for the file, found "
            f"'{os.strerror(code)}'; free space or write elsewhere"
        )
    ours = {str(path), str(temporary), *map(str, path.parents)}
    if isinstance(error, OSError) and str(error.filename) in ours:
        return f"{path}: expected a place to write, found: {error.strerror}; choose another path"
    return None


def _os_error_code(error: Exception) -> int | None:
    """Return the errno; safetensors and other Rust writers carry it only in their text."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None
