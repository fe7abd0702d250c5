"""Fluent Speech Commands: orders to a home assistant, 31 intents of action, object and location.

`ROOT/fluent_speech_commands_dataset/` holds `data/{train,valid,test}_data.csv` and the recordings
that they name, below `wavs/speakers/`. The intent is `action_object_location`, with `none` where
the corpus has it and `_` for spaces: `deactivate_lights_bedroom`, `change_language_none_none`. So
no intent is the beginning of another, and an answer names one of them or none. The three are kept
on their own too. A split that is finished is not done again.
"""

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from blsp.cli import main as run_blsp
from blsp.corpora import (
    Candidate,
    Dropped,
    Item,
    read_table,
)
from blsp.preparation import build_parser, prepare_splits

LABELS = {"language": "en", "license": "research-only", "source": "Fluent Speech Commands"}
NOTICE = (
    "Fluent Speech Commands: academic research only, https://fluent.ai/"
    "fluent-speech-commands-a-dataset-for-spoken-language-understanding-research/"
)
FOLDER = "fluent_speech_commands_dataset"
ENDING = "_data.csv"
EXPECTED = f"{FOLDER}/data/<split>{ENDING}"
SLOTS = ("action", "object", "location")
COLUMNS = ("path", "speakerId", "transcription", *SLOTS)


def main(argv: Sequence[str]) -> int:
    """Write one manifest for every split that is there, or for those named."""
    options = build_parser("fluent_speech_commands", __doc__ or "").parse_args(argv)
    print(NOTICE)
    root = options.root
    corpus = root / FOLDER if (root / FOLDER).is_dir() else root
    tables = sorted((corpus / "data").glob(f"[!.]*{ENDING}"))
    splits = {path.name.removesuffix(ENDING): partial(read_split, path) for path in tables}
    return prepare_splits(
        options, splits, program="fluent_speech_commands", root=corpus, expected=EXPECTED
    )


def read_split(table: Path) -> Iterator[Item]:
    """Yield the recordings of a table, whose paths are relative to the corpus."""
    for line in read_table(table, COLUMNS, delimiter=","):
        if isinstance(line, Dropped):
            yield line
            continue
        where, row = line
        slots = {slot: row[slot] for slot in SLOTS}
        yield Candidate(
            where=where,
            id=PurePosixPath(row["path"]).stem,
            audio=row["path"],
            text=" ".join(row["transcription"].split()),
            labels=LABELS
            | {"speaker": row["speakerId"], "intent": "_".join(slots.values()).replace(" ", "_")}
            | slots,
        )


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "fluent_speech_commands", *sys.argv[1:]]))
