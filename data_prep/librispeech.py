"""LibriSpeech, mini-LibriSpeech, or any corpus laid out like them: one manifest a split.

`ROOT/LibriSpeech/<split>/<speaker>/<chapter>/` holds FLAC files and a `.trans.txt` with a line for
each. Its words are in capitals and without punctuation, which language models read poorly: they are
lower-cased unless told otherwise, or taken from LibriSpeech-PC, which restored both. A split that
is finished is not done again.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from blsp.cli import main as run_blsp
from blsp.corpora import (
    Candidate,
    Dropped,
    Item,
    read_lines,
)
from blsp.errors import InputError
from blsp.preparation import build_parser, prepare_splits

LABELS = {"language": "en", "license": "CC-BY-4.0", "source": "LibriSpeech"}
NOTICE = "LibriSpeech: CC BY 4.0, https://www.openslr.org/12 (credit its authors)"
TRANSCRIPTS = "*/*/*.trans.txt"
EXPECTED = "LibriSpeech/<split>/<speaker>/<chapter>/*.trans.txt"
NOTICE_PC = "LibriSpeech-PC transcripts: CC BY 4.0, https://www.openslr.org/145"


def main(argv: Sequence[str]) -> int:
    """Write one manifest for every split that is there, or for those named."""
    options = _parse(argv)
    if options.transcripts and options.case:
        raise InputError(
            "--case: expected it without --transcripts, whose words keep their case; leave it out"
        )
    print(NOTICE + (f"\n{NOTICE_PC}" if options.transcripts else ""))
    choices = ["--case", options.case or "lower"]
    if options.transcripts:
        choices = ["--transcripts", str(options.transcripts)]
    corpus = find_corpus(options.root)
    splits = {folder.name: partial(read_split, folder, options) for folder in find_splits(corpus)}
    return prepare_splits(
        options, splits, program="librispeech", root=corpus, expected=EXPECTED, choices=choices
    )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = build_parser("librispeech", __doc__ or "")
    parser.add_argument(
        "--case", choices=("lower", "keep"), help="of the transcripts, in capitals on disk: lower"
    )
    parser.add_argument(
        "--transcripts", type=Path, help="folder of LibriSpeech-PC's <split>.json, to use instead"
    )
    return parser.parse_args(argv)


def find_corpus(root: Path) -> Path:
    """Return the folder of all splits: the one named, or `LibriSpeech` in it."""
    return root / "LibriSpeech" if (root / "LibriSpeech").is_dir() else root


def find_splits(corpus: Path) -> list[Path]:
    """Return the folders that hold transcripts."""
    folders = sorted(corpus.iterdir()) if corpus.is_dir() else []
    return [each for each in folders if each.is_dir() and next(each.glob(TRANSCRIPTS), None)]


def read_restored(folder: Path, split: str) -> dict[str, str]:
    """Return id -> words with case and punctuation, from the JSON lines of LibriSpeech-PC."""
    path, words = folder / f"{split}.json", {}
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            words[Path(row["audio_filepath"]).stem] = " ".join(row["text"].split())
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"{path}:{number}: expected a JSON object with audio_filepath and text, found "
                f"{line[:60]!r}; use the manifests of https://www.openslr.org/145"
            ) from error
    return words


def read_split(folder: Path, options: argparse.Namespace) -> Iterator[Item]:
    """Yield the utterances of a split; `audio` is relative to the folder of all splits."""
    restored = read_restored(options.transcripts, folder.name) if options.transcripts else None
    for transcripts in sorted(folder.glob(TRANSCRIPTS)):
        if transcripts.name.startswith("."):  # what macOS leaves behind
            continue
        chapter, listed = transcripts.parent, set()
        for where, name, words in _read_transcripts(transcripts):
            listed.add(name)
            if restored is not None and name not in restored:
                yield Dropped("not in LibriSpeech-PC", f"{where}: {name}")
                continue
            text = words if options.case == "keep" else words.lower()
            yield Candidate(
                where=where,
                id=name,
                audio=f"{chapter.relative_to(folder.parent).as_posix()}/{name}.flac",
                text=text if restored is None else restored[name],
                labels=LABELS | {"speaker": chapter.parent.name},
            )
        for audio in sorted(chapter.glob("[!.]*.flac")):
            if audio.stem not in listed:
                yield Dropped("audio without a transcript", str(audio))


def _read_transcripts(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield place, id and words of every line; the first space separates the two."""
    for number, line in read_lines(path):
        name, _, words = line.strip().partition(" ")
        if name:
            yield f"{path}:{number}", name, " ".join(words.split())


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "librispeech", *sys.argv[1:]]))
