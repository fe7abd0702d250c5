"""VoiceBench, from the hub or a copy of it: a manifest for each subset, accent, domain or voice.

`ROOT` is `hlt-lab/voicebench`, its mirror `lmms-lab/voicebench`, or a folder with the subsets in
it. What is spoken becomes the text, and stays in its own form as `prompt` beside what a scorer
needs: `reference` (of multiple choice a letter), `instruction_id_list`, `kwargs`, ids. The speech
is the whole question: a model that hears is told nothing else. `mtbench`, whose turns are several
recordings a row, is not read.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from blsp.cli import main as run_blsp
from blsp.errors import InputError, suggest
from blsp.hub import Table, Wishes, open_tables, plan_splits
from blsp.preparation import build_parser, prepare_splits

NOTICE = "VoiceBench: Apache-2.0, https://huggingface.co/datasets/hlt-lab/voicebench"
LABELS = {"language": "en", "license": "Apache-2.0", "source": "VoiceBench"}
# subset -> what its splits are; None where there is the one split `test`
SUBSETS = {
    "alpacaeval": None,
    "alpacaeval_full": None,
    "commoneval": None,
    "wildvoice": None,
    "sd-qa": "accent",
    "openbookqa": None,
    "mmsu": "domain",
    "ifeval": None,
    "bbh": None,
    "advbench": None,
    "alpacaeval_speaker": "voice",
}
# A prompt may be lacking: a benchmark keeps all of its questions.
WISHES = Wishes(named={"text": "prompt", "prompt": "prompt"}, kept=("kwargs",), untranscribed=True)
EXPECTED = "a folder for each subset"


def main(argv: Sequence[str]) -> int:
    """Write the manifests of all subsets, or of those named."""
    options = _parse(argv)
    print(NOTICE)
    tables: dict[str, Table] = {}
    for subset in options.subsets or find_subsets(options.root):
        tables |= open_subset(subset, options)
    root, splits = plan_splits(tables, WISHES, out=options.out, labels=LABELS)
    choices = ["--revision", options.revision] if options.revision else []
    return prepare_splits(
        options, splits, program="voicebench", root=root, expected=EXPECTED, choices=choices
    )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = build_parser("voicebench", __doc__ or "", root="hlt-lab/voicebench, or a copy of it")
    parser.add_argument("--subsets", nargs="+", metavar="SUBSET", help="default: all there are")
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    parser.add_argument(
        "--streaming", action="store_true", help="read from the hub without keeping its files"
    )
    return parser.parse_args(argv)


def find_subsets(root: Path) -> list[str]:
    """Return the subsets in a folder; all of them where it is a hub id."""
    return [name for name in SUBSETS if (root / name).is_dir() or not root.is_dir()]


def open_subset(subset: str, options: argparse.Namespace) -> dict[str, Table]:
    """Return name of the manifest -> its table; the one split of a subset goes by its name.

    Raises:
        InputError: no such subset, here or at all.
    """
    if subset not in SUBSETS:
        raise InputError(
            f"--subsets: expected one of VoiceBench, found {subset!r}; {suggest(subset, SUBSETS)}"
        )
    # Named by folder, a subset needs neither the card of the repository nor its neighbours.
    here = options.root / subset if options.root.is_dir() else None
    tables = open_tables(
        str(here or options.root),
        config=None if here else subset,
        revision=options.revision,
        streaming=options.streaming,
    )
    meaning = SUBSETS[subset]
    found: dict[str, Table] = {}
    for split, table in tables.items():
        labels = {"subset": subset} | ({meaning: split} if meaning else {})
        found[f"{subset}-{split}" if meaning else subset] = replace(table, labels=labels)
    return found


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "voicebench", *sys.argv[1:]]))
