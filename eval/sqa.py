"""Spoken question answering: short answers, or a letter, on any manifest with right answers.

    blsp bench sqa CHECKPOINT --manifest spoken_squad-test.jsonl
    python -m eval.sqa CHECKPOINT --manifest voicebench/sd-qa-usa.jsonl --max-new-tokens 32
    blsp bench sqa CHECKPOINT --manifest openbookqa.jsonl --systems speech,cascade
    blsp bench sqa CHECKPOINT --corpus voicebench_openbookqa --data data/voicebench

What is heard is the question, or, where the manifest has `question`, a passage to which that
question in writing belongs; a `context` in writing stands before. Right answers are `answers` (a
list), else `answer`, else `reference`. They are scored by SQuAD's exact match and F1, again after
Whisper's normaliser (`spoken_em`, `spoken_f1`: "fifty" is "50"), and by whether a right answer is
contained, which forgives a model that answers in sentences. Where every right answer is a letter A
to D (VoiceBench's multiple choice), or the manifest has `choices`, a letter is asked for and read
out as VoiceBench does; where that benchmark would draw a letter, ours is wrong and counted. So it
is with its questions of BIG-Bench Hard, whose right answers are yes and no, (A) and (B).
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from blsp.errors import InputError
from blsp.evaluate import build_parser, choose_prompts, load_sets, run_tasks, write_command
from blsp.manifest import Utterance
from blsp.metrics import CONCLUSIONS, TASKS
from blsp.tasks import MetricName, Task
from blsp.testsets import TestSet

HEARD = "Answer the question with as few words as possible, not with a sentence.\n{audio}"
READ = (
    "Listen to the passage and answer the question about it with as few of its words as possible, "
    "not with a sentence.\nQuestion: {question}\n{audio}"
)
LETTER = "Answer the question with the letter of the right option and nothing else.\n{audio}"
READ_LETTER = (
    "Listen to the passage and answer the question about it with the letter of the right option "
    "and nothing else.\nQuestion: {question}\n{audio}"
)
CONCLUSION = (
    'Answer the question and end with "The answer is" and yes or no, or the right option.\n{audio}'
)
OPTIONS = "Options:\n{choices}\n{audio}"
CONTEXT = "{context}\n\n"

ANSWERS = ("answers", "answer", "reference")
SHORT_METRICS: tuple[MetricName, ...] = (
    "squad_em",
    "squad_f1",
    "contains_gold",
    "spoken_em",
    "spoken_f1",
)
CHOICE_METRICS: tuple[MetricName, ...] = ("choice_accuracy", "unparsed_choices")
CONCLUSION_METRICS: tuple[MetricName, ...] = ("conclusion_accuracy", "unparsed_conclusions")
LETTERS = ("A", "B", "C", "D")


def main(argv: Sequence[str] | None = None) -> int:
    """Score a checkpoint; returns the exit code."""
    parser = build_parser("sqa", __doc__ or "")
    parser.add_argument(
        "--reference", help=f"key of the answers (default: of {', '.join(ANSWERS)})"
    )
    parser.add_argument("--language", default="en", help="of the answers (default en)")
    options = parser.parse_args(argv)
    sets = load_sets(options)
    key = options.reference or find_answers(sets, options.manifest)
    if is_choice(sets, key):
        sets = tuple(name_letters(one, key) for one in sets)
    task = build_task(options, sets, key)
    return run_tasks(options, [task], sets, command=write_command("sqa", argv))


def build_task(options: argparse.Namespace, sets: Sequence[TestSet], key: str) -> Task:
    """Return what is asked: about a passage or not, for words, a letter or a conclusion.

    Raises:
        InputError: some utterances have what the prompt needs (a question, options) and some not.
    """
    choice, conclusion = is_choice(sets, key), is_conclusion(sets, key)
    fills = tuple(name for name in ("context", "question", "choices") if has_all(sets, name))
    prompt = CONCLUSION if conclusion else build_prompt(fills, choice=choice)
    metrics = CHOICE_METRICS if choice else SHORT_METRICS
    return Task(
        name="sqa",
        prompts=tuple(choose_prompts(options, prompt)),
        reference=key,
        metrics=options.official.metrics or (CONCLUSION_METRICS if conclusion else metrics),
        language=options.language,
        held_out=options.held_out,
        fills=fills,
    )


def build_prompt(fills: Sequence[str], *, choice: bool) -> str:
    """Return the instruction for manifests that have these keys."""
    if "question" in fills:
        prompt = READ_LETTER if choice else READ
    else:
        prompt = LETTER if choice else HEARD
    if "choices" in fills:
        prompt = prompt.replace("{audio}", OPTIONS)
    return CONTEXT + prompt if "context" in fills else prompt


def find_answers(sets: Sequence[TestSet], manifests: Sequence[str]) -> str:
    """Return the key of the right answers.

    Raises:
        InputError: no utterance has any of them.
    """
    for key in ANSWERS:
        if any(one.extra.get(key) for each in sets for one in each.utterances):
            return key
    raise InputError(
        f"expected one of {', '.join(ANSWERS)} in the utterances of {', '.join(manifests)}, found "
        "none; add it, or name the key with --reference"
    )


def is_choice(sets: Sequence[TestSet], key: str) -> bool:
    """Whether letters are asked for: there are options, or all right answers are letters."""
    rows = [one for each in sets for one in each.utterances]
    answers = [one.extra[key] for one in rows if one.extra.get(key)]
    if not answers:
        return False
    return any(one.extra.get("choices") for one in rows) or all(x in LETTERS for x in answers)


def is_conclusion(sets: Sequence[TestSet], key: str) -> bool:
    """Whether all are questions of BIG-Bench Hard: by their ids, and by what is right."""
    rows = [one for each in sets for one in each.utterances if one.extra.get(key)]
    return bool(rows) and all(
        str(one.extra[key]).lower() in CONCLUSIONS and any(task in one.id for task in TASKS)
        for one in rows
    )


def has_all(sets: Sequence[TestSet], key: str) -> bool:
    """Whether the utterances have a key: all of them, or none.

    Raises:
        InputError: some have it.
    """
    lacking = [one.id for each in sets for one in each.utterances if not one.extra.get(key)]
    if lacking and len(lacking) < sum(len(each.utterances) for each in sets):
        raise InputError(
            f"expected {key!r} in all utterances or in none, found {len(lacking)} without (the "
            f"first is {lacking[0]!r}); score them in runs of their own"
        )
    return not lacking


def name_letters(test_set: TestSet, key: str) -> TestSet:
    """Return the set with the letter of the right option where its text stands."""
    rows = [replace(one, extra=_name_letter(one, key)) for one in test_set.utterances]
    return replace(test_set, utterances=tuple(rows))


def _name_letter(one: Utterance, key: str) -> dict[str, Any]:
    right, choices = one.extra.get(key), one.extra.get("choices")
    if not right or right in LETTERS:
        return dict(one.extra)
    options = choices if isinstance(choices, list) else []
    text = right[0] if isinstance(right, list) and len(right) == 1 else right
    if text not in options or len(options) > len(LETTERS):
        raise InputError(
            f"utterance {one.id!r}: expected the right answer as a letter or one of at most "
            f"{len(LETTERS)} `choices`, found {text!r} of {options}; correct the line"
        )
    return dict(one.extra) | {key: LETTERS[options.index(text)]}


if __name__ == "__main__":
    sys.exit(main())
