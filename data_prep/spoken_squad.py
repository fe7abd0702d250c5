"""Spoken-SQuAD: questions in writing about paragraphs read aloud; one row a question.

`ROOT/` is the corpus's repository: `spoken_train-v1.1.json` and `spoken_test-v1.1.json`, with the
audio in `Spoken-SQuAD_audio/train_wav/` and `dev_wav/`, one file a sentence, named
`<topic>_<paragraph>_<sentence>.wav`. The sentences of a paragraph are joined into one 16 kHz FLAC
file below `--out`, which is kept: an interrupted run goes on where it was. The words are a
recogniser's, and the answers are found in them; `question`, `answer` and all `answers` are keys of
the row. A split that is finished is not done again.
"""

import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blsp.audio import load_audio, save_audio
from blsp.cli import main as run_blsp
from blsp.corpora import (
    Candidate,
    Dropped,
    Item,
    read_objects,
)
from blsp.errors import InputError
from blsp.preparation import build_parser, prepare_splits

LABELS = {"language": "en", "license": "none stated", "source": "Spoken-SQuAD"}
NOTICE = (
    "Spoken-SQuAD: no licence is stated (SQuAD itself: CC BY-SA 4.0), "
    "https://github.com/chiahsuan156/Spoken-SQuAD"
)
AUDIO = "Spoken-SQuAD_audio"
FOLDERS = {"train": "train_wav", "test": "dev_wav"}
EXPECTED = "spoken_<split>-v1.1.json"
SENTENCE = re.compile(r"(?P<paragraph>\d+_\d+)_(?P<number>\d+)\.wav")


class Paragraph(NamedTuple):
    """What is read aloud, and what is asked about it."""

    name: str
    """Numbers of topic and paragraph, such as `0_12`."""
    words: str
    rows: list[tuple[str, dict[str, Any]]]
    """Id and labels of each question."""


def main(argv: Sequence[str]) -> int:
    """Write one manifest for every split that is there, or for those named."""
    options = build_parser("spoken_squad", __doc__ or "").parse_args(argv)
    print(NOTICE)
    splits = {}
    for split, folder in FOLDERS.items():
        path = options.root / EXPECTED.replace("<split>", split)
        if path.exists():
            sentences = options.root / AUDIO / folder
            splits[split] = partial(read_split, path, split, sentences, options.out)
    return prepare_splits(
        options, splits, program="spoken_squad", root=options.out, expected=EXPECTED
    )


def read_split(path: Path, split: str, sentences: Path, out: Path) -> Iterator[Item]:
    """Yield the questions of a split, whose paragraphs are then in `out`."""
    join = partial(
        join_sentences, folder=sentences, known=find_sentences(sentences), out=out / "audio" / split
    )
    paragraphs = list(read_paragraphs(path))
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for paragraph, reason in zip(paragraphs, threads.map(join, paragraphs), strict=True):
            if reason is not None:
                yield Dropped(reason, f"{path}: {paragraph.name}")
                continue
            for name, labels in paragraph.rows:
                yield Candidate(
                    where=f"{path}: {paragraph.name}",
                    id=name,
                    audio=f"audio/{split}/{paragraph.name}.flac",
                    text=paragraph.words,
                    labels=LABELS | labels,
                )


def read_paragraphs(path: Path) -> Iterator[Paragraph]:
    """Yield the paragraphs of a file; topics and paragraphs count from 0."""
    for i, topic in enumerate(read_objects(path, "data")):
        try:
            for j, paragraph in enumerate(topic["paragraphs"]):
                yield Paragraph(
                    name=f"{i}_{j}",
                    words=" ".join(paragraph["context"].split()),
                    rows=[(each["id"], _describe(each)) for each in paragraph["qas"]],
                )
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            raise InputError(
                f"{path}: topic {i}: expected paragraphs with context and qas, found "
                f"{type(error).__name__}: {error}; use the file of the corpus as it is"
            ) from error


def _describe(question: Mapping[str, Any]) -> dict[str, Any]:
    answers = list(dict.fromkeys(answer["text"] for answer in question["answers"]))
    return {"question": question["question"].strip(), "answer": answers[0], "answers": answers}


# --- sound of paragraphs --------------------------------------------------------------------------


def find_sentences(folder: Path) -> dict[str, list[int]]:
    """Return paragraph -> numbers of its sentences; empty where there is no folder."""
    known: dict[str, list[int]] = defaultdict(list)
    for path in folder.iterdir() if folder.is_dir() else ():
        if found := SENTENCE.fullmatch(path.name):
            known[found["paragraph"]].append(int(found["number"]))
    return known


def join_sentences(
    paragraph: Paragraph, *, folder: Path, known: Mapping[str, list[int]], out: Path
) -> str | None:
    """Write the sound of a paragraph unless it is there; return why that cannot be done."""
    target = out / f"{paragraph.name}.flac"
    if target.exists():
        return None
    numbers = sorted(known.get(paragraph.name, ()))
    if not numbers:
        return "a paragraph without audio"
    if numbers != list(range(len(numbers))):
        return "a paragraph that lacks a sentence"
    try:
        sounds = [load_audio(folder / f"{paragraph.name}_{number}.wav") for number in numbers]
    except InputError:
        return "a paragraph with audio that cannot be read"
    save_audio(target, np.concatenate(sounds))
    return None


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "spoken_squad", *sys.argv[1:]]))
