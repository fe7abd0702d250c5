"""What each system of a benchmark is given, and how its answers are kept.

Prompts and decoding are shared; only what stands at the recording's place differs: the recording,
the true transcript, Whisper's, or another utterance's. Tasks and test sets of a `Benchmark` enter;
predictions are appended as they come, so that a kill costs little.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from blsp.benchmark import SHUFFLED, Benchmark, Question
from blsp.endpoint import announce
from blsp.errors import InputError
from blsp.foreign import Server
from blsp.generation import Answer
from blsp.journal import do_at_once
from blsp.manifest import Utterance
from blsp.prediction_log import MISSING, Prediction, PredictionLog
from blsp.remote import find_neighbourhood
from blsp.results import CASCADE, EMPTY, RANDOM, SHUFFLED_TEXT, TEXT_BOUND, TRANSCRIPT, WHISPER
from blsp.systems import Models
from blsp.tasks import build_messages
from blsp.testsets import TestSet
from blsp.whispers import Recogniser, find_spoken

READING = frozenset({TEXT_BOUND, CASCADE, SHUFFLED_TEXT})

_AT_ONCE = 256
"""Answers between two writes: what a kill can lose."""

Progress = Callable[[str, int, int], None]
"""Is told the system, how many answers it has and how many it will have."""


@dataclass(frozen=True)
class _Asking:
    """One test set of a run."""

    benchmark: Benchmark
    test_set: TestSet
    models: Models
    log: PredictionLog
    on_progress: Progress

    def todo(self, system: str) -> list[Question]:
        """Questions that a system has not answered: task by task, because answers to one are about
        as long and a batch takes as long as its longest; short recordings first."""
        done = {
            task.name: self.log.get((system, task.name, self.test_set.condition))
            for task in self.benchmark.tasks
        }
        questions = self.benchmark.questions(self.test_set)
        left = [one for one in questions if one[1].id not in done[one[0].name]]
        return sorted(left, key=lambda one: (one[0].name, one[1].duration, one[1].id))

    def write(
        self,
        system: str,
        questions: Sequence[Question],
        texts: Sequence[str],
        reasons: Sequence[str | None],
    ) -> None:
        """Keep answers, in the order of their questions."""
        self.log.append(
            Prediction(
                id=utterance.id,
                system=system,
                task=task.name,
                condition=self.test_set.condition,
                reference=reference,
                prediction=text,
                finish_reason=reason,
                group=task.group_of(utterance),
                speaker=utterance.speaker,
            )
            for (task, utterance, reference), text, reason in zip(
                questions, texts, reasons, strict=True
            )
        )


def ask_all(
    benchmark: Benchmark, models: Models, log: PredictionLog, on_progress: Progress
) -> None:
    """Ask every system what is not answered yet.

    Args:
        benchmark: what to ask.
        models: who is asked.
        log: holds what is answered, and is given the rest.
        on_progress: told after each write.

    Raises:
        InputError: an utterance without the words that a system needs, what a Whisper cannot hear,
            or unreadable audio.
    """
    asked = [_Asking(benchmark, one, models, log, on_progress) for one in benchmark.sets]
    _file_answers(asked)
    _check_whispers(asked)
    for asking in asked:
        _run_set(asking)
        for whisper in benchmark.whispers:
            _ask_whisper(asking, whisper)
    for server in benchmark.servers:
        announce(sum(len(one.todo(server.name)) for one in asked), "recordings", server.host)
        for asking in asked:
            _ask_server(asking, server)


def pick_partners(utterances: Sequence[Utterance], *, seed: int) -> dict[str, Utterance]:
    """Return id -> another utterance, each one once: what shuffled systems are given.

    In whatever order the utterances come, the partners are the same.
    """
    order = sorted(utterances, key=lambda one: one.id)
    random.Random(seed).shuffle(order)
    return {one.id: other for one, other in zip(order, [*order[1:], order[0]], strict=True)}


def _run_set(asking: _Asking) -> None:
    partners = pick_partners(asking.test_set.utterances, seed=asking.benchmark.seed)
    for system in asking.benchmark.systems:
        questions = asking.todo(system)
        if system == RANDOM:
            _write_texts(asking, system, questions, _random_answers(asking, questions))
        elif system == EMPTY:
            _write_texts(asking, system, questions, [""] * len(questions))
        elif system in READING:
            words = _words_of(asking, system, partners)
            _ask(asking, system, questions, lambda chunk, words=words: _read(asking, chunk, words))
        else:
            heard = partners if system in SHUFFLED else {}
            _ask(asking, system, questions, lambda chunk, heard=heard: _hear(asking, chunk, heard))


def _ask(
    asking: _Asking,
    system: str,
    questions: list[Question],
    answer: Callable[[Sequence[Question]], list[Answer]],
) -> None:
    label = f"{system}, {asking.test_set.condition}"
    for start in range(0, len(questions), _AT_ONCE):
        chunk = questions[start : start + _AT_ONCE]
        answers = answer(chunk)
        reasons = [one.finish_reason for one in answers]
        asking.write(system, chunk, [one.text for one in answers], reasons)
        asking.on_progress(label, start + len(chunk), len(questions))


def _ask_server(asking: _Asking, server: Server) -> None:
    """Ask many recordings at once; each answer is on disk as soon as it comes."""
    questions, label = asking.todo(server.name), f"{server.name}, {asking.test_set.condition}"
    done = 0

    def ask(number: int) -> list[Answer]:
        task, utterance, _ = questions[number]
        chat = build_messages(task.ask(utterance), utterance, "")
        return [server.hear(chat, asking.test_set.load(utterance))]

    def keep(number: int, answers: list[Answer]) -> None:
        nonlocal done
        done += 1
        (answer,) = answers
        asking.write(server.name, [questions[number]], [answer.text], [answer.finish_reason])
        asking.on_progress(label, done, len(questions))

    do_at_once(range(len(questions)), ask, keep, server.at_once)


def _check_whispers(asked: Sequence[_Asking]) -> None:
    """Refuse what a Whisper cannot hear before anybody is asked."""
    for asking in asked:
        for whisper in asking.benchmark.whispers:
            for task, utterance, _ in asking.todo(whisper.name):
                whisper.check(task, utterance)


def _ask_whisper(asking: _Asking, whisper: Recogniser) -> None:
    """Ask for all words of one task and language together."""
    alike: dict[tuple[str, str], list[Question]] = {}
    for one in asking.todo(whisper.name):
        spoken = find_spoken(one[0], one[1])
        assert spoken is not None  # `_check_whispers`
        alike.setdefault((one[0].name, spoken), []).append(one)
    for (_, language), questions in alike.items():
        task, label = questions[0][0], f"{whisper.name}, {asking.test_set.condition}"
        for start in range(0, len(questions), _AT_ONCE):
            chunk = questions[start : start + _AT_ONCE]
            audios = [asking.test_set.load(utterance) for _, utterance, _ in chunk]
            _write_texts(asking, whisper.name, chunk, whisper.write(audios, task, language))
            asking.on_progress(label, start + len(chunk), len(questions))


def _file_answers(asked: Sequence[_Asking]) -> None:
    """Keep what was answered elsewhere, and that something was not, before anything is asked."""
    benchmark = asked[0].benchmark
    for file in benchmark.files:
        dealt = benchmark.deal(file)
        for asking in asked:
            questions = asking.todo(file.name)
            found = [
                dealt.get((task.name, asking.test_set.condition), {}).get(one.id)
                for task, one, _ in questions
            ]
            asking.write(
                file.name,
                questions,
                [one.prediction if one else "" for one in found],
                [one.finish_reason if one else MISSING for one in found],
            )


def _read(asking: _Asking, questions: Sequence[Question], words: Mapping[str, str]) -> list[Answer]:
    return asking.models.read(
        [build_messages(task.ask(one), one, words[one.id]) for task, one, _ in questions]
    )


def _hear(
    asking: _Asking,
    questions: Sequence[Question],
    heard: Mapping[str, Utterance],
) -> list[Answer]:
    """Answers to recordings; ``heard``: id -> whose recording is given instead of its own."""
    given = {one.id: heard.get(one.id, one) for _, one, _ in questions}
    audio = {identity: asking.test_set.load(one) for identity, one in given.items()}
    chats = [build_messages(task.ask(one), given[one.id], "") for task, one, _ in questions]
    return asking.models.hear(chats, [audio[one.id] for _, one, _ in questions])


def _words_of(asking: _Asking, system: str, partners: Mapping[str, Utterance]) -> dict[str, str]:
    """Id -> the words that a reading system is given for it.

    Raises:
        InputError: an utterance without transcript.
    """
    if system == CASCADE:
        return _transcribe(asking)
    words = {}
    for one in asking.test_set.utterances:
        source = partners[one.id] if system == SHUFFLED_TEXT else one
        if source.text is None:
            raise InputError(
                f"utterance {source.id!r}: expected a transcript for the system {system!r}, found "
                f"none; add `text`, or leave {system!r} out"
            )
        words[one.id] = source.text
    return words


def _transcribe(asking: _Asking) -> dict[str, str]:
    """Id -> what Whisper hears, each clip once for all tasks."""
    cell = (WHISPER, TRANSCRIPT, asking.test_set.condition)
    task = asking.benchmark.transcript_task
    done = asking.log.get(cell)
    left = [one for one in asking.test_set.utterances if one.id not in done]
    near = {one.id: find_neighbourhood(i, one.audio) for i, one in enumerate(left)}
    for language in sorted({one.language or "en" for one in left}):
        spoken = [one for one in left if (one.language or "en") == language]
        spoken.sort(key=lambda one: (near[one.id], one.duration, one.id))
        for start in range(0, len(spoken), _AT_ONCE):
            chunk = spoken[start : start + _AT_ONCE]
            texts = asking.models.transcribe([asking.test_set.load(one) for one in chunk], language)
            _write_texts(asking, WHISPER, [(task, one, one.text or "") for one in chunk], texts)
            label = f"{WHISPER}, {asking.test_set.condition}"
            asking.on_progress(label, start + len(chunk), len(spoken))
    return {identity: one.prediction for identity, one in asking.log.get(cell).items()}


def _write_texts(
    asking: _Asking,
    system: str,
    questions: Sequence[Question],
    texts: Sequence[str],
) -> None:
    asking.write(system, questions, texts, [None] * len(questions))


def _random_answers(asking: _Asking, questions: Sequence[Question]) -> list[str]:
    """A random label, or what is right for a random utterance."""
    references: dict[str, list[str]] = {}
    for task, _, reference in asking.benchmark.questions(asking.test_set):
        references.setdefault(task.name, []).append(task.example_of(reference))
    found = []
    for task, utterance, _ in questions:
        rng = random.Random(f"{asking.benchmark.seed} {task.name} {utterance.id}")
        found.append(rng.choice(task.labels or sorted(references[task.name])))
    return found
