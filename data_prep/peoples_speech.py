"""People's Speech: public recordings in English, clean and dirty, one manifest a part.

`ROOT/train/{clean,clean_sa,dirty,dirty_sa}.json` have a line for each document, with the names and
labels of its FLAC files below the folder of the same name; `validation` and `test` are like them.
What stands under `_sa` must be passed on under its own licence. Words are in lower case and without
punctuation.
"""

import json
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
from blsp.preparation import build_parser, prepare_splits

LABELS = {"language": "en", "source": "People's Speech"}
NOTICE = (
    "People's Speech: CC BY, and CC BY-SA in clean_sa and dirty_sa, "
    "https://huggingface.co/datasets/MLCommons/peoples_speech (credit its authors)"
)
EXPECTED = "train/clean.json beside train/clean/, or test/test.json"
TRAINING = ("clean", "clean_sa", "dirty", "dirty_sa")
LISTS = {name: f"train/{name}.json" for name in TRAINING} | {
    name: f"{name}/{name}.json" for name in ("validation", "test")
}


def main(argv: Sequence[str]) -> int:
    """Write one manifest for every part that is there, or for those named."""
    options = build_parser("peoples_speech", __doc__ or "").parse_args(argv)
    print(NOTICE)
    root: Path = options.root
    splits = {
        name: partial(read_part, root, root / path)
        for name, path in LISTS.items()
        if (root / path).is_file()
    }
    return prepare_splits(options, splits, program="peoples_speech", root=root, expected=EXPECTED)


def read_part(root: Path, path: Path) -> Iterator[Item]:
    """Yield the recordings of all documents of a list."""
    folder = path.with_suffix("") if path.with_suffix("").is_dir() else path.parent
    audio = folder.relative_to(root).as_posix()
    labels = LABELS | {"license": "CC-BY-SA" if path.stem.endswith("_sa") else "CC-BY"}
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        for name, words in _read_document(where, line) if line.strip() else ():
            if not isinstance(name, str) or not isinstance(words, str):
                yield Dropped("a recording without a name or label", f"{where}: {name}")
                continue
            yield Candidate(
                where=where,
                id=name.removesuffix(".flac"),
                audio=f"{audio}/{name}",
                text=" ".join(words.split()),
                labels=labels,
            )


def _read_document(where: str, line: str) -> list[tuple[Any, Any]]:
    """Return name and label of every recording; the lists go by name, or else by their order."""
    try:
        data = json.loads(line)["training_data"]
        if not {"label", "name"} <= data.keys():
            _, labels, names = data.values()
        else:
            labels, names = data["label"], data["name"]
        return list(zip(names, labels, strict=True))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{where}: expected a document with duration_ms, label and name of equal length in "
            f"training_data, found {line[:60]!r}; use the file of the corpus as it is"
        ) from error


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "peoples_speech", *sys.argv[1:]]))
