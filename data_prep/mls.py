"""Multilingual LibriSpeech: audiobooks in eight languages, one language a run.

ROOT is `mls_german` or `mls_german_opus`, or holds them for several languages. A split has
`transcripts.txt`, a line for each FLAC or Opus file in `audio/<speaker>/<book>/`. The words are in
lower case and without punctuation; nobody restored them.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from blsp.cli import main as run_blsp
from blsp.corpora import (
    Candidate,
    Dropped,
    Item,
    read_lines,
)
from blsp.preparation import build_parser, choose_one, prepare_splits

LABELS = {"license": "CC-BY-4.0", "source": "MLS"}
NOTICE = "Multilingual LibriSpeech: CC BY 4.0, https://www.openslr.org/94 (credit its authors)"
EXPECTED = "mls_<language>/<split>/transcripts.txt"
SPLITS = ("train", "dev", "test")
CODES = {
    "dutch": "nl",
    "english": "en",
    "french": "fr",
    "german": "de",
    "italian": "it",
    "polish": "pl",
    "portuguese": "pt",
    "spanish": "es",
}
GENDERS = {"F": "female", "M": "male"}


def main(argv: Sequence[str]) -> int:
    """Write one manifest for every split of a language, or for those named."""
    options = _parse(argv)
    print(NOTICE)
    folders, folder = find_languages(options.root), options.root
    splits, choices = dict[str, partial[Iterator[Item]]](), list[str]()
    if folders:
        name = choose_one("--language", options.language, folders, root=options.root)
        folder, choices = folders[name], ["--language", name]
        for split in SPLITS:
            if (folder / split / "transcripts.txt").is_file():
                splits[split] = partial(read_split, folder, split, CODES[name])
    return prepare_splits(
        options, splits, program="mls", root=folder, expected=EXPECTED, choices=choices
    )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = build_parser("mls", __doc__ or "")
    parser.add_argument("--language", help="such as german (default: the only one)")
    return parser.parse_args(argv)


def find_languages(root: Path) -> dict[str, Path]:
    """Return language -> its folder: the one named, or those in it; FLAC before Opus."""
    folders = [root.resolve(), *sorted(root.glob("mls_*"), reverse=True)]
    names = {each.name.removeprefix("mls_").removesuffix("_opus"): each for each in folders}
    return {name: folder for name, folder in names.items() if name in CODES}


def read_split(folder: Path, split: str, language: str) -> Iterator[Item]:
    """Yield the lines of the transcripts of a split."""
    transcripts, genders = folder / split / "transcripts.txt", read_genders(folder)
    opus = next((folder / split / "audio").glob("*/*/[!.]*.opus"), None)
    ending = ".opus" if opus else ".flac"
    for number, line in read_lines(transcripts):
        where, (name, _, words) = f"{transcripts}:{number}", line.partition("\t")
        parts = name.split("_")
        if len(parts) != 3:
            if line.strip():
                yield Dropped("a line without <speaker>_<book>_<number>", f"{where}: {line[:60]}")
            continue
        labels = {"language": language, "speaker": parts[0]}
        if parts[0] in genders:
            labels["gender"] = genders[parts[0]]
        yield Candidate(
            where=where,
            id=name,
            audio=f"{split}/audio/{parts[0]}/{parts[1]}/{name}{ending}",
            text=" ".join(words.split()),
            labels=LABELS | labels,
        )


def read_genders(folder: Path) -> dict[str, str]:
    """Return speaker -> gender of `metainfo.txt`, a table with bars; a copy may lack it."""
    path, genders = folder / "metainfo.txt", {}
    for _, line in read_lines(path) if path.is_file() else ():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 1 and cells[1] in GENDERS:
            genders[cells[0]] = GENDERS[cells[1]]
    return genders


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "mls", *sys.argv[1:]]))
