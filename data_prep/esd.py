"""ESD: the same 350 sentences in five emotions, by ten Mandarin and ten English speakers.

`ROOT/Emotion Speech Dataset/<speaker>/` holds `<speaker>.txt`, in one of three encodings, and a
folder an emotion; the emotion is the folder's name, since the text has it in Chinese or English.
Each language becomes train, evaluation and test, as `en-train`: a folder of that name where a copy
has them, else the official order of each emotion's 350, which is 20 for evaluation, 30 for test and
300 for train. So no sentence is in two parts. A split that is finished is not done again.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from blsp.cli import main as run_blsp
from blsp.corpora import Candidate, Dropped, Item
from blsp.errors import InputError
from blsp.preparation import build_parser, prepare_splits

LABELS = {"license": "research-only", "source": "ESD"}
NOTICE = (
    "ESD: research only, by a licence to sign, "
    "https://github.com/HLTSingapore/Emotional-Speech-Data"
)
FOLDER = "Emotion Speech Dataset"
EXPECTED = f"'{FOLDER}/<speaker>/<speaker>.txt' and <emotion>/*.wav beside it"
EMOTIONS = {
    "Neutral": "neutral",
    "Happy": "happy",
    "Sad": "sad",
    "Angry": "angry",
    "Surprise": "surprise",
}
PARTS = ("train", "evaluation", "test")
SENTENCES = 350  # of each emotion, numbered one emotion after the other
LAST_MANDARIN = 10
WOMEN = {1, 2, 3, 7, 9, 15, 16, 17, 18, 19}
NAME = re.compile(r"(?P<speaker>\d{4})_(?P<number>\d{6})")
# GBK reads almost any bytes, UTF-16 only those that say so here: the order decides.
ENCODINGS = ("utf-8-sig", "utf-16", "gbk")


def main(argv: Sequence[str]) -> int:
    """Write one manifest for every part of both languages, or for those named."""
    options = build_parser("esd", __doc__ or "").parse_args(argv)
    print(NOTICE)
    corpus = options.root / FOLDER if (options.root / FOLDER).is_dir() else options.root
    speakers = [path for path in sorted(corpus.glob("00[0-2][0-9]")) if path.is_dir()]
    splits = {}
    for language in sorted({find_language(speaker) for speaker in speakers}):
        own = [speaker for speaker in speakers if find_language(speaker) == language]
        for part in PARTS:
            splits[f"{language}-{part}"] = partial(read_part, own, part)
    return prepare_splits(options, splits, program="esd", root=corpus, expected=EXPECTED)


def find_language(speaker: Path) -> str:
    """Return the language of a speaker, who is a number."""
    return "zh" if int(speaker.name) <= LAST_MANDARIN else "en"


def read_part(speakers: Sequence[Path], part: str) -> Iterator[Item]:
    """Yield what some speakers say in one part; `audio` is relative to the folder of all."""
    for speaker in speakers:
        texts = read_texts(speaker / f"{speaker.name}.txt")
        labels = LABELS | {
            "language": find_language(speaker),
            "speaker": speaker.name,
            "gender": "female" if int(speaker.name) in WOMEN else "male",
        }
        for label, emotion in EMOTIONS.items():
            for path in sorted((speaker / label).rglob("[!.]*.wav")):
                item = read_recording(path, texts, part)
                if isinstance(item, Dropped):
                    yield item
                elif item is not None:
                    yield Candidate(
                        where=str(path),
                        id=path.stem,
                        audio=path.relative_to(speaker.parent).as_posix(),
                        text=item,
                        labels=labels | {"emotion": emotion, "emotion_label": label},
                    )


def read_recording(path: Path, texts: dict[str, str], part: str) -> str | Dropped | None:
    """Return the words of a recording, why it cannot be used, or None if it is of another part."""
    found = NAME.fullmatch(path.stem)
    if found is None:
        # Nobody knows which part it is of, so it is counted with the largest.
        return Dropped("a name of another form", str(path)) if part == PARTS[0] else None
    if find_part(path, int(found["number"])) != part:
        return None
    return texts.get(path.stem) or Dropped("audio without a transcript", str(path))


def find_part(path: Path, number: int) -> str:
    """Return the part of a recording: its folder's name, or by its place among its emotion's."""
    if path.parent.name in PARTS:
        return path.parent.name
    place = (number - 1) % SENTENCES
    return "evaluation" if place < 20 else "test" if place < 50 else "train"


def read_texts(path: Path) -> dict[str, str]:
    """Return recording -> words.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        rows = [line.split("\t") for line in _decode(path).splitlines()]
    except OSError as error:
        raise InputError(
            f"{path}: expected a text file, found: {error.strerror}; check the path"
        ) from error
    return {row[0].strip(): " ".join(row[1].split()) for row in rows if len(row) > 1}


def _decode(path: Path) -> str:
    data = path.read_bytes()
    for encoding in ENCODINGS:
        if encoding == "utf-16" and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
            continue
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise InputError(
        f"{path}: expected text in {', '.join(ENCODINGS)}, found none of them; save it as UTF-8"
    )


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "esd", *sys.argv[1:]]))
