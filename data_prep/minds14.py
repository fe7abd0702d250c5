"""MINDS-14: questions to a bank, 14 intents in 14 locales, with parts for training and testing.

`ROOT/MInDS-14/` holds `audio.zip` and `text.zip`, to be unpacked there or in `audio/` and `text/`:
telephone recordings in `<locale>~<INTENT>/` and one `<locale>.csv` each. The corpus has no parts,
so they are made here: the SHA-256 of a recording's name, as a number modulo 10, puts it into train
(0 to 5), dev (6) or test (7 to 9), the same on every machine; who speaks is not told, so one voice
may be in two parts. `--parts one` leaves a locale whole, for a model that is only tested on it.
The words are a recogniser's; the English translation stands under `translation`.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path, PurePosixPath

from blsp.cli import main as run_blsp
from blsp.corpora import Candidate, read_cells
from blsp.errors import InputError
from blsp.preparation import build_parser, prepare_splits

LABELS = {"license": "CC-BY-4.0", "source": "MINDS-14"}
NOTICE = "MINDS-14: CC BY 4.0, https://huggingface.co/datasets/PolyAI/minds14 (credit its authors)"
FOLDER = "MInDS-14"
TABLES = "[a-z][a-z]-[A-Z][A-Z].csv"
EXPECTED = f"{FOLDER}/text/<locale>.csv and {FOLDER}/audio/<locale>~<INTENT>/*.wav"
PARTS = {"train": range(0, 6), "dev": range(6, 7), "test": range(7, 10)}
CELLS = 4  # recording, words, English, intent


def main(argv: Sequence[str]) -> int:
    """Write the manifests of every locale that is there: `en-US-train`, or `en-US` for all."""
    options = _parse(argv)
    print(NOTICE)
    corpus = options.root / FOLDER if (options.root / FOLDER).is_dir() else options.root
    tables = [*sorted(corpus.glob(TABLES)), *sorted((corpus / "text").glob(TABLES))]
    splits = {}
    for table in tables:
        folder = "audio/" if (corpus / "audio").is_dir() else ""
        if options.parts == "one":
            splits[table.stem] = partial(read_locale, table, folder)
        for part in PARTS if options.parts == "three" else ():
            splits[f"{table.stem}-{part}"] = partial(read_part, table, folder, part)
    return prepare_splits(
        options,
        splits,
        program="minds14",
        root=corpus,
        expected=EXPECTED,
        choices=["--parts", options.parts],
    )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = build_parser("minds14", __doc__ or "")
    parser.add_argument(
        "--parts",
        choices=("three", "one"),
        default="three",
        help="train, dev and test of each locale, or all of it in one: three",
    )
    return parser.parse_args(argv)


def find_part(name: str) -> str:
    """Return the part that a recording such as `en-US~FREEZE/602ba55a` belongs to."""
    tenth = int(sha256(name.encode()).hexdigest(), 16) % 10
    return next(part for part, tenths in PARTS.items() if tenth in tenths)


def read_part(table: Path, folder: str, part: str) -> Iterator[Candidate]:
    """Yield the recordings of one part of a locale."""
    return (each for each in read_locale(table, folder) if find_part(each.id) == part)


def read_locale(table: Path, folder: str) -> Iterator[Candidate]:
    """Yield the recordings of a locale; their folders lie in `folder` of the corpus."""
    language = table.stem.partition("-")[0]
    for where, cells in islice(
        read_cells(table, delimiter=","), 1, None
    ):  # the first line names the columns
        if len(cells) != CELLS:
            raise InputError(
                f"{where}: expected recording, words, English and intent, found {len(cells)} "
                "cells; use the file of the corpus as it is"
            )
        recording, words, english, intent = cells
        translated = language != "en" and english
        yield Candidate(
            where=where,
            id=PurePosixPath(recording).with_suffix("").as_posix(),
            audio=folder + recording,
            text=" ".join(words.split()),
            labels=LABELS
            | {"language": language, "locale": table.stem, "intent": intent.lower()}
            | ({"translation": {"en": " ".join(english.split())}} if translated else {}),
        )


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "minds14", *sys.argv[1:]]))
