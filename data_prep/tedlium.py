"""TED-LIUM 1 to 3: talks in English, one manifest a split.

Of release 3, `data/` is the training set and `legacy/` holds dev and test; releases 1 and 2 have a
folder for each of the three. STM files name segments of long SPHERE recordings. The words are in
lower case; apostrophes, which stand apart in the corpus, are joined to their words again, and
`<unk>` and noises are left out.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from blsp.cli import main as run_blsp
from blsp.corpora import (
    Candidate,
    Dropped,
    Item,
    read_lines,
)
from blsp.preparation import build_parser, prepare_splits

LABELS = {"language": "en", "license": "CC-BY-NC-ND-3.0", "source": "TED-LIUM"}
NOTICE = "TED-LIUM: CC BY-NC-ND 3.0, not for money, https://www.openslr.org/51"
EXPECTED = "data/stm/*.stm and legacy/{dev,test}/stm/*.stm, each beside sph/"
# Where a split lies in release 3, and in 1 and 2.
FOLDERS = {
    "train": ("data", "train"),
    "dev": ("legacy/dev", "dev"),
    "test": ("legacy/test", "test"),
}
IGNORED = "ignore_time_segment_in_scoring"
NO_WORD = re.compile(r"<\w+>|\[[^\]]*\]|\{[^}]*\}")


class Segment(NamedTuple):
    """A line of an STM file."""

    file: str
    speaker: str
    start: float
    end: float
    label: str
    """`<NA>`, or such as `<o,f0,male>`."""
    words: str


def main(argv: Sequence[str]) -> int:
    """Write one manifest for every split that is there, or for those named."""
    options = build_parser("tedlium", __doc__ or "").parse_args(argv)
    print(NOTICE)
    corpus = find_corpus(options.root)
    splits: dict[str, partial[Iterator[Item]]] = {}
    for name, places in FOLDERS.items():
        for place in places:
            if name not in splits and next((corpus / place / "stm").glob("[!.]*.stm"), None):
                splits[name] = partial(read_split, corpus, place)
    return prepare_splits(options, splits, program="tedlium", root=corpus, expected=EXPECTED)


def find_corpus(root: Path) -> Path:
    """Return the folder of the release: the one named, or the newest in it."""
    return max(root.glob("TEDLIUM_release*"), default=root)


def read_split(corpus: Path, folder: str) -> Iterator[Item]:
    """Yield the segments of all talks in a folder."""
    for path in sorted((corpus / folder / "stm").glob("[!.]*.stm")):
        for number, line in read_lines(path):
            where = f"{path}:{number}"
            if not line.strip() or line.startswith(";;"):  # a comment
                continue
            segment = parse(line)
            if segment is None:
                yield Dropped("a line that is no segment", f"{where}: {line[:60]}")
            elif IGNORED in segment.words:
                yield Dropped(IGNORED, where)
            else:
                yield _build_candidate(where, folder, segment)


def parse(line: str) -> Segment | None:
    """Return what a line says; None where it is cut or says no times."""
    cells = [*line.split(maxsplit=6), ""]
    try:
        file, _, speaker, start, end, label, words = cells[:7]
        return Segment(file, speaker, float(start), float(end), label, words)
    except ValueError:
        return None


def _build_candidate(where: str, folder: str, segment: Segment) -> Candidate:
    times = (round(seconds * 100) for seconds in (segment.start, segment.end))
    gender = re.search(r"\b(fe)?male\b", segment.label)
    return Candidate(
        where=where,
        id="-".join([segment.file, *(f"{hundredths:07}" for hundredths in times)]),
        audio=f"{folder}/sph/{segment.file}.sph",
        text=clean(segment.words),
        start=segment.start,
        duration=segment.end - segment.start,
        labels=LABELS
        | {"speaker": segment.speaker}
        | ({"gender": gender.group()} if gender else {}),
    )


def clean(words: str) -> str:
    """Return words as they are written: `they 're` and `' cause` joined, marks left out."""
    text = " ".join(NO_WORD.sub(" ", words).split())
    text = re.sub(r"(\w) '(\w)", r"\1'\2", text)
    return re.sub(r"(^|\s)' (\w)", r"\1'\2", text)


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "tedlium", *sys.argv[1:]]))
