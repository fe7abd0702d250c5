"""Audio data sets of the Hugging Face hub, here or there, as recordings for a manifest.

A folder, a `.parquet` file or a hub id enters; a `Table` a split leaves, whose rows become a
`Candidate` each. Parquet files are referred to in place on this machine, and on the hub where that
is asked for. Of anything else the audio is written once, as it is in its container, so that nothing
is decoded here and a run that was killed goes on. For what lies on this machine, no other is asked.
"""

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from blsp.cells import store_cell
from blsp.columns import Columns, find_columns, holds_array
from blsp.corpora import Candidate, Dropped, Item
from blsp.errors import InputError
from blsp.parquet import SUFFIX, name_cell, read_footer, read_rows
from blsp.remote import FORM, parse_name

if TYPE_CHECKING:
    from datasets import DatasetBuilder

CONVERTED = "refs/convert/parquet"
"""Branch of a repository on the hub where its own loading script has been run for everybody."""

_SHARD = re.compile(r"-\d+-of-\d+$")
_ROWS = 100  # read at once; with audio, some tens of megabytes
_SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` leaves


class _InPlace(str):
    """A recording that is left where it lies: a path relative to the root, or one on the hub."""


class _Row(NamedTuple):
    where: str
    values: Mapping[str, Any]
    audio: Any
    """The cell of its audio, of any shape."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """One split of a data set."""

    name: str
    source: str
    """What the user named."""
    here: Path | None
    """Folder of a data set on this machine, which paths in it are relative to."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What all its rows carry."""

    def features(self) -> Mapping[str, Any]:
        """Return column -> type, of `datasets`."""
        raise NotImplementedError

    def rows(self, columns: Columns, root: Path | None) -> Iterator[_Row]:
        """Yield all rows; `root` is that of the recordings that are left in place, if they are."""
        raise NotImplementedError


# --- what a user may name -------------------------------------------------------------------------


def open_tables(
    source: str, *, config: str | None = None, revision: str | None = None, streaming: bool = False
) -> dict[str, Table]:
    """Return split -> its table; nothing is read or downloaded yet but what describes it.

    Args:
        source: a folder, a `.parquet` file, or the id of a data set on the hub.
        config: which of several configurations.
        revision: branch, tag or commit on the hub.
        streaming: read from the hub without keeping its files. Audio in parquet files stays there,
            other audio is written.

    Raises:
        InputError: there is none, it cannot be opened without running its code, or the hub does
            not answer.
    """
    path = Path(source)
    if path.is_file() and path.suffix == SUFFIX:
        name = _SHARD.sub("", path.stem)
        files = (str(path.absolute()),)
        return {name: _Parquet(name=name, source=source, here=path.absolute().parent, files=files)}
    if path.is_dir() and any((path / name).is_file() for name in _SAVED):
        return _open_saved(path)
    if not path.is_dir() and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
        raise InputError(
            f"{source}: expected a folder, a .parquet file or the id of a data set on the hub, "
            "found nothing there; check the path"
        )
    if path.is_dir() and (shards := _group_shards(path)):
        parts = {"source": source, "here": path.absolute()}
        return {
            name: _Parquet(name=name, files=tuple(files), **parts) for name, files in shards.items()
        }
    return _open_builder(source, config=config, revision=revision, streaming=streaming)


def _group_shards(folder: Path) -> dict[str, list[str]]:
    """Return split -> its files, where a folder holds nothing but `SPLIT-00000-of-00003.parquet`.

    The library knows such names below `data` only, and makes of others one split.
    """
    splits: dict[str, list[str]] = {}
    for path in sorted(folder.absolute().glob("[!.]*")):
        if path.suffix != SUFFIX or not _SHARD.search(path.stem):
            return {}
        splits.setdefault(_SHARD.sub("", path.stem), []).append(str(path))
    return splits


def _open_builder(
    source: str, *, config: str | None, revision: str | None, streaming: bool
) -> dict[str, Table]:
    import datasets
    from datasets import config as settings

    here = Path(source).absolute() if Path(source).is_dir() else None
    # Else two hosts are asked that nobody named: one counts, one knows features.
    settings.HF_UPDATE_DOWNLOAD_COUNTS = False
    settings.USE_PARQUET_EXPORT = False
    with _refusing(source, revision):
        builder = datasets.load_dataset_builder(str(here or source), config, revision=revision)
    tables: dict[str, Table] = {}
    for name, files in (builder.config.data_files or {}).items():
        parts: dict[str, Any] = {"name": str(name), "source": source, "here": here}
        whole = all(str(file).endswith(SUFFIX) for file in files)
        if whole:
            kind = _Remote if streaming and not here else _Parquet
            given = builder.info.features
            tables[str(name)] = kind(**parts, files=tuple(map(str, files)), given=given)
        else:
            tables[str(name)] = _Streamed(**parts, builder=builder)
    return tables


def _open_saved(folder: Path) -> dict[str, Table]:
    import datasets

    with _refusing(str(folder), None):
        saved = datasets.load_from_disk(str(folder))
    splits = saved if isinstance(saved, dict) else {str(saved.split or folder.name): saved}
    return {
        str(name): _Saved(name=str(name), source=str(folder), here=folder.absolute(), data=data)
        for name, data in splits.items()
    }


# --- rows -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Parquet(Table):
    """Parquet files, read as such: a copy in the library's own format would be as large again."""

    files: tuple[str, ...]
    given: Mapping[str, Any] | None = None
    """The features where the data set's card has them."""

    def features(self) -> Mapping[str, Any]:
        from datasets import Features
        from pyarrow.parquet import read_schema

        with _refusing(self.source, None):
            return self.given or Features.from_arrow_schema(read_schema(self._fetch()[0]))

    def rows(self, columns: Columns, root: Path | None) -> Iterator[_Row]:
        for file in self._fetch():
            wanted = columns.read if root else [*columns.read, columns.audio]
            for number, values in enumerate(_read_parquet(file, wanted, self.source)):
                audio = values.get(columns.audio)
                if root:
                    place = Path(file).parent.resolve().relative_to(root) / Path(file).name
                    audio = _InPlace(name_cell(place.as_posix(), columns.audio, number))
                yield _Row(f"{file}: row {number}", values, audio)

    def _fetch(self) -> list[str]:
        if self.here:
            return list(self.files)
        from datasets import DownloadManager

        with _refusing(self.source, None):  # into the cache of the hub's own client
            return [str(file) for file in DownloadManager().download(list(self.files))]


@dataclass(frozen=True, kw_only=True)
class _Remote(_Parquet):
    """Parquet files that stay on the hub."""

    def features(self) -> Mapping[str, Any]:
        from datasets import Features

        with _refusing(self.source, None):
            if self.given:
                return self.given
            metadata = read_footer(self.files[0]).metadata
            return Features.from_arrow_schema(metadata.schema.to_arrow_schema())

    def rows(self, columns: Columns, root: Path | None) -> Iterator[_Row]:
        if holds_array(self.features()[columns.audio]):
            raise InputError(
                f"{self.source} {self.name}: expected recordings as files in the column "
                f"{columns.audio!r}, found samples, which are not read from the hub; leave out "
                "--streaming"
            )
        for file in self.files:
            if parse_name(file) is None:
                raise InputError(f"{file}: expected {FORM}, found another form; name OWNER/NAME")
            for number, values in enumerate(read_rows(file, columns.read)):
                audio = _InPlace(name_cell(file, columns.audio, number))
                yield _Row(f"{file}: row {number}", values, audio)


def _read_parquet(file: str, columns: Sequence[str], source: str) -> Iterator[dict[str, Any]]:
    from pyarrow.parquet import ParquetFile

    with _refusing(source, None), ParquetFile(file) as shard:
        if not columns:
            yield from ({} for _ in range(shard.metadata.num_rows))
            return
        for batch in shard.iter_batches(_ROWS, columns=list(columns), use_threads=False):
            yield from batch.to_pylist()


@dataclass(frozen=True, kw_only=True)
class _Streamed(Table):
    """Whatever else the library can read: folders of audio, tar shards, JSON lines."""

    builder: "DatasetBuilder"

    def features(self) -> Mapping[str, Any]:
        return self._open().features or {}

    def rows(self, columns: Columns, root: Path | None) -> Iterator[_Row]:
        with _refusing(self.source, None):
            for number, values in enumerate(self._open(raw=True)):
                yield _Row(
                    f"{self.source} {self.name}: row {number}", values, values[columns.audio]
                )

    def _open(self, *, raw: bool = False) -> Any:
        """Open the stream; `raw` leaves audio as it is stored."""
        import datasets

        with _refusing(self.source, None):
            stream: Any = self.builder.as_streaming_dataset(split=self.name)
            stream = stream if stream.features else stream._resolve_features()
        if not raw:
            return stream
        if isinstance(self.builder, datasets.ArrowBasedBuilder):
            return _undecoded(stream)
        # Their rows are encoded by feature, for which audio needs torchcodec, decoded or not;
        # a binary value lets any cell through.
        plain = {k: _binary(feature) for k, feature in stream.features.items()}
        stream.info.features = datasets.Features(plain)
        return stream


@dataclass(frozen=True, kw_only=True)
class _Saved(Table):
    """A folder of `save_to_disk`."""

    data: Any

    def features(self) -> Mapping[str, Any]:
        return self.data.features

    def rows(self, columns: Columns, root: Path | None) -> Iterator[_Row]:
        kept = _undecoded(self.data.select_columns([*columns.read, columns.audio]))
        for number, values in enumerate(kept):
            yield _Row(f"{self.source} {self.name}: row {number}", values, values[columns.audio])


def _undecoded(data: Any) -> Any:
    from datasets import Audio

    for name, feature in data.features.items():
        if isinstance(feature, Audio):
            data = data.cast_column(name, Audio(decode=False))
    return data


def _binary(feature: Any) -> Any:
    from datasets import Audio, Value

    return Value("binary") if isinstance(feature, Audio) else feature


def _find_root(tables: Iterable[Table], wishes: "Wishes") -> Path | None:
    """Return the folder that recordings in place are relative to; None where they cannot stay."""
    folders: list[Path] = []
    for table in tables:
        if not isinstance(table, _Parquet) or table.here is None:  # on the hub there is no root
            return None
        features = table.features()
        words = replace(wishes, untranscribed=True)  # asked for when the split is read, if it is
        if holds_array(features[words.find_columns(features, table.source).audio]):
            return None
        folders.append(table.here.resolve())
        # In the hub's cache files are links into another folder, and must not leave the root.
        for file in map(Path, table.files):
            folders += [file.parent.resolve(), file.resolve().parent]
    return Path(os.path.commonpath(folders)) if folders else None


# --- recordings -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a program or its user says of a data set."""

    named: Mapping[str, str] = field(default_factory=dict)
    """Key of the manifest -> column."""
    kept: tuple[str, ...] = ()
    """Columns that are kept though their values are not simple, where they are there."""
    untranscribed: bool = False
    """Keep rows without words."""

    def find_columns(self, features: Mapping[str, Any], where: str) -> Columns:
        """Tell which column is what."""
        kept = {name: name for name in self.kept if name in features}
        named = {**kept, **self.named}
        return find_columns(features, named, where=where, untranscribed=self.untranscribed)


def plan_splits(
    tables: Mapping[str, Table], wishes: Wishes, *, out: Path, labels: Mapping[str, Any]
) -> tuple[Path, dict[str, Callable[[], Iterator[Item]]]]:
    """Return the root of the manifests, and what reads each of them.

    Args:
        tables: name of the manifest -> what it is made of.
        wishes: which column is what.
        out: folder of the manifests, and of audio that cannot stay where it is.
        labels: what all rows of all of them carry.

    Raises:
        InputError: a data set on this machine has no column of audio.
    """
    root = _find_root(tables.values(), wishes)
    splits = {
        name: partial(_read_table, name, table, wishes, root=root, out=out, labels=labels)
        for name, table in tables.items()
    }
    return root or out, splits


def _read_table(
    name: str,
    table: Table,
    wishes: Wishes,
    *,
    root: Path | None,
    out: Path,
    labels: Mapping[str, Any],
) -> Iterator[Item]:
    """Yield the recordings of a split; audio that does not stay is written to `out`/audio/NAME."""
    columns = wishes.find_columns(table.features(), f"{table.source} {table.name}")
    seen: dict[str, int] = {}
    for number, row in enumerate(table.rows(columns, root)):
        words = columns.find_words(row.values)
        if not words and not wishes.untranscribed:
            yield Dropped("no words", row.where)
            continue
        audio = row.audio
        if not isinstance(audio, _InPlace):
            file = store_cell(audio, out / "audio" / name / f"{number:07d}", table.here)
            if not isinstance(file, Path):
                yield Dropped(file.reason, f"{row.where}{file.which}")
                continue
            audio = file.relative_to(out).as_posix()
        yield Candidate(
            where=row.where,
            id=_number_repeats(columns.find_id(row.values) or f"{name}-{number}", seen),
            audio=str(audio),
            text=words or None,
            labels={**labels, **table.labels, **columns.find_labels(row.values)},
        )


def _number_repeats(name: str, seen: dict[str, int]) -> str:
    """Return a name that was not there before: where ids are of sentences, several speak each."""
    while name in seen:
        seen[name] += 1
        name = f"{name}-{seen[name]}"
    seen[name] = 1
    return name


# --- what can go wrong ----------------------------------------------------------------------------


@contextmanager
def _refusing(source: str, revision: str | None) -> Iterator[None]:
    """Turn what the libraries raise into one line."""
    import pyarrow
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]
    )

    hub = (HfHubHTTPError, HFValidationError, HTTPError)
    data = (DatasetsError, pyarrow.ArrowException, OSError, ValueError, RuntimeError, ImportError)
    try:
        yield
    except InputError:
        raise
    except (*hub, *data) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(f"{source}: {_explain(error, revision)}") from error


def _explain(error: Exception, revision: str | None) -> str:
    told = " ".join(str(error).partition("Example of usage")[0].split())[:300]
    if "Dataset scripts are no longer supported" in told:
        advice = f"add --revision {CONVERTED}, or " if revision != CONVERTED else ""
        return (
            "expected data files, found a loading script, which is never run; "
            f"{advice}name a mirror or a folder with its parquet files"
        )
    if "OfflineModeIsEnabled" in told or "offline" in type(error).__name__.lower():
        return (
            "expected the hub, found HF_HUB_OFFLINE=1; unset it, or name a folder on this machine"
        )
    if "Config name is missing" in told or "BuilderConfig" in told:
        return f"expected the name of a configuration, found: {told}; name one with --config"
    if isinstance(error, ConnectionError) or "NotFound" in type(error).__name__:
        return f"expected a data set on the hub, found: {told}; check name, access and network"
    found = told or type(error).__name__
    return f"expected a data set of audio that can be read, found: {found}; look into it"
