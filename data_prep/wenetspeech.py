"""WenetSpeech: Chinese from YouTube and podcasts, one manifest a subset.

`ROOT/WenetSpeech.json` lists segments of long Opus files in `ROOT/audio/`. L contains M, and M
contains S; W has weak labels, whose `confidence` is kept. Without `--splits` the largest of L, M
and S is done, with DEV and both tests; W only where it is named. The list is read as a stream, once
for each subset.
"""

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from blsp.cli import main as run_blsp
from blsp.corpora import (
    Candidate,
    Item,
    find_subsets,
    read_segments,
)
from blsp.preparation import build_parser, prepare_splits

LABELS = {"language": "zh", "license": "CC-BY-4.0", "source": "WenetSpeech"}
NOTICE = (
    "WenetSpeech: annotations CC BY 4.0, the audio is its owners' (terms of access), "
    "https://github.com/wenet-e2e/WenetSpeech"
)
LIST = "WenetSpeech.json"
EXPECTED = f"{LIST} beside audio/"
TRAINING, WEAK, TESTS = ("L", "M", "S"), "W", ("DEV", "TEST_NET", "TEST_MEETING")


def main(argv: Sequence[str]) -> int:
    """Write manifests of the largest subset, DEV and the tests, or of those named."""
    options = build_parser("wenetspeech", __doc__ or "").parse_args(argv)
    print(NOTICE)
    inner = options.root / "WenetSpeech"
    corpus, names = inner if (inner / LIST).is_file() else options.root, list[str]()
    if (corpus / LIST).is_file():
        every = [*TRAINING, WEAK, *TESTS]
        names = every if options.splits else find_subsets(corpus / LIST, TRAINING, TESTS)
    splits = {name: partial(read_subset, corpus, name) for name in names}
    return prepare_splits(options, splits, program="wenetspeech", root=corpus, expected=EXPECTED)


def read_subset(corpus: Path, subset: str) -> Iterator[Item]:
    """Yield the segments of a subset."""
    for segment in read_segments(corpus / LIST, text="text", subset=subset):
        kept = {
            "domain": segment.recording.get("source"),  # `source` is the corpus
            "tags": segment.recording.get("tags"),
            "confidence": segment.row.get("confidence"),
        }
        yield Candidate(
            where=segment.where,
            id=segment.id,
            audio=segment.audio,
            text=" ".join(segment.text.split()),
            start=segment.start,
            duration=segment.duration,
            labels=LABELS | {key: value for key, value in kept.items() if value is not None},
        )


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "wenetspeech", *sys.argv[1:]]))
