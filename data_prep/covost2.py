"""CoVoST 2: translations of Common Voice 4, one pair of languages a run.

ROOT is Common Voice 4, `ROOT/<language>/validated.tsv` beside `clips/`; `--covost` names the folder
of `covost_v2.<from>_<to>.tsv`, which say of a clip its translation and its split, and need their
archives unpacked. The two are joined on the clip. Manifests have the transcript as `text` and
`translation: {de: ...}`, as `blsp bench st` reads it.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from blsp.cli import main as run_blsp
from blsp.corpora import (
    Candidate,
    Dropped,
    Item,
    Row,
    read_table,
)
from blsp.errors import InputError
from blsp.preparation import build_parser, choose_one, prepare_splits

LABELS = {"license": "CC0-1.0", "source": "CoVoST 2"}
NOTICE = (
    "CoVoST 2: translations CC0 1.0, https://github.com/facebookresearch/covost; speech of Common "
    "Voice 4, CC0 1.0 (do not try to identify a speaker)"
)
TABLE = "covost_v2.{}.tsv"
EXPECTED = TABLE.format("<from>_<to>")
SPLITS = {"train": ("train", "train_covost"), "dev": ("dev",), "test": ("test",)}
# Our key -> the column of Common Voice 4.
KEPT = {"speaker": "client_id", "age": "age", "gender": "gender", "accent": "accent"}


def main(argv: Sequence[str]) -> int:
    """Write the manifests of a pair: train, dev and test, or those named."""
    options = _parse(argv)
    print(NOTICE)
    folder = options.covost or options.root
    pairs = find_pairs(folder)
    if not pairs:
        raise InputError(
            f"{folder}: expected {EXPECTED} in it, found none; name the folder in which their "
            "archives were unpacked: --covost DIR"
        )
    pair = choose_one("--pair", options.pair, pairs, root=folder)
    clips = _check_clips(options.root, pair)
    table = folder / TABLE.format(pair)
    splits = {name: partial(read_split, clips, table, pair, name) for name in SPLITS}
    return prepare_splits(
        options,
        splits,
        program="covost2",
        root=options.root,
        expected=EXPECTED,
        choices=["--covost", str(folder), "--pair", pair],
    )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = build_parser("covost2", __doc__ or "")
    parser.add_argument("--covost", type=Path, help="folder of the translations (default: ROOT)")
    parser.add_argument("--pair", help="such as en_de or zh-CN_en (default: the only one)")
    return parser.parse_args(argv)


def find_pairs(folder: Path) -> list[str]:
    """Return the pairs of which there are translations."""
    prefix, suffix = TABLE.split("{}")
    names = [path.name for path in sorted(folder.glob(TABLE.format("*_*")))]
    # What the corpus's own programs write has a split in its name.
    pairs = [name.removeprefix(prefix).removesuffix(suffix) for name in names]
    return [pair for pair in pairs if "." not in pair]


def _check_clips(root: Path, pair: str) -> Path:
    """Return Common Voice's folder of the language that is spoken."""
    folder = root / pair.partition("_")[0]
    if not (folder / "validated.tsv").is_file():
        raise InputError(
            f"{folder}: expected validated.tsv of Common Voice 4 in it, found none; name the "
            f"folder that holds Common Voice 4 as {folder.name}/validated.tsv and {folder.name}/"
            "clips/"
        )
    return folder


def read_split(clips: Path, table: Path, pair: str, split: str) -> Iterator[Item]:
    """Yield the clips of a split in the order of Common Voice."""
    source, target = (code.partition("-")[0] for code in pair.split("_"))  # zh-CN is zh to us
    translations, dropped = read_translations(table, split)
    yield from dropped
    for row in read_table(clips / "validated.tsv", ["path", "sentence", "client_id"]):
        if isinstance(row, Dropped):
            yield row
            continue
        name = find_clip(row.cells["path"])
        found = translations.pop(name, None)
        if found is None:
            continue  # of another split, or never translated
        labels = {key: row.cells.get(column, "") for key, column in KEPT.items()}
        yield Candidate(
            where=row.where,
            id=name.removesuffix(".mp3"),
            audio=f"{clips.name}/clips/{name}",
            text=unescape(row.cells["sentence"]),
            labels=LABELS
            | {"language": source, "translation": {target: unescape(found.cells["translation"])}}
            | {key: cell for key, cell in labels.items() if cell},
        )
    for name, row in translations.items():
        yield Dropped("not in validated.tsv (is it Common Voice 4?)", f"{row.where}: {name}")


def read_translations(table: Path, split: str) -> tuple[dict[str, Row], list[Dropped]]:
    """Return clip -> line of a split, and the lines that say no translation."""
    rows: dict[str, Row] = {}
    dropped: list[Dropped] = []
    for row in read_table(table, ["path", "translation", "split"]):
        if isinstance(row, Dropped):
            dropped.append(row)
        elif row.cells["split"] in SPLITS[split]:
            name = find_clip(row.cells["path"])
            if row.cells["translation"].strip():
                rows[name] = row
            else:
                dropped.append(Dropped("no translation", f"{row.where}: {name}"))
    return rows, dropped


def find_clip(path: str) -> str:
    """Return the name of the file: old releases leave its ending out."""
    return path if path.endswith(".mp3") else f"{path}.mp3"


def unescape(cell: str) -> str:
    r"""Return the words of a cell: the corpus's own programs read `\"` as `"`."""
    return " ".join(re.sub(r"\\(.)", r"\1", cell).split())


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "covost2", *sys.argv[1:]]))
