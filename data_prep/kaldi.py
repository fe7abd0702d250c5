"""Data folders of Kaldi or ESPnet, with wav.scp, text, segments and utt2spk: a manifest a folder.

`ROOT` is such a folder or one above several. Paths in `wav.scp` are relative to `--audio-root`, or
begin with it. A line of `wav.scp` that is a command, or points into an archive of Kaldi's own, is
refused: audio is read at random, which neither allows.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from blsp.cli import main as run_blsp
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

EXPECTED = "wav.scp with text beside it"
_ARCHIVE = re.compile(r"\.(ark|scp):\d+(\[.*\])?$")


class _Span(NamedTuple):
    """Where an utterance lies."""

    recording: str
    start: float = 0.0
    duration: float | None = None


def main(argv: Sequence[str]) -> int:
    """Write one manifest for every data folder, or for those named."""
    options = _parse(argv)
    root = options.audio_root or options.root
    labels, untranscribed = read_labels(options), options.untranscribed
    read = partial(read_folder, root=root, labels=labels, untranscribed=untranscribed)
    splits: dict[str, Callable[[], Iterator[Item]]] = {
        name: partial(read, folder) for name, folder in find_folders(options.root).items()
    }
    print(f"{options.root}: {options.license or 'pass its licence on by --license'}")
    choices = write_choices(options, "audio_root")
    return prepare_splits(
        options, splits, program="kaldi", root=root, expected=EXPECTED, choices=choices
    )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = build_parser("kaldi", __doc__ or "", root="folder with wav.scp, or above several")
    parser.add_argument("--audio-root", type=Path, help="of the paths in wav.scp; default: ROOT")
    add_label_options(parser)
    return parser.parse_args(argv)


def find_folders(root: Path) -> dict[str, Path]:
    """Return name -> data folder: `root`, or else those below it.

    What lies below a data folder are its parts, which Kaldi makes for its jobs (`train/split8/1`).
    """
    if (root / "wav.scp").is_file():
        return {root.resolve().name: root}
    found = {path.parent for path in root.rglob("wav.scp")}
    whole = sorted(each for each in found if found.isdisjoint(each.parents))
    return {each.relative_to(root).as_posix().replace("/", "-"): each for each in whole}


def read_folder(
    folder: Path, *, root: Path, labels: Mapping[str, Any], untranscribed: bool
) -> Iterator[Item]:
    """Yield the utterances of a data folder in the order of `text`, then those without words."""
    files = {name: (path, where) for where, name, path in _read_pairs(folder / "wav.scp")}
    spans = _read_spans(folder / "segments") or {name: _Span(name) for name in files}
    speakers = {name: speaker for _, name, speaker in _read_pairs(folder / "utt2spk")}
    for where, name, words in _read_texts(folder / "text", spans, untranscribed=untranscribed):
        span = spans.pop(name, None)
        if span is None or span.recording not in files:
            missing = "segment" if span is None and (folder / "segments").is_file() else "recording"
            yield Dropped(f"words without a {missing}", f"{where}: {name}")
            continue
        path, line = files[span.recording]
        yield Candidate(
            where=where,
            id=name,
            audio=relative_audio(_check_file(path, line), root, line),
            text=words,
            start=span.start,
            duration=span.duration,
            labels={**labels, **({"speaker": speakers[name]} if name in speakers else {})},
        )
    if not untranscribed:
        yield from (Dropped("no words", f"{folder / 'text'}: {name}") for name in spans)


def _read_texts(
    path: Path, spans: Mapping[str, _Span], *, untranscribed: bool
) -> Iterator[tuple[str, str, str | None]]:
    """Yield place, id and words; of those that `text` does not have, no words if wanted."""
    listed: set[str] = set()
    for where, name, words in _read_pairs(path):
        listed.add(name)
        yield where, name, words or None if untranscribed else words
    if untranscribed:
        lacking = [name for name in spans if name not in listed]
        yield from ((str(path), name, None) for name in lacking)


def _read_pairs(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield place, first word and rest of every line of a file, which need not be there."""
    if not path.is_file() and path.name != "wav.scp":
        return
    for number, line in read_lines(path):
        if words := line.split():
            yield f"{path}:{number}", words[0], " ".join(words[1:])


def _read_spans(path: Path) -> dict[str, _Span]:
    spans: dict[str, _Span] = {}
    for where, name, rest in _read_pairs(path):
        try:
            recording, start, end = rest.split()
            first, last = float(start), float(end)
        except ValueError as error:
            raise InputError(
                f"{where}: expected utterance, recording, start and end, found "
                f"{f'{name} {rest}'[:60]!r}; correct the line (recordings of one channel only)"
            ) from error
        spans[name] = _Span(recording, first, None if last < 0 else last - first)
    return spans


def _check_file(path: str, where: str) -> str:
    """Return a path that is one.

    Raises:
        InputError: it is a command, or a place in an archive of Kaldi's own.
    """
    if path.endswith("|") or path.startswith("|"):
        found = "a command"
    elif _ARCHIVE.search(path):
        found = "a place in an archive"
    else:
        return path
    raise InputError(
        f"{where}: expected an audio file, found {found}, {path[:60]!r}; write what it gives to "
        "a file and name that"
    )


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "kaldi", *sys.argv[1:]]))
