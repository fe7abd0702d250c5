"""MuST-C: English talks with translations, one pair of languages a run.

`ROOT/en-de/data/<split>/` holds long WAV files in `wav/`, and in `txt/` the segments in YAML with
the English and the translated line of each at the same place of two other files. Manifests have
the transcript as `text` and `translation: {de: ...}`; both keep case and punctuation.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from blsp.cli import main as run_blsp
from blsp.corpora import (
    Candidate,
    Dropped,
    Item,
    read_lines,
)
from blsp.errors import InputError
from blsp.preparation import build_parser, choose_one, prepare_splits

LABELS = {"language": "en", "license": "CC-BY-NC-ND-4.0", "source": "MuST-C"}
NOTICE = "MuST-C: CC BY-NC-ND 4.0, not for money, https://mt.fbk.eu/must-c/"
EXPECTED = "en-<language>/data/<split>/txt/<split>.yaml"


def main(argv: Sequence[str]) -> int:
    """Write one manifest for every split of a pair, or for those named."""
    options = _parse(argv)
    print(NOTICE)
    folders, folder = find_pairs(options.root), options.root
    splits, choices = dict[str, partial[Iterator[Item]]](), list[str]()
    if folders:
        pair = choose_one("--pair", options.pair, folders, root=options.root)
        folder, choices = folders[pair], ["--pair", pair]
        for path in sorted(folder.glob("data/*/txt/[!.]*.yaml")):
            if path.stem == path.parent.parent.name:
                splits[path.stem] = partial(read_split, folder, path, pair.partition("-")[2])
    return prepare_splits(
        options, splits, program="must_c", root=folder, expected=EXPECTED, choices=choices
    )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = build_parser("must_c", __doc__ or "")
    parser.add_argument("--pair", help="such as en-de (default: the only one)")
    return parser.parse_args(argv)


def find_pairs(root: Path) -> dict[str, Path]:
    """Return pair -> its folder: the one named, or those in it."""
    folders = [root.resolve(), *sorted(root.glob("en-*"))]
    return {each.name: each for each in folders if re.fullmatch(r"en-\w+", each.name)}


def read_split(folder: Path, segments: Path, language: str) -> Iterator[Item]:
    """Yield the segments of a split with both lines, in the order of the files.

    Raises:
        InputError: the three files have not one number of lines, or a segment has no times.
    """
    texts = [segments.with_suffix(f".{code}") for code in ("en", language)]
    _check_lengths([segments, *texts])
    wavs = (segments.parent.parent / "wav").relative_to(folder).as_posix()
    lines = zip(_read_segments(segments), *map(read_lines, texts), strict=True)
    for (where, number, segment), (_, english), (_, translation) in lines:
        if not translation.strip():
            yield Dropped("no translation", where)
            continue
        wav = segment["wav"]
        yield Candidate(
            where=where,
            id=f"{Path(wav).stem}-{number}",
            audio=f"{wavs}/{wav}",
            text=" ".join(english.split()),
            start=segment["offset"],
            duration=segment["duration"],
            labels=LABELS
            | {"translation": {language: " ".join(translation.split())}}
            | ({"speaker": segment["speaker_id"]} if "speaker_id" in segment else {}),
        )


def _check_lengths(paths: Sequence[Path]) -> None:
    """Refuse files whose lines do not belong together."""
    counts = [sum(1 for _ in read_lines(path)) for path in paths]
    if len(set(counts)) > 1:
        told = ", ".join(f"{each} of {path.name}" for each, path in zip(counts, paths, strict=True))
        raise InputError(
            f"{paths[0].parent}: expected as many lines in each file, found {told}; unpack the "
            "archive again"
        )


def _read_segments(path: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield place, number and values of every line, which is one flow mapping.

    A YAML reader takes minutes for the 230,000 of the training set.
    """
    for number, line in read_lines(path):
        pairs = re.findall(r"(\w+): *([^,}]+)", line)
        segment: dict[str, Any] = {key: value.strip(" '\"") for key, value in pairs}
        try:
            segment |= {"offset": float(segment["offset"]), "wav": segment["wav"]}
            segment["duration"] = float(segment["duration"])
        except (KeyError, ValueError) as error:
            raise InputError(
                f"{path}:{number}: expected a mapping with duration, offset and wav on one line, "
                f"found {line[:60]!r}; use the file of the corpus as it is"
            ) from error
        yield f"{path}:{number}", number, segment


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "must_c", *sys.argv[1:]]))
