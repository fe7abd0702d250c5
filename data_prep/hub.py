"""Any audio data set of the Hugging Face hub, or a folder or file of parquet: a manifest a split.

`SOURCE` is a folder, a `.parquet` file or a hub id. The columns for audio, words, id, emotion and
the like are found by their usual names, or named: `--column text=transcript`; other columns of
text, numbers and classes become keys of the manifest. Parquet files that lie here are referred to
in place, and with `--streaming` those on the hub, of which nothing is kept. Other audio is written
once below `--out`, as it is; nothing is decoded.
"""

import argparse
import sys
from collections.abc import Sequence

from blsp.cli import main as run_blsp
from blsp.errors import InputError
from blsp.hub import CONVERTED, Wishes, open_tables, plan_splits
from blsp.preparation import (
    add_label_options,
    build_parser,
    prepare_splits,
    read_labels,
    write_choices,
)

EXPECTED = "splits of parquet or audio files"


def main(argv: Sequence[str]) -> int:
    """Write one manifest for every split, or for those named."""
    options = _parse(argv)
    options.column.sort()
    source = str(options.root)
    named = dict(map(_read_pair, options.column))
    print(f"{source}: {options.license or 'its card names the licence; pass it on by --license'}")
    tables = open_tables(
        source, config=options.config, revision=options.revision, streaming=options.streaming
    )
    corpus = options.root.resolve().name if options.root.exists() else source
    labels = {**read_labels(options), "source": corpus}
    wishes = Wishes(named=named, untranscribed=options.untranscribed)
    root, splits = plan_splits(tables, wishes, out=options.out, labels=labels)
    choices = write_choices(options, "config", "revision", "column", "streaming")
    return prepare_splits(
        options, splits, program="hub", root=root, expected=EXPECTED, choices=choices
    )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = build_parser("hub", __doc__ or "", root="folder, .parquet file or hub id")
    parser.add_argument("--config", help="which of several configurations")
    parser.add_argument("--revision", help=f"branch, tag or commit on the hub, such as {CONVERTED}")
    parser.add_argument(
        "--streaming",
        action="store_true",
        help="leave the audio on the hub, where it is in parquet files: it is read in training",
    )
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="KEY=COLUMN",
        help="text=..., audio=..., id=..., emotion=..., translation_de=... or any key of yours",
    )
    add_label_options(parser, without="source")
    return parser.parse_args(argv)


def _read_pair(text: str) -> tuple[str, str]:
    key, _, column = text.partition("=")
    if not key or not column:
        raise InputError(f"--column: expected KEY=COLUMN, found {text!r}; write text=transcript")
    if key in ("start", "duration", "translation"):
        raise InputError(
            f"--column: expected a key that a column can fill, found {key!r}; lengths are "
            "measured, and a translation needs its language: translation_de=COLUMN"
        )
    return key, column


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "hub", *sys.argv[1:]]))
