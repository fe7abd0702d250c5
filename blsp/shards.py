"""Audio and manifest packed together: a few large files that an object store moves well.

Audio goes into the shards byte by byte as it is, each file once however many rows are segments of
it, in the order of the rows; a new manifest beside names it there (`m-00000.tar::a.flac`,
`m-00000.parquet::audio/17`), and is read like any other. A shard is whole once it has its name, and
a journal says what is in it, so that a killed run goes on with the next one.
"""

import posixpath
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from glob import escape
from hashlib import sha256
from os import SEEK_END
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, Protocol

from blsp.archive import open_source
from blsp.cells import find_suffix
from blsp.derivation import Row, derive_meta, read_rows, write_derived
from blsp.errors import InputError
from blsp.files import atomic_path
from blsp.journal import Journal, digest, find_finished
from blsp.locking import hold
from blsp.manifest import Meta, find_root
from blsp.remote import SCHEME, is_remote
from blsp.rows import recordings_of

ShardKind = Literal["tar", "parquet"]

_IN_ARCHIVE = re.compile(r"(\.(?:zip|tar|parquet))::", re.IGNORECASE)
_COLUMN = "audio"
# A cell is read together with its group: as many as a disk gives in a moment.
_GROUP_BYTES, _GROUP_ROWS = 4_000_000, 100
_UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def parse_size(text: str) -> int:
    """Return the bytes of `1GB`, `500 MB` or `2GiB`.

    Raises:
        InputError: another form, or nothing.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?|[KMG]I)B?", text.strip().upper())
    size = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if size < 1:
        raise InputError(f"--size: expected a size such as 1GB or 500MB, found {text!r}; write one")
    return size


# --- two kinds of shards --------------------------------------------------------------------------


class _Shard(Protocol):
    """A shard that is being written."""

    def add(self, name: str, file: BinaryIO, size: int) -> str:
        """Append a file; returns its name in the shard."""
        ...

    def close(self) -> None: ...


class _TarShard:
    """Members without owner or time, so that the same audio makes the same bytes."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.TarFile(path, "w", format=tarfile.PAX_FORMAT)

    def add(self, name: str, file: BinaryIO, size: int) -> str:
        info = tarfile.TarInfo(name)
        info.size = size
        self._tar.addfile(info, file)
        return name

    def close(self) -> None:
        self._tar.close()


class _ParquetShard:
    """One column of bytes and path, as the hub has it, in small groups of rows."""

    def __init__(self, path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        audio = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
        self._schema = pyarrow.schema({_COLUMN: audio})
        # Audio is compressed already.
        self._writer = pyarrow.parquet.ParquetWriter(path, self._schema, compression="none")
        self._group: list[dict[str, bytes | str]] = []
        self._group_bytes = self._rows = 0

    def add(self, name: str, file: BinaryIO, size: int) -> str:
        self._group.append({"bytes": file.read(), "path": name})
        self._group_bytes += size
        self._rows += 1
        if self._group_bytes >= _GROUP_BYTES or len(self._group) >= _GROUP_ROWS:
            self._write_group()
        return f"{_COLUMN}/{self._rows - 1}"

    def close(self) -> None:
        self._write_group()
        self._writer.close()

    def _write_group(self) -> None:
        import pyarrow

        if self._group:
            self._writer.write_table(
                pyarrow.table({_COLUMN: self._group}, schema=self._schema),
                row_group_size=len(self._group),
            )
        self._group, self._group_bytes = [], 0


_KINDS: dict[ShardKind, Callable[[Path], _Shard]] = {"tar": _TarShard, "parquet": _ParquetShard}


# --- packing --------------------------------------------------------------------------------------


class Packed(NamedTuple):
    """What a run came to."""

    manifest: Path
    rows: int
    files: int
    shards: int


class _Audio(NamedTuple):
    """A file to pack, open."""

    name: str
    file: BinaryIO
    size: int
    """In bytes."""


@dataclass(frozen=True, kw_only=True)
class _Packer:
    """One run."""

    path: Path
    folder: Path
    size: int
    kind: ShardKind

    @property
    def manifest(self) -> Path:
        """Where the rows lie."""
        return self.folder / f"{self.path.stem}.jsonl"

    def shard(self, number: int) -> Path:
        """Where a shard lies."""
        return self.folder / f"{self.path.stem}-{number:05d}.{self.kind}"


def write_shards(
    path: Path,
    folder: Path,
    *,
    size: int,
    kind: ShardKind,
    command: str,
    on_shard: Callable[[Path], object],
) -> Packed:
    """Pack the audio of a manifest or conversations file, and write it anew beside.

    Args:
        path: manifest or conversations.
        folder: for the shards `STEM-00000.tar` and the manifest `STEM.jsonl`.
        size: bytes of audio in a shard, at most; a longer file has one of its own.
        kind: of the shards.
        command: for the side file.
        on_shard: told each shard that is whole.

    Raises:
        InputError: a bad line, audio that cannot be read, or a run there that packed something
            else.
    """
    packer = _Packer(path=path, folder=folder, size=size, kind=kind)
    plan = {"rows": _digest_rows(path), "size": str(size), "format": kind}
    with hold(packer.manifest):
        meta = find_finished(packer.manifest, plan)
        if meta is None:
            _remove_leftovers(packer)
            with Journal(packer.manifest, plan) as journal:
                places = _pack(packer, journal, on_shard)
                meta = _write_manifest(packer, journal, places, command)
                journal.remove()
    counts = meta.counts
    return Packed(packer.manifest, counts["written"], counts["files"], counts["shards"])


def _digest_rows(path: Path) -> str:
    total = sha256(str(find_root(path).resolve()).encode())
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    except OSError as error:
        raise InputError(
            f"{path}: expected a file of JSON lines, found: {error.strerror}; check the path"
        ) from error
    return total.hexdigest()[:16]


def _remove_leftovers(packer: _Packer) -> None:
    """Delete what a killed run was writing: nobody else is, as this one holds the output."""
    for file in packer.folder.glob(f".{escape(packer.path.stem)}[-.]*.tmp"):
        file.unlink(missing_ok=True)


def _pack(packer: _Packer, journal: Journal, on_shard: Callable[[Path], object]) -> dict[str, str]:
    """Write the shards that are not there; returns audio -> where it lies now, for all of them."""
    places: dict[str, str] = {}
    number = 0
    while number in journal.done:
        if not packer.shard(number).is_file():
            raise InputError(
                f"{packer.shard(number)}: expected the shard that an earlier run wrote, found "
                f"none; delete {journal.path} to begin again"
            )
        places.update(journal.read(number))
        number += 1
    queue = _Queue(_open_audio(packer.path, set(places)))
    while queue.first is not None:
        stored = _write_shard(packer, packer.shard(number), queue)
        journal.add(number, list(stored.items()))
        on_shard(packer.shard(number))
        places.update(stored)
        number += 1
    return places


class _Queue:
    """Files to pack, of which the first can be looked at before it is taken."""

    def __init__(self, audio: Iterator[_Audio]) -> None:
        self._audio = audio
        self.first = next(audio, None)

    def advance(self) -> None:
        """Go on to the next."""
        self.first = next(self._audio, None)


def _open_audio(path: Path, packed: set[str]) -> Iterator[_Audio]:
    """Yield every file that is not packed yet, once, in the order of the rows."""
    root = find_root(path)
    for number, row in read_rows(path):
        for recording in recordings_of(row):
            name = _normalize(recording["audio"])
            if name in packed:
                continue
            packed.add(name)
            try:
                file = open_source(recording["audio"], root=root)
            except InputError as error:
                raise InputError(f"{path}:{number}: {error}") from error
            with file:
                size = file.seek(0, SEEK_END)
                file.seek(0)
                yield _Audio(name, file, size)


def _normalize(audio: str) -> str:
    return audio if is_remote(audio) else posixpath.normpath(audio)


def _write_shard(packer: _Packer, path: Path, queue: _Queue) -> dict[str, str]:
    """Fill one shard; returns what is in it, as `_pack` does."""
    stored: dict[str, str] = {}
    used = 0
    with atomic_path(path) as temporary, closing(_KINDS[packer.kind](temporary)) as shard:
        while (audio := queue.first) and (not stored or used + audio.size <= packer.size):
            member = shard.add(_name_member(audio), audio.file, audio.size)
            stored[audio.name] = f"{path.name}::{member}"
            used += audio.size
            queue.advance()
    return stored


def _name_member(audio: _Audio) -> str:
    """Return a path for a file, through archives, too, that ends in what kind of audio it is."""
    name = _IN_ARCHIVE.sub(r"\1/", audio.name.removeprefix(SCHEME))
    if posixpath.splitext(name)[1]:
        return name
    head = audio.file.read(64)
    audio.file.seek(0)
    return name + find_suffix(head, name) if head else name


def _write_manifest(
    packer: _Packer, journal: Journal, places: Mapping[str, str], command: str
) -> Meta:
    counts = {"written": 0, "files": len(places), "shards": len(journal.done)}
    derived = derive_meta(packer.path, packer.manifest, command=command, counts=counts)
    meta = replace(derived, root=".", plan=digest([journal.plan]))
    write_derived(packer.manifest, _move_rows(packer.path, places, counts), meta)
    return meta


def _move_rows(path: Path, places: Mapping[str, str], counts: dict[str, int]) -> Iterator[Row]:
    """Yield the rows with their audio where it lies now."""
    for _, row in read_rows(path):
        for recording in recordings_of(row):
            recording["audio"] = places[_normalize(recording["audio"])]
        counts["written"] += 1
        yield row
