"""Parts of files that stay on the Hugging Face hub.

`hf://datasets/OWNER/NAME@COMMIT/PATH.parquet` names a file for good, because what a commit holds
never changes. Such a name and a range of bytes enter, these bytes leave; nothing is kept on disk.
The hub is whom the user named (`HF_ENDPOINT`, `HF_TOKEN`). Files are asked for themselves and not
looked up first, as the hub's own file system would do, whose two calls a file are what the hub
counts and limits; and the ranges are those that are needed, without reading ahead.
"""

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from blsp.errors import InputError, UnreachableError

if TYPE_CHECKING:
    from httpx2 import Response

SCHEME = "hf://"
FORM = "hf://datasets/OWNER/NAME@COMMIT/FILE.parquet"
"""What names a file; COMMIT has 40 hexadecimal digits, since a branch may move under a run."""

_NAME = re.compile(r"hf://datasets/([\w-][\w.-]*/[\w-][\w.-]*)@([0-9a-f]{40})/([^\\:]+\.parquet)")
_CELL = re.compile(r".+/\d+")

# The waits are 1, 2, 4, 8, 16 and 30 s, more where the hub says so: it is often busy for seconds,
# and a run that stops goes on where it was.
_RETRIES, _FIRST_WAIT, _LONGEST_WAIT = 6, 1.0, 30.0
_TIMEOUT = 30.0  # seconds without a byte
_NEIGHBOURS = 256  # recordings; two or three groups of the hub's usual hundred rows


class HubFile(NamedTuple):
    """A file as the hub knows it."""

    repository: str
    commit: str
    path: str


def is_remote(audio: str) -> bool:
    """Whether a path is meant to be on the hub, well formed or not."""
    return audio.startswith(SCHEME)


def is_remote_cell(audio: str) -> bool:
    """Whether a path names a row of a parquet file on the hub, in the one form there is."""
    file, separator, cell = audio.partition("::")
    return bool(separator and parse_name(file) and _CELL.fullmatch(cell))


@lru_cache(maxsize=4096)
def parse_name(file: str) -> HubFile | None:
    """Read the name of a file; None where it is not of the form `FORM`."""
    found = _NAME.fullmatch(file)
    if found is None or any(part in ("", ".", "..") for part in found[3].split("/")):
        return None
    return HubFile(*found.groups())


def find_neighbourhood(position: int, audio: str) -> int:
    """Return the part of a manifest in which a recording may be moved, to stand beside equals.

    What lies here may move anywhere. On the hub neighbours are read together, so that sorting a
    whole manifest by length would read each group of rows again for every row.
    """
    return 1 + position // _NEIGHBOURS if is_remote(audio) else 0


def read_size(file: str) -> int:
    """Return the length of a file in bytes.

    Raises:
        InputError: see `read_range`.
        UnreachableError: see `read_range`.
    """
    told = _request(file, 0, 4).headers.get("Content-Range", "")
    found = re.fullmatch(r"bytes 0-3/(\d+)", told)
    if found is None:
        raise InputError(f"{file}: expected a parquet file on the hub, found one of {told!r}")
    return int(found[1])


def read_range(file: str, begin: int, end: int) -> bytes:
    """Return the bytes of a file from `begin` up to `end`.

    Raises:
        InputError: the hub says that there is no such file, or not for this user.
        UnreachableError: it says nothing, is busy for a minute, or may not be asked.
    """
    data = _request(file, begin, end).content
    if len(data) != end - begin:
        raise InputError(
            f"{file}: expected {end - begin:,} bytes from {begin:,} on, found {len(data):,}; look "
            "at the file on the hub"
        )
    return data


def _request(file: str, begin: int, end: int) -> "Response":
    """Ask for a range, again while the hub is busy or the connection breaks."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.errors import (
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]
    )
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

    named = parse_name(file)
    if named is None:
        raise InputError(f"{file}: expected {FORM}, found another form; make the manifest anew")
    repository, commit, path = named
    url = hf_hub_url(repository, path, repo_type="dataset", revision=commit)
    wanted = {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
    try:
        response = http_backoff(
            "GET",
            url,
            max_retries=_RETRIES,
            base_wait_time=_FIRST_WAIT,
            max_wait_time=_LONGEST_WAIT,
            headers=build_hf_headers(headers=wanted),
            timeout=_TIMEOUT,
        )
        hf_raise_for_status(response)
    # The runtime error is that of a connection which another thread has closed.
    except (HTTPError, OSError, RuntimeError) as error:
        raise _explain(file, error) from error
    if response.status_code != 206:
        raise InputError(
            f"{file}: expected a part of it, found an answer {response.status_code} that is no "
            "part; name a hub that sends ranges in HF_ENDPOINT"
        )
    return response


def _explain(file: str, error: Exception) -> InputError | UnreachableError:
    """Return what is wrong with a file, or that nobody could say."""
    kind = type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", None)
    if kind == "OfflineModeIsEnabled":
        return UnreachableError(
            f"{file}: expected the hub, found HF_HUB_OFFLINE=1; unset it, or bring the audio here "
            "where there is a network: blsp data shard"
        )
    if status is None or status in (408, 429) or status >= 500:
        told = f"status {status}" if status else " ".join(str(error).split())[:200] or kind
        return UnreachableError(
            f"{file}: expected the hub to answer, found: {told}, {1 + _RETRIES} times; look at the "
            "network, then run this again"
        )
    found = _REFUSALS.get(kind, f"status {status}")
    return InputError(
        f"{file}: expected a file on the hub that you may read, found {found}; check the name, and "
        "the access of HF_TOKEN"
    )


_REFUSALS: dict[str, Any] = {
    "RepositoryNotFoundError": "no such data set",
    "GatedRepoError": "a data set that asks for permission",
    "RevisionNotFoundError": "no such commit",
    "RemoteEntryNotFoundError": "no such file",
}
