"""MELD: emotion in the dialogues of a television series, seven emotions and sentiment.

`ROOT/MELD.Raw/` holds `train_sent_emo.csv`, `dev_sent_emo.csv` and `test_sent_emo.csv`, and the
clips `dia<n>_utt<n>.mp4` in the folders of three archives, unpacked there or in `train/`, `dev/`
and `test/`. The sound of a clip is taken from a WAV of its name beside it if the corpus has such
files, else drawn with the `ffmpeg` on your PATH into 16 kHz FLAC files below `--out`, which are
kept: an interrupted run goes on where it was. Four clips are known to be bad and are left out. A
split that is finished is not done again.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from blsp.audio import SAMPLING_RATE
from blsp.cli import main as run_blsp
from blsp.corpora import (
    Candidate,
    Dropped,
    Item,
    read_table,
)
from blsp.errors import InputError
from blsp.files import atomic_path
from blsp.preparation import build_parser, prepare_splits

LABELS = {"language": "en", "license": "research-only", "source": "MELD"}
NOTICE = (
    "MELD: annotations GPL-3.0, sound from a television series whose owners keep their rights "
    "(research only), https://github.com/declare-lab/MELD"
)
FOLDER = "MELD.Raw"
CLIPS = {
    "train": "train_splits",
    "dev": "dev_splits_complete",
    "test": "output_repeated_splits_test",
}
EXPECTED = f"{FOLDER}/<split>_sent_emo.csv"
COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID")
EMOTIONS = {
    "neutral": "neutral",
    "joy": "happy",
    "sadness": "sad",
    "anger": "angry",
    "surprise": "surprise",
    "fear": "fearful",
    "disgust": "disgust",
}
# Broken, missing, and twice minutes long with one line in it.
BAD = {
    ("train", "dia125_utt3"),
    ("dev", "dia110_utt7"),
    ("test", "dia38_utt4"),
    ("test", "dia220_utt0"),
}
# Typographic marks of Windows that some copies of the tables carry as control characters.
MARKS = {i: bytes([i]).decode("cp1252", "ignore") for i in range(0x80, 0xA0)}


def main(argv: Sequence[str]) -> int:
    """Write one manifest for every split that is there, or for those named."""
    options = build_parser("meld", __doc__ or "").parse_args(argv)
    print(NOTICE)
    corpus = options.root / FOLDER if (options.root / FOLDER).is_dir() else options.root
    clips = {split: find_clips(corpus, split) for split in CLIPS}
    given = any(next(folder.glob("dia*.wav"), None) for folder in clips.values())
    splits = {}
    for split, folder in clips.items():
        if (table := find_table(corpus, split)) is None:
            continue
        if given:
            beside = f"{folder.relative_to(corpus).as_posix()}/{{}}.wav"
            splits[split] = partial(read_split, table, split, audio=beside)
        else:
            splits[split] = partial(convert_split, table, split, clips=folder, out=options.out)
    root = corpus if given else options.out
    return prepare_splits(options, splits, program="meld", root=root, expected=EXPECTED)


def find_table(corpus: Path, split: str) -> Path | None:
    """Return the table of a split; that of train comes in the archive of its clips."""
    name = f"{split}_sent_emo.csv"
    return next((path for path in (corpus / name, corpus / split / name) if path.exists()), None)


def find_clips(corpus: Path, split: str) -> Path:
    """Return the folder of a split's clips, which need not be there."""
    inside = corpus / split / CLIPS[split]
    return inside if inside.is_dir() else corpus / CLIPS[split]


def read_split(table: Path, split: str, *, audio: str) -> Iterator[Item]:
    """Yield the clips of a split; `audio` is where each lies, with {} for its name."""
    for line in read_table(table, COLUMNS, delimiter=","):
        if isinstance(line, Dropped):
            yield line
            continue
        where, row = line
        dialogue, number, label = row["Dialogue_ID"], row["Utterance_ID"], row["Emotion"]
        name = f"dia{dialogue}_utt{number}"
        if label not in EMOTIONS or not (dialogue + number).isdecimal():
            raise InputError(
                f"{where}: expected numbers of dialogue and utterance and an emotion of "
                f"{', '.join(EMOTIONS)}, found {name} and {label!r}; use the file of the corpus "
                "as it is"
            )
        if (split, name) in BAD:
            yield Dropped("a clip known to be bad", f"{where}: {name}")
            continue
        yield Candidate(
            where=where,
            id=f"{split}_{name}",  # dialogues are counted anew in each split
            audio=audio.format(name),
            text=" ".join(row["Utterance"].translate(MARKS).split()),
            labels=LABELS
            | {"speaker": row["Speaker"].translate(MARKS), "emotion": EMOTIONS[label]}
            | {"emotion_label": label, "sentiment": row["Sentiment"], "dialogue": int(dialogue)},
        )


# --- sound of clips -------------------------------------------------------------------------------


def convert_split(table: Path, split: str, *, clips: Path, out: Path) -> Iterator[Item]:
    """Yield the clips of a split, whose sound is then in `out`.

    Raises:
        InputError: there is no ffmpeg, or no room.
    """
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        raise InputError(
            f"{clips}: expected a WAV beside each clip, or ffmpeg on the PATH to draw the sound "
            "from .mp4, found neither; install it (apt install ffmpeg, brew install ffmpeg) or "
            "convert each diaX_uttY.mp4 to diaX_uttY.wav in that folder"
        )
    items = read_split(table, split, audio=f"audio/{split}/{{}}.flac")
    convert = partial(_convert, clips=clips, out=out, ffmpeg=ffmpeg)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        yield from threads.map(convert, items)


def _convert(item: Item, *, clips: Path, out: Path, ffmpeg: str) -> Item:
    """Draw the sound of a clip unless that is done; return the clip, or why it has none."""
    if isinstance(item, Dropped) or (target := out / item.audio).exists():
        return item
    clip = clips / f"{target.stem}.mp4"
    if not clip.exists():
        return Dropped("no clip", f"{item.where}: {clip}")
    try:
        with atomic_path(target) as temporary:
            _draw_sound(ffmpeg, clip, temporary)
    except subprocess.CalledProcessError as error:
        why = error.stderr.strip().rpartition("\n")[2]
        if "No space left" in why:
            raise InputError(f"{target}: expected room for it, found: {why}; free space") from error
        return Dropped("a clip that ffmpeg cannot read", f"{item.where}: {clip}: {why}")
    return item


def _draw_sound(ffmpeg: str, clip: Path, target: Path) -> None:
    words = [ffmpeg, "-nostdin", "-v", "error", "-y", "-i", str(clip), "-vn"]
    words += ["-ac", "1", "-ar", str(SAMPLING_RATE), "-f", "flac", str(target)]
    subprocess.run(words, check=True, capture_output=True, text=True, errors="replace")


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "meld", *sys.argv[1:]]))
