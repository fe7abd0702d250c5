"""SNIPS SLU (Sonos): orders to lights and to a loudspeaker, with intents and slots.

`ROOT/snips_slu_data_v1.0/` holds a folder a set, such as `smart-lights-en-close-field`, and each
becomes a manifest of that name. Sets of lights have `config.json`, `dataset.json` and
`speech_corpus/`; sets of a loudspeaker have `metadata.json` and `test_dataset.json`, since only
their test was recorded. Recordings are joined with queries by their words; some queries have none.
The corpus is meant for cross-validation and has no parts: `fold`, 0 to 4, is the SHA-256 of the
words modulo 5, the same for close and far field. A set that is finished is not done again.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from blsp.cli import main as run_blsp
from blsp.corpora import (
    Candidate,
    Dropped,
    Item,
    read_lines,
)
from blsp.errors import InputError
from blsp.preparation import build_parser, prepare_splits

LABELS = {"license": "research-only", "source": "SNIPS SLU"}
NOTICE = (
    "SNIPS SLU: academic research only, by request, "
    "https://github.com/sonos/spoken-language-understanding-research-datasets"
)
FOLDER = "snips_slu_data_v1.0"
EXPECTED = f"{FOLDER}/smart-*/ with dataset.json or test_dataset.json"
FOLDS = 5


class Recording(NamedTuple):
    """One entry of a set's metadata."""

    words: str
    audio: str
    """Relative to the set."""
    labels: dict[str, Any]


def main(argv: Sequence[str]) -> int:
    """Write one manifest for every set that is there, or for those named."""
    options = build_parser("snips", __doc__ or "").parse_args(argv)
    print(NOTICE)
    corpus = options.root / FOLDER if (options.root / FOLDER).is_dir() else options.root
    splits = {path.parent.name: partial(read_lights, path) for path in find(corpus, "dataset.json")}
    for path in find(corpus, "test_dataset.json"):
        splits[path.parent.name] = partial(read_speaker, path)
    return prepare_splits(options, splits, program="snips", root=corpus, expected=EXPECTED)


def find(corpus: Path, name: str) -> list[Path]:
    """Return the files of that name in the folders of sets."""
    return sorted(corpus.glob(f"smart-*/{name}"))


def read_lights(dataset: Path) -> Iterator[Item]:
    """Yield the recordings of a set of lights."""
    metadata = dataset.parent / "speech_corpus" / "metadata.json"
    with _expecting(metadata, "an object of filename, text and worker"):
        found = [
            Recording(
                words=_plain(entry["text"]),
                audio=f"speech_corpus/audio/{entry['filename']}",
                labels=_describe_worker(entry.get("worker") or {}),
            )
            for entry in _read_json(metadata).values()
        ]
    yield from join(dataset, metadata, found)


def read_speaker(dataset: Path) -> Iterator[Item]:
    """Yield the recordings of a set of a loudspeaker."""
    metadata = dataset.with_name("metadata.json")
    with _expecting(metadata, "a list of text and path_file"):
        found = [
            Recording(words=_plain(entry["text"]), audio=entry["path_file"], labels={})
            for entry in _read_json(metadata)
        ]
    yield from join(dataset, metadata, found)


def join(dataset: Path, metadata: Path, recordings: Sequence[Recording]) -> Iterator[Item]:
    """Yield recordings with the intent and slots of the query that has their words."""
    name = dataset.parent.name
    language, queries = read_queries(dataset)
    for recording in recordings:
        if recording.words not in queries:
            yield Dropped("a recording of no query", f"{metadata}: {recording.audio}")
            continue
        fold = int(sha256(recording.words.encode()).hexdigest(), 16) % FOLDS
        yield Candidate(
            where=str(metadata),
            id=f"{name}-{PurePosixPath(recording.audio).stem}",
            audio=f"{name}/{recording.audio}",
            text=recording.words,
            labels=LABELS
            | {"language": language, "fold": fold}
            | queries[recording.words]
            | recording.labels,
        )
    recorded = {recording.words for recording in recordings}
    for words in queries:
        if words not in recorded:
            yield Dropped("a query without a recording", f"{dataset}: {words}")


def read_queries(dataset: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    """Return the language, and words -> intent and entities."""
    queries: dict[str, dict[str, Any]] = {}
    with _expecting(dataset, "intents with utterances of chunks of text"):
        content = _read_json(dataset)
        for intent, values in content["intents"].items():
            for utterance in values["utterances"]:
                chunks = utterance["data"]
                entities = [
                    {"type": chunk["slot_name"], "filler": _plain(chunk["text"])}
                    for chunk in chunks
                    if "entity" in chunk
                ]
                words = _plain("".join(chunk["text"] for chunk in chunks))
                queries.setdefault(words, {"intent": intent, "entities": entities})
        return content["language"], queries


def _plain(words: str) -> str:
    return " ".join(words.split())


def _describe_worker(worker: Mapping[str, Any]) -> dict[str, Any]:
    """Return who spoke, as far as is told."""
    found = {key: worker[key] for key in ("age", "country") if worker.get(key) is not None}
    if worker.get("gender"):
        found["gender"] = worker["gender"].lower()
    if worker.get("id") is not None:
        found["speaker"] = str(worker["id"])
    return found


def _read_json(path: Path) -> Any:
    return json.loads("\n".join(line for _, line in read_lines(path)))


@contextmanager
def _expecting(path: Path, form: str) -> Iterator[None]:
    """Turn what a file of another form raises into one line that names it."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path}: expected {form}, found {type(error).__name__}: {error}; use the file of the "
            "corpus as it is"
        ) from error


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "snips", *sys.argv[1:]]))
