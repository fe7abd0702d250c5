"""What was asked, in words, and what was answered: all that a judge of a run needs to see.

A run writes down what the text bound reads (`questions.json`: `words`, condition -> id -> what is
said in the recording; `questions`, condition -> task -> id -> prompt and words together), so that
answers can be judged where neither manifest nor audio lie. A benchmark's questions enter; the
`Subject`s of a run folder leave, equal answers to one question once.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from blsp.errors import InputError, suggest
from blsp.judgements import Key
from blsp.manifest import TextPart, Utterance
from blsp.metrics import read_golds
from blsp.prediction_log import MISSING, PredictionLog
from blsp.results import TRANSCRIPT, asked, predictions_of, read_run, write_json
from blsp.tasks import GOLDS, Task, build_messages

FILE = "questions.json"


class Subject(NamedTuple):
    """An answer that is to be scored."""

    key: Key
    question: str
    """What the text bound reads."""
    words: str
    """What is said in the recording."""
    references: tuple[str, ...]
    """The right answer, or several."""


def write_questions(folder: Path, found: Iterable[tuple[str, Task, Utterance]]) -> None:
    """Write what is asked, joined with what an earlier part of the run wrote.

    Args:
        folder: of the run.
        found: condition, task and utterance; one without words is left out.
    """
    path = folder / FILE
    known: dict[str, Any] = {"words": {}, "questions": {}}
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
    for condition, task, utterance in found:
        if utterance.text:
            known["words"].setdefault(condition, {})[utterance.id] = utterance.text
            by_task = known["questions"].setdefault(condition, {})
            by_task.setdefault(task.name, {})[utterance.id] = _write_out(task, utterance)
    write_json(path, known)


def _write_out(task: Task, utterance: Utterance) -> str:
    """The prompt with the words where the recording stands."""
    (message,) = build_messages(task.ask(utterance), utterance, utterance.text or "")
    parts = message.content
    return "".join(p.text if isinstance(p, TextPart) else p.transcript for p in parts).strip()


def find_subjects(folder: Path, task: str | None, systems: Sequence[str]) -> list[Subject]:
    """Return the answers to a task, each distinct one to a question once.

    Args:
        folder: of a run.
        task: its name; None where the run has only one.
        systems: whose answers; none: of all.

    Raises:
        InputError: no run or task, a system without answers, or a question without words.
    """
    run, log = read_run(folder), PredictionLog(folder)
    name, written = _choose_task([one["name"] for one in run["tasks"]], task), _read(folder)
    subjects: dict[Key, Subject] = {}
    seen: set[str] = set()
    for one, condition in asked(run):
        if one.name != name:
            continue
        answers = predictions_of(log, name, condition)
        for system in systems or answers:
            for row in answers.get(system, {}).values():
                seen.add(system)
                key = Key(name, condition, row.id, row.prediction)
                if row.finish_reason != MISSING and key not in subjects:
                    subjects[key] = _subject(one, key, row.reference, written)
    lacking = sorted(set(systems) - seen)
    if lacking or not subjects:
        raise InputError(
            f"{folder}: expected answers of {lacking[0] if lacking else 'a system'!r} to {name!r}, "
            "found none; name systems that were asked"
        )
    return list(subjects.values())


def _choose_task(known: Sequence[str], task: str | None) -> str:
    names = [name for name in known if name != TRANSCRIPT]
    if task in names:
        return task
    if task is not None:
        raise InputError(f"--task: expected one of the run, found {task!r}; {suggest(task, names)}")
    if len(names) != 1:
        raise InputError(
            f"expected --task, since the run has {', '.join(names)}, found none; name one"
        )
    return names[0]


def _read(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: expected what was asked, found nothing that can be read ({error}); call the "
            "benchmark again, which writes it and answers nothing twice"
        ) from error


def _subject(task: Task, key: Key, reference: str, written: dict[str, Any]) -> Subject:
    try:
        question = written["questions"][key.condition][key.task][key.id]
        words = written["words"][key.condition][key.id]
    except KeyError as error:
        raise InputError(
            f"utterance {key.id!r}: expected its words, to be judged by, found none; add `text` to "
            "the manifest and call the benchmark again"
        ) from error
    golds = tuple(read_golds(reference)) if GOLDS & set(task.metrics) else (reference,)
    return Subject(key=key, question=question, words=words, references=golds)
