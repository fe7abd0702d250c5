"""SLURP: commands to a home assistant, with intents and entities; one row a recording.

`ROOT/slurp/` is the corpus's repository: `dataset/slurp/<split>.jsonl` has one sentence a line with
its recordings, which lie in `audio/slurp_real/`, or `audio/slurp_synth/` for `train_synthetic`. The
intent is scenario and action, as the official scorer reads it: the corpus's own `intent` differs
from that in one sentence of seventy. It reads entities from the tokens too, lower-cased. Who speaks
comes from `metadata.json` where that is there. A split that is finished is not done again.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from blsp.cli import main as run_blsp
from blsp.corpora import (
    Candidate,
    Dropped,
    Item,
    read_lines,
)
from blsp.errors import InputError
from blsp.preparation import build_parser, prepare_splits

LABELS = {"language": "en", "license": "CC-BY-NC-4.0", "source": "SLURP"}
NOTICE = (
    "SLURP: text CC BY 4.0, audio CC BY-NC 4.0 (not for commercial use), "
    "https://github.com/pswietojanski/slurp"
)
TEXTS = "dataset/slurp"
EXPECTED = f"slurp/{TEXTS}/<split>.jsonl"
SYNTHETIC = "train_synthetic"
# F or M or UNK, then E (English) or O (other) for the first language, then a number.
SPEAKER = re.compile(r"(?P<gender>F|M|UNK)(?P<first>[EO]?)-\d+")
GENDERS = {"F": "female", "M": "male"}


def main(argv: Sequence[str]) -> int:
    """Write one manifest for every split that is there, or for those named."""
    options = build_parser("slurp", __doc__ or "").parse_args(argv)
    print(NOTICE)
    corpus = find_corpus(options.root)
    paths = sorted((corpus / TEXTS).glob("[!.]*.jsonl"))
    splits = {path.stem: partial(read_split, path, corpus) for path in paths}
    return prepare_splits(options, splits, program="slurp", root=corpus, expected=EXPECTED)


def find_corpus(root: Path) -> Path:
    """Return the repository: the folder named, or `slurp` in it."""
    return root / "slurp" if (root / "slurp" / TEXTS).is_dir() else root


def read_split(path: Path, corpus: Path) -> Iterator[Item]:
    """Yield the recordings of a split; `audio` is relative to the corpus."""
    synthetic = path.stem == SYNTHETIC
    folder = f"audio/{'slurp_synth' if synthetic else 'slurp_real'}"
    speakers = read_speakers(path.with_name("metadata.json"))
    seen: set[str] = set()
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        words, labels, recordings = parse_sentence(line, where)
        if not recordings:
            yield Dropped("a sentence without recordings", f"{where}: {words}")
        for file, quality in recordings:
            name = Path(file).stem
            if name in seen:
                yield Dropped("a recording listed before", f"{where}: {file}")
                continue
            seen.add(name)
            yield Candidate(
                where=where,
                id=name,
                audio=f"{folder}/{file}",
                text=words,
                labels=LABELS
                | labels
                | {"headset": name.endswith("-headset"), "synthetic": synthetic}
                | quality
                | describe_speaker(speakers.get(file)),
            )


def parse_sentence(
    line: str, where: str
) -> tuple[str, dict[str, Any], list[tuple[str, dict[str, Any]]]]:
    """Return the words, the labels of all its recordings, and each file with labels of its own.

    Raises:
        InputError: the line is no sentence of SLURP.
    """
    try:
        row = json.loads(line)
        tokens = [token["surface"].lower() for token in row["tokens"]]
        labels = {
            "intent": f"{row['scenario']}_{row['action']}",
            "scenario": row["scenario"],
            "action": row["action"],
            "entities": [_build_entity(entity, tokens) for entity in row["entities"]],
            "slurp_id": row["slurp_id"],
        }
        recordings = [(each["file"], _read_quality(each)) for each in row["recordings"]]
        return " ".join(row["sentence"].split()), labels, recordings
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise InputError(
            f"{where}: expected a JSON object with sentence, tokens, scenario, action, entities "
            f"and recordings, found {line[:60]!r}; use the file of the corpus as it is"
        ) from error


def _build_entity(entity: Mapping[str, Any], tokens: list[str]) -> dict[str, str]:
    return {"type": entity["type"], "filler": " ".join(tokens[i] for i in entity["span"])}


def _read_quality(recording: Mapping[str, Any]) -> dict[str, Any]:
    """Errors of a recogniser on the sentence and on its entities; synthetic speech has none."""
    return {key: recording[key] for key in ("wer", "ent_wer") if recording.get(key) is not None}


def read_speakers(path: Path) -> dict[str, str]:
    """Return file -> who speaks in it, such as `FO-488`; empty where the file is not there."""
    if not path.exists():
        return {}
    try:
        sentences = json.loads("".join(line for _, line in read_lines(path))).values()
        recordings = (each for sentence in sentences for each in sentence["recordings"].items())
        return {file: known["usrid"] for file, known in recordings if "usrid" in known}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path}: expected sentences with recordings and their usrid, found {error!r}; use the "
            "file of the corpus as it is, or delete it to go without speakers"
        ) from error


def describe_speaker(speaker: str | None) -> dict[str, Any]:
    """Return speaker, gender, and whether English is the first language, as far as is known."""
    if speaker is None:
        return {}
    labels: dict[str, Any] = {"speaker": speaker}
    if found := SPEAKER.fullmatch(speaker):
        if found["gender"] in GENDERS:
            labels["gender"] = GENDERS[found["gender"]]
        if found["first"]:
            labels["native"] = found["first"] == "E"
    return labels


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "slurp", *sys.argv[1:]]))
