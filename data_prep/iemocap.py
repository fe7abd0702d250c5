"""IEMOCAP: emotion in acted dialogues of five pairs; each session is a split, for leave-one-out.

`ROOT/IEMOCAP_full_release/Session{1..5}/` holds a file a dialogue in `dialog/EmoEvaluation/` and in
`dialog/transcriptions/`, and the turns in `sentences/wav/`. The four classes of the literature are
neutral, happy (excited too), angry and sad: 5,531 turns. `--classes all` keeps the ten emotions
apart and leaves out only what the raters did not agree on. Sounds such as [LAUGHTER] are taken out
of the words; a turn of sounds alone stays, without words, because its emotion counts. A split that
is finished is not done again.
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
    read_lines,
)
from blsp.errors import InputError
from blsp.preparation import build_parser, prepare_splits

LABELS = {"language": "en", "license": "research-only", "source": "IEMOCAP"}
NOTICE = "IEMOCAP: research only, by a form of USC, https://sail.usc.edu/iemocap/"
FOLDER = "IEMOCAP_full_release"
EXPECTED = f"{FOLDER}/Session<n>/dialog/EmoEvaluation/Ses*.txt"
ALL = {
    "neu": "neutral",
    "hap": "happy",
    "exc": "excited",
    "ang": "angry",
    "sad": "sad",
    "fru": "frustrated",
    "fea": "fearful",
    "sur": "surprise",
    "dis": "disgust",
    "oth": "other",
}
CLASSES = {
    "four": {"neu": "neutral", "hap": "happy", "exc": "happy", "ang": "angry", "sad": "sad"},
    "all": ALL,
}
UNDECIDED = "xxx"
GENDERS = {"F": "female", "M": "male"}
RATING = re.compile(
    r"\[[\d.]+ - [\d.]+\]\s+(?P<name>Ses\w+_[FM]\d{3})\s+(?P<code>[a-z]{3})\s+"
    r"\[(?P<valence>[\d.]+), (?P<arousal>[\d.]+), (?P<dominance>[\d.]+)\]"
)
TURN = re.compile(r"(?P<name>Ses\w+) \[[\d.]+-[\d.]+\]:(?P<words>.*)")
SOUND = re.compile(r"\[[A-Z ]+\]")


def main(argv: Sequence[str]) -> int:
    """Write one manifest for every session that is there, or for those named."""
    options = _parse(argv)
    print(NOTICE)
    corpus = options.root / FOLDER if (options.root / FOLDER).is_dir() else options.root
    splits = {
        session.name.lower(): partial(read_session, session, options.classes)
        for session in sorted(corpus.glob("Session[1-5]"))
    }
    return prepare_splits(
        options,
        splits,
        program="iemocap",
        root=corpus,
        expected=EXPECTED,
        choices=["--classes", options.classes],
    )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = build_parser("iemocap", __doc__ or "")
    parser.add_argument(
        "--classes",
        choices=tuple(CLASSES),
        default="four",
        help="neutral, happy (excited too), angry and sad; or each emotion on its own: four",
    )
    return parser.parse_args(argv)


def read_session(session: Path, classes: str) -> Iterator[Item]:
    """Yield the rated turns of a session; `audio` is relative to the folder above it."""
    for ratings in sorted((session / "dialog" / "EmoEvaluation").glob("Ses*.txt")):
        dialogue = ratings.stem
        words = read_words(session / "dialog" / "transcriptions" / ratings.name)
        for where, found in read_ratings(ratings):
            name, code = found["name"], found["code"]
            emotion = find_emotion(code, classes, where)
            if isinstance(emotion, Dropped):
                yield emotion
                continue
            gender = name[-4]
            yield Candidate(
                where=where,
                id=name,
                audio=f"{session.name}/sentences/wav/{name.rpartition('_')[0]}/{name}.wav",
                text=words.get(name) or None,
                labels=LABELS
                | {"speaker": f"{name[:5]}{gender}", "emotion": emotion, "emotion_label": code}
                | {"gender": GENDERS[gender], "dialogue": dialogue}
                | {"style": "improvised" if "_impro" in dialogue else "scripted"}
                | {key: float(found[key]) for key in ("valence", "arousal", "dominance")},
            )


def read_ratings(path: Path) -> Iterator[tuple[str, re.Match[str]]]:
    """Yield place and parts of what the raters agreed on; their own votes follow each line."""
    for number, line in read_lines(path):
        if not line.startswith("["):
            continue
        found = RATING.fullmatch(line.strip())
        if found is None:
            raise InputError(
                f"{path}:{number}: expected [start - end], turn, emotion and [V, A, D], found "
                f"{line[:60]!r}; use the file of the corpus as it is"
            )
        yield f"{path}:{number}", found


def find_emotion(code: str, classes: str, where: str) -> str | Dropped:
    """Return the emotion of a code, or why the turn is left out."""
    if code == UNDECIDED:
        return Dropped("no emotion that the raters agreed on", where)
    if code not in ALL:
        raise InputError(
            f"{where}: expected an emotion of {', '.join(ALL)}, {UNDECIDED}, found {code!r}; use "
            "the file of the corpus as it is"
        )
    if code not in CLASSES[classes]:
        return Dropped(f"an emotion outside the {classes} classes", f"{where}: {code}")
    return CLASSES[classes][code]


def read_words(path: Path) -> dict[str, str]:
    """Return turn -> words, without sounds; other lines are asides that nobody rated."""
    turns = (TURN.fullmatch(line.strip()) for _, line in read_lines(path))
    return {turn["name"]: " ".join(SOUND.sub(" ", turn["words"]).split()) for turn in turns if turn}


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "iemocap", *sys.argv[1:]]))
