"""LibriSpeech, mini-LibriSpeech, or any corpus laid out like them: one manifest a split.

`ROOT/LibriSpeech/<split>/<speaker>/<chapter>/` holds FLAC files and a `.trans.txt` with a line for
each. Its words are in capitals and without punctuation, which language models read poorly: they are
lower-cased unless told otherwise, or taken from LibriSpeech-PC, which restored both. A split that
is finished is not done again.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from blsp.cli import main as run_blsp
from blsp.errors import InputError, suggest
from blsp.preparation import (
    Candidate,
    Listing,
    describe_manifest,
    is_written,
    read_lines,
    write_manifest,
)

LABELS = {"language": "en", "license": "CC-BY-4.0", "source": "LibriSpeech"}
NOTICE = "LibriSpeech: CC BY 4.0, https://www.openslr.org/12 (credit its authors)"
NOTICE_PC = "LibriSpeech-PC transcripts: CC BY 4.0, https://www.openslr.org/145"


def main(argv: Sequence[str]) -> int:
    """Write one manifest for every split that is there, or for those named."""
    options = _parse(argv)
    if options.transcripts and options.case:
        raise InputError(
            "--case: expected it without --transcripts, whose words keep their case; leave it out"
        )
    print(NOTICE + (f"\n{NOTICE_PC}" if options.transcripts else ""))
    splits = find_splits(options.root)
    for name in options.splits or splits:
        if name not in splits:
            raise InputError(
                f"--splits: expected one in {options.root}, found {name!r}; {suggest(name, splits)}"
            )
        prepare_split(splits[name], options)
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="blsp prep librispeech", description="LibriSpeech on disk to one manifest a split."
    )
    parser.add_argument("root", type=Path, help="folder that holds LibriSpeech/, or that itself")
    parser.add_argument("--out", type=Path, required=True, help="folder for the manifests")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="default: all that are there")
    parser.add_argument(
        "--case", choices=("lower", "keep"), help="of the transcripts, in capitals on disk: lower"
    )
    parser.add_argument(
        "--transcripts", type=Path, help="folder of LibriSpeech-PC's <split>.json, to use instead"
    )
    return parser.parse_args(argv)


def find_splits(root: Path) -> dict[str, Path]:
    """Return name -> folder of the splits below `root`.

    Raises:
        InputError: there is none.
    """
    corpus = root / "LibriSpeech" if (root / "LibriSpeech").is_dir() else root
    folders = sorted(corpus.iterdir()) if corpus.is_dir() else []
    splits = {
        folder.name: folder
        for folder in folders
        if folder.is_dir() and next(folder.glob("*/*/*.trans.txt"), None)
    }
    if not splits:
        raise InputError(
            f"{root}: expected LibriSpeech/<split>/<speaker>/<chapter>/*.trans.txt below it, found "
            "none; name the folder in which the archives were unpacked"
        )
    return splits


def prepare_split(folder: Path, options: argparse.Namespace) -> None:
    """Write the manifest of one split and say what is in it; leave a finished one alone."""
    path = options.out / f"{folder.name}.jsonl"
    command = _command(folder.name, options)
    if is_written(path, command):
        print(describe_manifest(path))
        return
    restored = read_restored(options.transcripts, folder.name) if options.transcripts else None
    listing = list_split(folder, restored, capitals=options.case == "keep")
    write_manifest(path, listing, root=folder.parent, command=command)
    print(describe_manifest(path, listing))


def _command(split: str, options: argparse.Namespace) -> str:
    """The command that makes this one manifest, every choice written out."""
    words = ["blsp", "prep", "librispeech", str(options.root), "--out", str(options.out)]
    words += ["--splits", split]
    if options.transcripts:
        return shlex.join([*words, "--transcripts", str(options.transcripts)])
    return shlex.join([*words, "--case", options.case or "lower"])


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


def list_split(folder: Path, restored: Mapping[str, str] | None, *, capitals: bool) -> Listing:
    """Return the utterances of a split; `audio` is relative to the folder of all splits."""
    listing = Listing()
    for transcripts in sorted(folder.glob("*/*/*.trans.txt")):
        if transcripts.name.startswith("."):  # what macOS leaves behind
            continue
        chapter, listed = transcripts.parent, set()
        for where, name, words in _read_transcripts(transcripts):
            listed.add(name)
            if restored is not None and name not in restored:
                listing.drop("not in LibriSpeech-PC", f"{where}: {name}")
                continue
            text = words if capitals else words.lower()
            listing.add(
                Candidate(
                    where=where,
                    id=name,
                    audio=f"{chapter.relative_to(folder.parent).as_posix()}/{name}.flac",
                    text=text if restored is None else restored[name],
                    labels=LABELS | {"speaker": chapter.parent.name},
                )
            )
        for audio in sorted(chapter.glob("[!.]*.flac")):
            if audio.stem not in listed:
                listing.drop("audio without a transcript", str(audio))
    return listing


def _read_transcripts(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield place, id and words of every line; the first space separates the two."""
    for number, line in read_lines(path):
        name, _, words = line.strip().partition(" ")
        if name:
            yield f"{path}:{number}", name, " ".join(words.split())


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "librispeech", *sys.argv[1:]]))
