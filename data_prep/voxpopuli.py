"""VoxPopuli: speeches in the European Parliament with transcripts, one language a run.

`ROOT/transcribed_data/<language>/` holds `asr_{train,dev,test}.tsv` and OGG files by year, as the
corpus's own `get_asr_data` cuts them. Transcripts are the normalised ones, in lower case and
without punctuation, because the others are often empty.
"""

import argparse
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
    read_table,
)
from blsp.preparation import build_parser, choose_one, prepare_splits

LABELS = {"license": "CC0-1.0", "source": "VoxPopuli"}
NOTICE = (
    "VoxPopuli: CC0 1.0, see also the European Parliament's legal notice, "
    "https://github.com/facebookresearch/voxpopuli"
)
EXPECTED = "transcribed_data/<language>/asr_test.tsv, which its `get_asr_data` writes"
SPLITS = ("train", "dev", "test")
GOLD = "is_gold_transcript"


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
            table = folder / f"asr_{split}.tsv"
            if table.is_file():
                splits[split] = partial(read_split, table, name)
    return prepare_splits(
        options, splits, program="voxpopuli", root=folder, expected=EXPECTED, choices=choices
    )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = build_parser("voxpopuli", __doc__ or "")
    parser.add_argument("--language", help="folder of it, such as en (default: the only one)")
    return parser.parse_args(argv)


def find_languages(root: Path) -> dict[str, Path]:
    """Return language -> its folder, in the folder named or in `transcribed_data` in it."""
    inner = root / "transcribed_data"
    tables = (inner if inner.is_dir() else root).glob("*/asr_*.tsv")
    return {path.parent.name: path.parent for path in sorted(tables)}


def read_split(table: Path, language: str) -> Iterator[Item]:
    """Yield the recordings of a table; their files lie in folders of years."""
    for row in read_table(table, ["id", "normalized_text"]):
        if isinstance(row, Dropped):
            yield row
            continue
        name = row.cells["id"]
        yield Candidate(
            where=row.where,
            id=name,
            audio=f"{name[:4]}/{name}.ogg",
            text=" ".join(row.cells["normalized_text"].split()),
            # en_accented is English too
            labels=LABELS | {"language": language.partition("_")[0]} | _find_labels(row.cells),
        )


def _find_labels(cells: dict[str, str]) -> dict[str, Any]:
    columns = {"speaker": "speaker_id", "gender": "gender", "accent": "accent"}
    labels: dict[str, Any] = {key: cells.get(column, "") for key, column in columns.items()}
    labels = {key: cell for key, cell in labels.items() if cell not in ("", "None")}
    if cells.get(GOLD) in ("True", "False"):
        labels[GOLD] = cells[GOLD] == "True"
    return labels


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "voxpopuli", *sys.argv[1:]]))
