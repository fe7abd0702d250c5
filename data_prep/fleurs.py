"""FLEURS: FLoRes sentences read in 102 languages, for recognition and speech translation.

`<language>/{train,dev,test}.tsv` lie in ROOT, in `ROOT/data` or in `ROOT/metadata`, with the WAV
files below them or, as lhotse downloads them, in `ROOT/<language>`. One language a run. All
languages share the ids of sentences: with `--translate-to de_de,fr_fr` the sentence in those is put
beside the speech as `translation: {de: ..., fr: ...}`. Words keep case and punctuation.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from blsp.cli import main as run_blsp
from blsp.corpora import (
    Candidate,
    Dropped,
    Item,
    read_lines,
)
from blsp.errors import InputError, suggest
from blsp.preparation import build_parser, choose_one, prepare_splits

LABELS = {"license": "CC-BY-4.0", "source": "FLEURS"}
NOTICE = "FLEURS: CC BY 4.0, https://huggingface.co/datasets/google/fleurs (credit its authors)"
EXPECTED = "<language>/test.tsv, such as en_us/test.tsv"
SPLITS = ("train", "dev", "test")
LANGUAGES = {"cmn": "zh"}  # as speech models call it; others are the part before the country


class Line(NamedTuple):
    """What a table says of a recording."""

    where: str
    sentence: str
    """The id that all languages share."""
    file: str
    raw: str
    """With case and punctuation."""
    plain: str
    speaker: str
    gender: str


def main(argv: Sequence[str]) -> int:
    """Write one manifest for every split of a language, or for those named."""
    options = _parse(argv)
    print(NOTICE)
    corpus, languages = find_corpus(options.root)
    splits, choices = dict[str, partial[Iterator[Item]]](), list[str]()
    if languages:
        name = choose_one("--language", options.language, languages, root=options.root)
        targets = _find_targets(options, languages)
        choices = ["--language", name]
        choices += ["--translate-to", options.translate_to] if targets else []
        for split in SPLITS:
            table = languages[name] / f"{split}.tsv"
            if table.is_file():
                splits[split] = partial(read_split, corpus, table, targets)
    return prepare_splits(
        options, splits, program="fleurs", root=corpus, expected=EXPECTED, choices=choices
    )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = build_parser("fleurs", __doc__ or "")
    parser.add_argument("--language", help="of the speech, such as en_us (default: the only one)")
    parser.add_argument(
        "--translate-to", help="languages of the translations, with commas: de_de,fr_fr"
    )
    return parser.parse_args(argv)


def find_corpus(root: Path) -> tuple[Path, dict[str, Path]]:
    """Return what audio is relative to, and language -> folder of its tables."""
    for corpus in (root, root / "fleurs"):
        for inner in ("", "data", "metadata"):
            folders = {path.parent for path in (corpus / inner).glob("*_*/*.tsv")}
            if folders:
                return corpus, {folder.name: folder for folder in folders}
    return root, {}


def _find_targets(options: argparse.Namespace, languages: Mapping[str, Path]) -> list[Path]:
    """Return the folders of tables to translate to."""
    names = options.translate_to.split(",") if options.translate_to else []
    for name in names:
        if name not in languages:
            raise InputError(
                f"--translate-to: expected a language in {options.root}, found {name!r}; "
                f"{suggest(name, languages)}"
            )
    return [languages[name] for name in names]


def find_code(language: str) -> str:
    """Return `de` for `de_de`."""
    code = language.partition("_")[0]
    return LANGUAGES.get(code, code)


def read_split(corpus: Path, table: Path, targets: Sequence[Path]) -> Iterator[Item]:
    """Yield the recordings of a table, with the sentence in other languages."""
    audio = find_audio(corpus, table).relative_to(corpus).as_posix()
    texts = {find_code(each.name): read_sentences(each / table.name) for each in targets}
    for line in read_table_lines(table):
        if isinstance(line, Dropped):
            yield line
            continue
        absent = [code for code, sentences in texts.items() if line.sentence not in sentences]
        if absent:
            yield Dropped(f"no sentence in {absent[0]}", f"{line.where}: id {line.sentence}")
            continue
        said = {
            "translation": {code: each[line.sentence] for code, each in texts.items()},
            "speaker": line.speaker,
            "gender": line.gender.lower(),
        }
        labels = {"language": find_code(table.parent.name), "flores_id": line.sentence}
        yield Candidate(
            where=line.where,
            id=Path(line.file).stem,
            audio=f"{audio}/{line.file}",
            text=line.raw or line.plain,
            labels=LABELS | labels | {key: value for key, value in said.items() if value},
        )


def find_audio(corpus: Path, table: Path) -> Path:
    """Return the folder of WAV files of a split, wherever the archive was unpacked."""
    language, split = table.parent, table.stem
    places = [language / "audio" / split, language / split, corpus / language.name / split]
    return next((place for place in places if place.is_dir()), places[0])


def read_sentences(table: Path) -> dict[str, str]:
    """Return id -> sentence; of several readings of one the first counts."""
    sentences: dict[str, str] = {}
    for line in read_table_lines(table):
        if not isinstance(line, Dropped) and (line.raw or line.plain):
            sentences.setdefault(line.sentence, line.raw or line.plain)
    return sentences


def read_table_lines(table: Path) -> Iterator[Line | Dropped]:
    """Yield the lines of a table, which has no header and, if it is an early one, speakers."""
    for number, text in read_lines(table):
        where, cells = f"{table}:{number}", text.split("\t")
        if len(cells) in (7, 8):
            sentence, file, raw, plain = (" ".join(cell.split()) for cell in cells[:4])
            speaker = cells[6] if len(cells) == 8 else ""
            yield Line(where, sentence, file, raw, plain, speaker, cells[-1])
        elif text.strip():
            yield Dropped("a line without 7 or 8 cells", f"{where}: {len(cells)} cells")


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "fleurs", *sys.argv[1:]]))
