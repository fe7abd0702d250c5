"""RAVDESS: eight emotions, two sentences, 24 actors; all in the names of the files.

`ROOT/Audio_Speech_Actors_01-24/Actor_<nn>/` holds names such as `03-01-06-01-02-01-12.wav`:
modality, channel, emotion, intensity, sentence, repetition, actor. The corpus has no parts, and is
mostly a test for models that never saw it: it becomes one manifest, `speech`. `--parts three` parts
the actors, women and men alike: 1 to 16 for train, 17 to 20 for dev, 21 to 24 for test; both
sentences are then in all three. A manifest that is finished is not made again.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from blsp.cli import main as run_blsp
from blsp.corpora import Candidate, Dropped, Item
from blsp.preparation import build_parser, prepare_splits

LABELS = {"language": "en", "license": "CC-BY-NC-SA-4.0", "source": "RAVDESS"}
NOTICE = "RAVDESS: CC BY-NC-SA 4.0 (not for commercial use), https://zenodo.org/record/1188976"
FOLDER = "Audio_Speech_Actors_01-24"
EXPECTED = f"{FOLDER}/Actor_<nn>/*.wav"
NAME = re.compile(
    r"03-01-(?P<emotion>0[1-8])-(?P<intensity>0[12])-(?P<sentence>0[12])-(?P<repetition>0[12])-"
    r"(?P<actor>\d\d)"
)
SONG = "03-02-"
THEIRS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
OURS = {"surprised": "surprise"}  # the word of the other corpora
INTENSITIES = ("normal", "strong")
SENTENCES = ("Kids are talking by the door", "Dogs are sitting by the door")
WHOLE = {"speech": range(1, 25)}
PARTS = {"train": range(1, 17), "dev": range(17, 21), "test": range(21, 25)}


def main(argv: Sequence[str]) -> int:
    """Write one manifest of all actors, or three."""
    options = _parse(argv)
    print(NOTICE)
    corpus = options.root / FOLDER if (options.root / FOLDER).is_dir() else options.root
    there = next(corpus.glob("Actor_*/*.wav"), None)
    parts = WHOLE if options.parts == "one" else PARTS
    splits = {name: partial(read_actors, corpus, actors) for name, actors in parts.items()}
    return prepare_splits(
        options,
        splits if there else {},
        program="ravdess",
        root=corpus,
        expected=EXPECTED,
        choices=["--parts", options.parts],
    )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = build_parser("ravdess", __doc__ or "")
    parser.add_argument(
        "--parts",
        choices=("one", "three"),
        default="one",
        help="all actors in one, or train, dev and test with actors of their own: one",
    )
    return parser.parse_args(argv)


def read_actors(corpus: Path, actors: range) -> Iterator[Item]:
    """Yield the recordings of some actors, by the names of their files."""
    for actor in actors:
        for path in sorted((corpus / f"Actor_{actor:02}").glob("[!.]*.wav")):
            found = NAME.fullmatch(path.stem)
            if found is None:
                song = path.name.startswith(SONG)
                yield Dropped("a song" if song else "a name of another form", str(path))
                continue
            label = THEIRS[int(found["emotion"]) - 1]
            yield Candidate(
                where=str(path),
                id=path.stem,
                audio=path.relative_to(corpus).as_posix(),
                text=SENTENCES[int(found["sentence"]) - 1],
                labels=LABELS
                | {"speaker": found["actor"], "emotion": OURS.get(label, label)}
                | {"emotion_label": label, "gender": "male" if actor % 2 else "female"}
                | {"intensity": INTENSITIES[int(found["intensity"]) - 1]},
            )


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "ravdess", *sys.argv[1:]]))
