"""GigaSpeech: audiobooks, podcasts and YouTube in English, one manifest a subset.

`ROOT/GigaSpeech.json` lists segments of long Opus files in `ROOT/audio/`; copies in which every
segment was cut to `<sid>.wav` beside where its long file would lie are read too. Each subset
contains the smaller ones (XL, L, M, S, XS), so that without `--splits` only the largest in the file
is done, with DEV and TEST. Tags become punctuation and capitals are lower-cased; where sentences
begin nobody wrote down. Eight million segments are read as a stream, once for each subset.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from posixpath import dirname
from typing import Any

from blsp.cli import main as run_blsp
from blsp.corpora import (
    Candidate,
    Dropped,
    Item,
    Segment,
    find_subsets,
    read_segments,
)
from blsp.preparation import build_parser, prepare_splits

LABELS = {"language": "en", "license": "research-only", "source": "GigaSpeech"}
NOTICE = (
    "GigaSpeech: terms of access, non-commercial research and education only (annotations "
    "Apache-2.0), https://github.com/SpeechColab/GigaSpeech"
)
LIST = "GigaSpeech.json"
EXPECTED = f"{LIST} beside audio/"
TRAINING, TESTS = ("XL", "L", "M", "S", "XS"), ("DEV", "TEST")
MARKS = {"<COMMA>": ",", "<PERIOD>": ".", "<QUESTIONMARK>": "?", "<EXCLAMATIONPOINT>": "!"}
TAG = re.compile(r"<[A-Z]+>")  # what is no mark stands for noise, music, silence or unknown words


def main(argv: Sequence[str]) -> int:
    """Write manifests of the largest subset, DEV and TEST, or of those named."""
    options = _parse(argv)
    print(NOTICE)
    corpus, names = find_corpus(options.root), list[str]()
    if (corpus / LIST).is_file():
        every = [*TRAINING, *TESTS]
        names = every if options.splits else find_subsets(corpus / LIST, TRAINING, TESTS)
    layout = options.layout or find_layout(corpus)
    splits = {name: partial(read_subset, corpus, name, layout) for name in names}
    return prepare_splits(
        options,
        splits,
        program="gigaspeech",
        root=corpus,
        expected=EXPECTED,
        choices=["--layout", layout],
    )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = build_parser("gigaspeech", __doc__ or "")
    parser.add_argument(
        "--layout",
        choices=("long", "cut"),
        help="long Opus files, or a WAV for each segment (default: what is there)",
    )
    return parser.parse_args(argv)


def find_corpus(root: Path) -> Path:
    """Return the folder of the list: the one named, or one in it."""
    inner = (root / name for name in ("audio_data", "GigaSpeech"))
    return next((folder for folder in inner if (folder / LIST).is_file()), root)


def find_layout(corpus: Path) -> str:
    """Return of which kind the first recording is that has a file: `long` or `cut`."""
    if (corpus / LIST).is_file():
        for segment in read_segments(corpus / LIST, text="text_tn"):
            if (corpus / segment.audio).is_file():
                break
            if (corpus / find_cut(segment)).is_file():
                return "cut"
    return "long"


def find_cut(segment: Segment) -> str:
    """Return the file of a segment that was cut: beside where its long file would lie."""
    return f"{dirname(segment.audio)}/{segment.id}.wav"


def read_subset(corpus: Path, subset: str, layout: str) -> Iterator[Item]:
    """Yield the segments of a subset."""
    for segment in read_segments(corpus / LIST, text="text_tn", subset=subset):
        words = punctuate(segment.text)
        if not words:
            yield Dropped("nothing but tags", f"{segment.where}: {segment.id}: {segment.text}")
            continue
        cut = layout == "cut"
        yield Candidate(
            where=segment.where,
            id=segment.id,
            audio=find_cut(segment) if cut else segment.audio,
            text=words,
            start=0.0 if cut else segment.start,
            duration=None if cut else segment.duration,
            labels=LABELS | _find_labels(segment),
        )


def punctuate(tagged: str) -> str:
    """Return words in lower case with punctuation; nothing where there are only tags."""
    text = ""
    for token in tagged.split():
        if token in MARKS:
            text += MARKS[token] if text else ""
        elif not TAG.fullmatch(token):
            text += f" {token.lower()}"
    return text.lstrip()


def _find_labels(segment: Segment) -> dict[str, Any]:
    """Return who speaks and of what kind the recording is, as far as the corpus says."""
    recording = segment.recording
    labels = {
        "speaker": segment.row.get("speaker"),
        "domain": recording.get("source"),  # `source` is the corpus
        "category": recording.get("category"),
    }
    return {key: value for key, value in labels.items() if value not in (None, "", "N/A")}


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "gigaspeech", *sys.argv[1:]]))
