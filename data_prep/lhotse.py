"""Manifests of Lhotse, recordings.jsonl.gz with supervisions.jsonl.gz: a manifest for each pair.

`ROOT` holds them, packed or not; `libri_recordings_dev.jsonl.gz` and the supervisions of that name
become `libri_dev`. Recordings are files, whose paths are relative to `--audio-root` or begin with
it. What Lhotse would only make on loading, by commands or transforms, is left out and counted.
"""

import argparse
import gzip
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from blsp.cli import main as run_blsp
from blsp.columns import is_free_key
from blsp.corpora import (
    Candidate,
    Dropped,
    Item,
    read_lines,
    relative_audio,
)
from blsp.errors import InputError
from blsp.preparation import (
    add_label_options,
    build_parser,
    prepare_splits,
    read_labels,
    write_choices,
)

EXPECTED = "recordings.jsonl.gz with supervisions.jsonl.gz beside it"
_RECORDINGS = re.compile(r"(.*)recordings(.*)\.jsonl(\.gz)?")


def main(argv: Sequence[str]) -> int:
    """Write one manifest for every pair, or for those named."""
    options = _parse(argv)
    root = options.audio_root or options.root
    labels, untranscribed = read_labels(options), options.untranscribed
    read = partial(read_pair, root=root, labels=labels, untranscribed=untranscribed)
    splits: dict[str, Callable[[], Iterator[Item]]] = {
        name: partial(read, *pair) for name, pair in find_pairs(options.root).items()
    }
    print(f"{options.root}: {options.license or 'pass its licence on by --license'}")
    choices = write_choices(options, "audio_root")
    return prepare_splits(
        options, splits, program="lhotse", root=root, expected=EXPECTED, choices=choices
    )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = build_parser("lhotse", __doc__ or "", root="folder with recordings and supervisions")
    parser.add_argument("--audio-root", type=Path, help="of the recordings' paths; default: ROOT")
    add_label_options(parser, without="language")
    return parser.parse_args(argv)


def find_pairs(root: Path) -> dict[str, tuple[Path, Path]]:
    """Return name -> recordings and supervisions; the folder's name where the files have none."""
    pairs: dict[str, tuple[Path, Path]] = {}
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        found = _RECORDINGS.fullmatch(path.name)
        other = path.with_name(path.name.replace("recordings", "supervisions"))
        if found and other.is_file():
            parts = [part.strip("_-.") for part in found.groups("")[:2]]
            pairs["_".join(filter(None, parts)) or root.resolve().name] = (path, other)
    return pairs


def read_pair(
    recordings: Path,
    supervisions: Path,
    *,
    root: Path,
    labels: Mapping[str, Any],
    untranscribed: bool,
) -> Iterator[Item]:
    """Yield the supervisions: each is a segment of a recording."""
    files = {row["id"]: _find_file(row, where, root) for where, row in _read(recordings, "sources")}
    for where, row in _read(supervisions, "recording_id"):
        file = files.get(row["recording_id"], "no recording of that id")
        words = " ".join((row.get("text") or "").split())
        if isinstance(file, str):
            yield Dropped(file, f"{where}: {row['recording_id']}")
            continue
        audio, channels = file
        stated = row.get("channel", 0)
        if channels != (stated if isinstance(stated, list) else [stated]):
            yield Dropped("one channel of several", f"{where}: {row['id']}")
            continue
        yield Candidate(
            where=where,
            id=row["id"],
            audio=audio,
            text=words or None if untranscribed else words,
            start=float(row.get("start", 0)),
            duration=row.get("duration"),
            labels={**labels, **_find_labels(row)},
        )


def _find_file(row: Mapping[str, Any], where: str, root: Path) -> tuple[str, list[int]] | str:
    """Return path and channels of a recording, or why it cannot be read."""
    sources = row["sources"]
    if len(sources) != 1 or sources[0].get("type") != "file":
        return "a recording that is not one file"
    if row.get("transforms"):
        return "a recording with transforms"
    return relative_audio(sources[0]["source"], root, where), sources[0].get("channels", [0])


def _find_labels(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is said of the speaker, and the simple values among the corpus's own."""
    own = (row.get("custom") or {}).items()
    simple = {key: value for key, value in own if isinstance(value, str | int | float)}
    labels = {k if is_free_key(k) else f"custom_{k}": value for k, value in simple.items()}
    keys = ("language", "speaker", "gender")
    return labels | {key: str(row[key]) for key in keys if row.get(key)}


def _read(path: Path, needed: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield place and content of every line.

    Raises:
        InputError: a line is not an object with `id` and the key that is needed, or a damaged file.
    """
    for number, line in _read_packed(path) if path.suffix == ".gz" else read_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            _ = row["id"], row[needed]
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{path}:{number}: expected a JSON object with id and {needed}, found "
                f"{line[:60]!r}; write the manifest again with Lhotse"
            ) from error
        yield f"{path}:{number}", row


def _read_packed(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            yield from enumerate(file, start=1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: expected JSON lines packed by gzip, found: {error}; fetch it again"
        ) from error


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "lhotse", *sys.argv[1:]]))
