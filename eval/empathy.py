"""Empathy: whether the same words in different emotions get different, fitting replies.

    blsp bench empathy CHECKPOINT --manifest emotions.jsonl
    python -m eval.empathy CHECKPOINT --manifest emotions.jsonl --lexicon tiny \\
        --instruction 'Reply to the speaker'

Only utterances count whose `text` the manifest has in two emotions or more. `distinct` is the share
of pairs of the same words in different emotions whose replies differ: none for the text bound. It
says that something is heard, not that it is understood; where Whisper hears the same words
differently, the cascade has some. `fitting` needs a lexicon (YAML, emotion: [phrases that only a
reply to it has]): the share of replies with a phrase of their own emotion and of no other.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from blsp.errors import InputError
from blsp.evaluate import VOICED, build_parser, find_values, load_sets, run_tasks, write_command
from blsp.results import RANDOM
from blsp.tasks import Task
from blsp.testsets import TestSet

INSTRUCTION = "{audio}"
LEXICONS = {"tiny": "tiny/lexicon.yaml"}
"""Name of a lexicon in the package -> where it lies."""


def main(argv: Sequence[str] | None = None) -> int:
    """Score a checkpoint; returns the exit code."""
    # A random emotion's name is no reply.
    systems = [system for system in VOICED if system != RANDOM]
    parser = build_parser("empathy", __doc__ or "", systems=systems)
    parser.add_argument(
        "--lexicon", help=f"YAML file of emotion: [phrases], or {', '.join(LEXICONS)}"
    )
    options = parser.parse_args(argv)
    sets = [keep_contrasts(one) for one in load_sets(options)]
    phrases = load_lexicon(options.lexicon) if options.lexicon else {}
    for emotion in find_values(sets, "emotion") if phrases else ():
        if emotion not in phrases:
            raise InputError(
                f"{options.lexicon}: expected every emotion of the manifests, found {emotion!r} "
                "missing; add it, with an empty list if its replies have no phrases of their own"
            )
    task = Task(
        name="empathy",
        prompts=tuple(options.instruction or [INSTRUCTION]),
        reference="emotion",
        metrics=("fitting", "distinct") if phrases else ("distinct",),
        group="text",
        phrases=phrases,
        held_out=options.held_out,
    )
    return run_tasks(options, [task], sets, command=write_command("empathy", argv))


def keep_contrasts(test_set: TestSet) -> TestSet:
    """Return the utterances whose words the set has in two emotions or more.

    Raises:
        InputError: there are none.
    """
    emotions: dict[str, set[str]] = {}
    for one in test_set.utterances:
        if one.text and one.emotion:
            emotions.setdefault(one.text, set()).add(one.emotion)
    kept = tuple(
        one
        for one in test_set.utterances
        if one.text and one.emotion and len(emotions[one.text]) > 1
    )
    if not kept:
        raise InputError(
            f"{test_set.manifest}: expected the same text in two emotions, found none among "
            f"{len(test_set.utterances)} utterances; name a manifest that has it, or raise --limit"
        )
    return replace(test_set, utterances=kept)


def load_lexicon(name: str) -> dict[str, tuple[str, ...]]:
    """Load emotion -> phrases from a file, or a lexicon of the package by its name.

    Raises:
        InputError: no such file, or not of that form.
    """
    path = Path(str(files("blsp") / LEXICONS[name])) if name in LEXICONS else Path(name)
    try:
        found: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{name}: expected a YAML file or one of {', '.join(LEXICONS)}, found: {reason}; check "
            "the path"
        ) from error
    if not isinstance(found, dict) or not found:
        raise InputError(f"{name}: expected lines of `emotion: [phrases]`, found none; write some")
    for emotion, texts in found.items():
        if not isinstance(emotion, str) or not (
            isinstance(texts, list) and all(isinstance(text, str) for text in texts)
        ):
            raise InputError(
                f"{name}: expected `emotion: [phrases]` of texts, found {emotion!r}: {texts!r}; "
                "put texts in quotes and phrases in a list"
            )
    return {emotion: tuple(texts) for emotion, texts in found.items()}


if __name__ == "__main__":
    sys.exit(main())
