"""AISHELL-1: Mandarin Chinese read out, one manifest a split.

`ROOT/data_aishell/` holds one transcript of all and `wav/<split>/<speaker>/`, where the speakers'
own archives must have been unpacked too. Its words are parted by spaces, which Chinese does not
write: they are taken out. Letters of double width become ordinary capitals.
"""

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
from blsp.preparation import build_parser, prepare_splits

LABELS = {"language": "zh", "license": "Apache-2.0", "source": "AISHELL-1"}
NOTICE = "AISHELL-1: Apache 2.0, https://www.openslr.org/33"
TRANSCRIPT = "transcript/aishell_transcript_v0.8.txt"
EXPECTED = f"data_aishell/{TRANSCRIPT} and data_aishell/wav/<split>/<speaker>/*.wav"
SPLITS = ("train", "dev", "test")
# Letters of double width, A and a and what follows them, to those of ASCII.
WIDE = {code: code - 0xFEE0 for first in (0xFF21, 0xFF41) for code in range(first, first + 26)}


def main(argv: Sequence[str]) -> int:
    """Write one manifest for every split that is there, or for those named."""
    options = build_parser("aishell", __doc__ or "").parse_args(argv)
    print(NOTICE)
    inner = options.root / "data_aishell"
    corpus = inner if inner.is_dir() else options.root
    splits: dict[str, partial[Iterator[Item]]] = {}
    for name in SPLITS:
        if (corpus / TRANSCRIPT).is_file() and next(corpus.glob(f"wav/{name}/*/*.wav"), None):
            splits[name] = partial(read_split, corpus, name)
    return prepare_splits(options, splits, program="aishell", root=corpus, expected=EXPECTED)


def read_split(corpus: Path, split: str) -> Iterator[Item]:
    """Yield the lines of the transcript whose speaker belongs to the split."""
    folder, listed = corpus / "wav" / split, set()
    speakers = {each.name for each in folder.iterdir() if each.is_dir()}
    for number, line in read_lines(corpus / TRANSCRIPT):
        name, _, words = line.strip().partition(" ")
        speaker = name[6:11]  # BAC009 S0002 W0122
        if speaker not in speakers:
            continue
        listed.add(name)
        yield Candidate(
            where=f"{corpus / TRANSCRIPT}:{number}",
            id=name,
            audio=f"wav/{split}/{speaker}/{name}.wav",
            text=clean(words),
            labels=LABELS | {"speaker": speaker},
        )
    for path in sorted(folder.glob("*/[!.]*.wav")):
        if path.stem not in listed:
            yield Dropped("audio without a transcript", str(path))


def clean(words: str) -> str:
    """Return Chinese as it is written."""
    return "".join(words.translate(WIDE).split()).upper()


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "aishell", *sys.argv[1:]]))
