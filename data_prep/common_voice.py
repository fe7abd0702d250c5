"""Common Voice, any release from 4 on: sentences read out by volunteers, one language a run.

`ROOT/<language>/` holds MP3 files in `clips/` and a table for each split; ROOT may also be the
folder of the language, or the one in which the archive was unpacked. Columns come and go with the
releases, so they are read by name, and quotation marks in a sentence need not be in pairs. Without
`--splits` train, dev and test are done; validated, which contains them, where it is named. Clips
that are much shorter than `clip_durations.tsv` says were cut on the way and are left out.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from blsp.cli import main as run_blsp
from blsp.corpora import (
    Candidate,
    Dropped,
    Item,
    read_lines,
    read_table,
)
from blsp.errors import InputError
from blsp.preparation import build_parser, choose_one, prepare_splits

LABELS = {"license": "CC0-1.0", "source": "Common Voice"}
NOTICE = "Common Voice: CC0 1.0, https://commonvoice.mozilla.org (do not try to identify a speaker)"
EXPECTED = "<language>/train.tsv beside clips/"
SPLITS, MORE = ("train", "dev", "test"), ("validated", "other", "invalidated")
LENGTHS = "clip_durations.tsv"
# Our key -> the columns it was called in the course of releases.
KEPT = {
    "speaker": ("client_id",),
    "age": ("age",),
    "gender": ("gender",),
    "accent": ("accents", "accent"),
    "variant": ("variant",),
    "domain": ("sentence_domain",),
}
LANGUAGES = {"zh-HK": "yue"}  # others are the part before the country


def main(argv: Sequence[str]) -> int:
    """Write one manifest for train, dev and test of a language, or for the tables named."""
    options = _parse(argv)
    print(NOTICE)
    folders, choices = find_languages(options.root), list[str]()
    folder, splits = options.root, dict[str, partial[Iterator[Item]]]()
    if folders:
        name = choose_one("--language", options.language, folders, root=options.root)
        folder, choices = folders[name], ["--language", name]
        names = [*SPLITS, *MORE] if options.splits else SPLITS
        splits = {split: partial(read_split, folder, split) for split in names}
        splits = {split: read for split, read in splits.items() if _has_rows(folder, split)}
    return prepare_splits(
        options, splits, program="common_voice", root=folder, expected=EXPECTED, choices=choices
    )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = build_parser("common_voice", __doc__ or "")
    parser.add_argument("--language", help="folder of it, such as en (default: the only one)")
    return parser.parse_args(argv)


def find_languages(root: Path) -> dict[str, Path]:
    """Return the folders of languages: the one named, those in it, or those one further down.

    Raises:
        InputError: two releases have one language.
    """
    languages: dict[str, Path] = {}
    for pattern in ("train.tsv", "*/train.tsv", "*/*/train.tsv"):
        for folder in [path.parent for path in sorted(root.glob(pattern))]:
            earlier = languages.setdefault(folder.resolve().name, folder)
            if earlier != folder:
                raise InputError(
                    f"{root}: expected one release, found {earlier} and {folder}; name the folder "
                    "of one of them"
                )
        if languages:
            break
    return languages


def _has_rows(folder: Path, split: str) -> bool:
    """Tell whether there is a line below the header: small languages have empty tables."""
    path = folder / f"{split}.tsv"
    return path.is_file() and len(list(islice(read_lines(path), 2))) == 2


def read_split(folder: Path, split: str) -> Iterator[Item]:
    """Yield the clips of a table."""
    table, lengths = folder / f"{split}.tsv", read_lengths(folder, split)
    for row in read_table(table, ["path", "sentence"]):
        if isinstance(row, Dropped):
            yield row
            continue
        clip, cells = find_clip(row.cells["path"]), row.cells
        yield Candidate(
            where=row.where,
            id=clip.removesuffix(".mp3"),
            audio=f"clips/{clip}",
            text=" ".join(cells["sentence"].split()),
            file_seconds=lengths.get(clip),
            labels=LABELS | _find_labels(cells, cells.get("locale") or find_locale(clip)),
        )


def find_clip(path: str) -> str:
    """Return the name of the file: old releases leave its ending out."""
    return path if path.endswith(".mp3") else f"{path}.mp3"


def find_locale(clip: str) -> str:
    """Return the language in the name of a clip: the first releases have no column for it."""
    return clip.removeprefix("common_voice_").rpartition("_")[0]


def read_lengths(folder: Path, split: str) -> dict[str, float]:
    """Return clip -> seconds of a split, as far as the release says; others are not remembered."""
    if not (folder / LENGTHS).is_file():
        return {}
    rows = read_table(folder / f"{split}.tsv", ["path"])
    clips = {find_clip(row.cells["path"]) for row in rows if not isinstance(row, Dropped)}
    lengths: dict[str, float] = {}
    for row in read_table(folder / LENGTHS, ["clip", "duration[ms]"]):
        if not isinstance(row, Dropped) and row.cells["clip"] in clips:
            milliseconds = row.cells["duration[ms]"]
            if milliseconds.isdecimal():
                lengths[row.cells["clip"]] = int(milliseconds) / 1000
    return lengths


def _find_labels(cells: dict[str, str], locale: str) -> dict[str, str]:
    """Return what is said of speaker and sentence; votes only say how a clip was chosen."""
    labels = {"language": LANGUAGES.get(locale, locale.partition("-")[0])}
    if labels["language"] != locale:
        labels["locale"] = locale
    for key, columns in KEPT.items():
        said = [cells[column] for column in columns if cells.get(column)]
        labels |= {key: said[0]} if said else {}
    return labels


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "common_voice", *sys.argv[1:]]))
