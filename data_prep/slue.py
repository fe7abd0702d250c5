"""SLUE phase 1: sentiment of interviews (VoxCeleb) and entities of parliament (VoxPopuli).

`ROOT/slue-voxceleb/` and `ROOT/slue-voxpopuli/`, or the same in `ROOT/data/` as in the toolkit,
hold `slue-<set>_<split>.tsv` for fine-tune, dev and test (public since January 2024; the blind
tests have no labels and are not read). Interviews stay uncut in `<split>_raw/`: start and duration
say where an answer lies. Those without one sentiment are left out, as the benchmark does.
Entities have its seven combined tags, or the eighteen raw ones on request. A split that is finished
is not done again.
"""

import argparse
import ast
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from blsp.cli import main as run_blsp
from blsp.corpora import (
    Candidate,
    Dropped,
    Item,
    read_table,
)
from blsp.errors import InputError
from blsp.preparation import build_parser, prepare_splits

NOTICE = (
    "SLUE phase 1: VoxCeleb CC BY 4.0, VoxPopuli CC0, "
    "https://github.com/asappresearch/slue-toolkit (credit its authors)"
)
VOXCELEB = {"language": "en", "license": "CC-BY-4.0", "source": "SLUE VoxCeleb"}
VOXPOPULI = {"language": "en", "license": "CC0-1.0", "source": "SLUE VoxPopuli"}
EXPECTED = "slue-voxceleb/slue-voxceleb_<split>.tsv or slue-voxpopuli/slue-voxpopuli_<split>.tsv"
SPLITS = ("fine-tune", "dev", "test")
SENTIMENTS = ("Negative", "Neutral", "Positive")
COMBINED = {
    "WHEN": ("DATE", "TIME"),
    "QUANT": ("CARDINAL", "ORDINAL", "QUANTITY", "MONEY", "PERCENT"),
    "PLACE": ("GPE", "LOC"),
    "NORP": ("NORP",),
    "ORG": ("ORG",),
    "LAW": ("LAW",),
    "PERSON": ("PERSON",),
}
# Tags that are in no combined one are left out of the benchmark: buildings, events, works, ...
COMBINED_TAG = {raw: tag for tag, raws in COMBINED.items() for raw in raws}


def main(argv: Sequence[str]) -> int:
    """Write one manifest for every split that is there, such as `voxceleb-dev`."""
    options = _parse(argv)
    print(NOTICE)
    corpus = options.root / "data" if (options.root / "data").is_dir() else options.root
    readers = {
        "voxceleb": read_voxceleb,
        "voxpopuli": partial(read_voxpopuli, combined=options.tags == "combined"),
    }
    splits = {}
    for name, reader in readers.items():
        for split in SPLITS:
            table = corpus / f"slue-{name}" / f"slue-{name}_{split}.tsv"
            if table.exists():
                splits[f"{name}-{split}"] = partial(reader, table, split)
    return prepare_splits(
        options,
        splits,
        program="slue",
        root=corpus,
        expected=EXPECTED,
        choices=["--tags", options.tags],
    )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = build_parser("slue", __doc__ or "")
    parser.add_argument(
        "--tags", choices=("combined", "raw"), default="combined", help="of entities: combined"
    )
    return parser.parse_args(argv)


def read_voxceleb(table: Path, split: str) -> Iterator[Item]:
    """Yield the answers of interviews, with their sentiment."""
    columns = ("id", "start_second", "end_second", "normalized_text", "sentiment")
    for line in read_table(table, columns):
        if isinstance(line, Dropped):
            yield line
            continue
        where, row = line
        name, sentiment = row["id"], row["sentiment"]
        if sentiment not in SENTIMENTS:
            yield Dropped("no sentiment that the raters agreed on", f"{where}: {sentiment}")
            continue
        try:
            start, end = float(row["start_second"]), float(row["end_second"])
        except ValueError as error:
            raise InputError(
                f"{where}: expected seconds, found: {error}; use the file of the corpus as it is"
            ) from error
        yield Candidate(
            where=where,
            id=name,
            audio=f"{table.parent.name}/{split}_raw/{name}.flac",
            start=start,
            duration=end - start,
            text=" ".join(row["normalized_text"].split()),
            labels=VOXCELEB | _describe_speaker(row) | {"sentiment": sentiment.lower()},
        )


def read_voxpopuli(table: Path, split: str, *, combined: bool) -> Iterator[Item]:
    """Yield speeches, with the entities in their words."""
    columns = ("id", "normalized_text", "normalized_ner")
    for line in read_table(table, columns):
        if isinstance(line, Dropped):
            yield line
            continue
        where, row = line
        entities = read_entities(row, where, combined=combined)
        yield Candidate(
            where=where,
            id=row["id"],
            audio=f"{table.parent.name}/{split}/{row['id']}.ogg",
            text=" ".join(row["normalized_text"].split()),
            labels=VOXPOPULI | _describe_speaker(row) | {"entities": entities},
        )


def _describe_speaker(row: dict[str, str]) -> dict[str, str]:
    speaker = row.get("speaker_id", "")
    return {} if speaker in ("", "None") else {"speaker": speaker}


def read_entities(row: dict[str, str], where: str, *, combined: bool) -> list[dict[str, str]]:
    """Return entities in the order of the words, of `[[tag, first character, length], ...]`."""
    try:
        found = ast.literal_eval(row["normalized_ner"] or "None") or []
        placed = sorted((int(first), int(length), str(tag)) for tag, first, length in found)
    except (ValueError, TypeError, SyntaxError) as error:
        raise InputError(
            f"{where}: expected [[tag, first character, length], ...] or None, found "
            f"{row['normalized_ner'][:60]!r}; use the file of the corpus as it is"
        ) from error
    words = row["normalized_text"]
    return [
        {
            "type": COMBINED_TAG[tag] if combined else tag,
            "filler": " ".join(words[first : first + length].split()),
        }
        for first, length, tag in placed
        if not combined or tag in COMBINED_TAG
    ]


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "slue", *sys.argv[1:]]))
