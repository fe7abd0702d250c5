"""One run, many systems: the same questions put to a model that hears and to those that read.

The speech model stands between the same language model given the true transcript (text bound) and
given Whisper's (cascade); prompts, decoding, batch and encoder are shared, each clip is transcribed
once. Sanity systems need no belief: a random answer, an empty one, the audio of another utterance,
and the transcript of that other utterance, which shuffled audio must not beat. Systems from
elsewhere stand beside them. Tasks, test sets and models enter; predictions are appended as they
come, and a run that was killed goes on.
"""

import json
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blsp.endpoint import announce
from blsp.errors import InputError, suggest
from blsp.foreign import AnswerFile, Given, Server, deal_answers
from blsp.generation import Answer
from blsp.hardware import describe_hardware, peak_memory_mb
from blsp.journal import do_at_once
from blsp.manifest import Meta, Utterance
from blsp.metrics import build_normalizer
from blsp.prediction_log import MISSING, Prediction, PredictionLog
from blsp.questions import write_questions
from blsp.remote import find_neighbourhood
from blsp.results import (
    CASCADE,
    EMPTY,
    FORMAT_VERSION,
    RANDOM,
    RUN,
    SHUFFLED_AUDIO,
    SHUFFLED_TEXT,
    SIMILARITY,
    SPEECH,
    SYSTEMS,
    TEXT_BOUND,
    TRANSCRIPT,
    WHISPER,
    read_run,
    recompute,
    write_json,
)
from blsp.slices import Sliced, read_slices, slice_utterances, write_slices
from blsp.systems import Audio, Models
from blsp.tasks import NORMALIZED, Task, build_messages, recognition_metrics
from blsp.testsets import TestSet
from blsp.whispers import Recogniser, find_spoken

HEARING = frozenset({SPEECH, SHUFFLED_AUDIO})
READING = frozenset({TEXT_BOUND, CASCADE, SHUFFLED_TEXT})
SHUFFLED = frozenset({SHUFFLED_AUDIO, SHUFFLED_TEXT})
MODEL_FREE = frozenset({RANDOM, EMPTY})
"""Systems that need no checkpoint."""

_AT_ONCE = 256
"""Answers between two writes: what a kill can lose."""

Question = tuple[Task, Utterance, str]
"""Task, utterance and reference."""
Progress = Callable[[str, int, int], None]
"""Is told the system, how many answers it has and how many it will have."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What a run asks, of whom.

    Raises:
        InputError: an unknown system, names that are not unique, nothing to shuffle with, a task
            without references or with one that is none of its labels.
    """

    tasks: tuple[Task, ...]
    sets: tuple[TestSet, ...]
    systems: tuple[str, ...] = SYSTEMS
    servers: tuple[Server, ...] = ()
    """Systems from elsewhere that are asked too."""
    files: tuple[AnswerFile, ...] = ()
    """Systems from elsewhere that have answered."""
    whispers: tuple[Recogniser, ...] = ()
    """Plain Whispers that are asked too."""
    by: tuple[str, ...] = ()
    """Keys of the manifest, or `duration`, that scores are sliced by."""
    seed: int = 0
    """Of the shuffle and of random answers."""
    command: str = ""

    def __post_init__(self) -> None:
        for name in self.systems:
            if name not in SYSTEMS:
                raise InputError(
                    f"expected systems among {', '.join(SYSTEMS)}, found {name!r}; correct it"
                )
        self._check_names()
        self._check_shuffling()
        for task in self.tasks:
            self._check_references(task)
        for file in self.files:
            self.deal(file)
        self.slice()

    @property
    def foreign(self) -> tuple[Server | AnswerFile | Recogniser, ...]:
        """All systems that are none of a checkpoint's."""
        return (*self.servers, *self.files, *self.whispers)

    def _check_names(self) -> None:
        foreign = [one.name for one in self.foreign]
        for name in foreign:
            if not name or name in (*SYSTEMS, WHISPER) or foreign.count(name) > 1:
                raise InputError(
                    f"expected a name of its own for each system from elsewhere, found {name!r}; "
                    "rename it (--predictions NAME=FILE, --system NAME=whisper:SOURCE)"
                )
        for what, names in (
            ("task", [task.name for task in self.tasks]),
            ("condition", [one.condition for one in self.sets]),
        ):
            if len(set(names)) < len(names) or not names:
                raise InputError(
                    f"expected at least one {what}, each name once, found {names}; rename or add"
                )

    def _check_shuffling(self) -> None:
        for one in self.sets:
            if SHUFFLED & set(self.systems) and len(one.utterances) < 2:
                raise InputError(
                    f"{one.manifest or one.condition}: expected two utterances or more to shuffle, "
                    f"found {len(one.utterances)}; add some or leave out the shuffled systems"
                )

    def _check_references(self, task: Task) -> None:
        found = [question for one in self.sets for question in self.questions_of(task, one)]
        if not found:
            where = ", ".join(one.manifest or one.condition for one in self.sets)
            raise InputError(
                f"task {task.name!r}: expected {task.reference!r} in the utterances of {where}, "
                "found none; add it, or leave out the task"
            )
        for _, utterance, reference in found if task.labels else []:
            if reference not in task.labels:
                raise InputError(
                    f"task {task.name!r}: expected one of its labels for {utterance.id!r}, found "
                    f"{reference!r}; {suggest(reference, task.labels)}"
                )

    def deal(self, file: AnswerFile) -> dict[tuple[str, str], dict[str, Given]]:
        """Return (task, condition) -> id -> what was answered elsewhere.

        Raises:
            InputError: see `deal_answers`.
        """
        known = {s.condition: s.known | {one.id for one in s.utterances} for s in self.sets}
        return deal_answers(file, [task.name for task in self.tasks], known)

    def slice(self, trained_max_seconds: float | None = None) -> Sliced:
        """Return what is in which slice.

        Args:
            trained_max_seconds: where durations are cut too.

        Raises:
            InputError: see `slice_utterances`.
        """
        found = {
            one.condition: {
                field: slice_utterances(
                    one.utterances, field, trained_max_seconds=trained_max_seconds
                )
                for field in self.by
            }
            for one in self.sets
        }
        return Sliced(slices=found, trained_max_seconds=trained_max_seconds)

    def questions(self, test_set: TestSet) -> Iterator[Question]:
        """Yield everything that can be scored."""
        for task in self.tasks:
            yield from self.questions_of(task, test_set)

    def questions_of(self, task: Task, test_set: TestSet) -> Iterator[Question]:
        """Yield what can be scored of one task."""
        if not task.conditions or test_set.condition in task.conditions:
            for utterance in test_set.utterances:
                if reference := task.reference_of(utterance):
                    yield task, utterance, reference


def run(
    benchmark: Benchmark, models: Models, out: str | Path, *, on_progress: Progress | None = None
) -> dict[str, Any]:
    """Ask every system what is not answered yet, score everything, return ``results.json``.

    Args:
        benchmark: what to ask.
        models: who is asked.
        out: folder of the run; one that holds an earlier part of the same run is continued.
        on_progress: told after each write.

    Raises:
        InputError: the folder holds another run, a task without references, unreadable audio.
    """
    started, out = time.monotonic(), Path(out)
    record = _begin(benchmark, models, out)
    _copy_spellings(benchmark, models, out)
    write_questions(
        out, ((s.condition, t, one) for s in benchmark.sets for t, one, _ in benchmark.questions(s))
    )
    if benchmark.by:
        _write_slices(benchmark, models, out)
    log, on_progress = PredictionLog(out), on_progress or _silent
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
    if models.map_sentence is not None and SPEECH in benchmark.systems:
        _map_one(benchmark.sets[0], models.map_sentence, out)
    record["seconds"] = round(record["seconds"] + time.monotonic() - started, 1)
    record["peak_memory_mb"] = max(record["peak_memory_mb"], peak_memory_mb())
    write_json(out / RUN, record | {"finished": True})
    return recompute(out)


def _write_slices(benchmark: Benchmark, models: Models, out: Path) -> None:
    """Cut durations at the longest of training, also where an earlier part of the run knew it."""
    longest = models.trained_max_seconds
    if longest is None:
        longest = read_slices(out).trained_max_seconds
    write_slices(out, benchmark.slice(longest))


def _map_one(
    test_set: TestSet, map_sentence: Callable[[Audio, str], dict[str, Any]], out: Path
) -> None:
    """Keep the similarity map of the first utterance that has words, for the report."""
    for one in test_set.utterances:
        if one.text:
            audio = test_set.load(one)
            write_json(out / SIMILARITY, map_sentence(audio, one.text))
            return


def pick_partners(utterances: Sequence[Utterance], *, seed: int) -> dict[str, Utterance]:
    """Return id -> another utterance, each one once: what shuffled systems are given.

    In whatever order the utterances come, the partners are the same.
    """
    order = sorted(utterances, key=lambda one: one.id)
    random.Random(seed).shuffle(order)
    return {one.id: other for one, other in zip(order, [*order[1:], order[0]], strict=True)}


# --- what a run says of itself --------------------------------------------------------------------


def _begin(benchmark: Benchmark, models: Models, out: Path) -> dict[str, Any]:
    """Write ``run.json``, joined with that of an earlier part of the same run."""
    tasks = [task.to_dict() for task in benchmark.tasks]
    if CASCADE in benchmark.systems:
        tasks.append(_transcript_task(benchmark).to_dict())
    record: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "command": benchmark.command,
        "versions": dict(Meta(command=benchmark.command).versions),
        "hardware": describe_hardware(),
        "seconds": 0.0,
        "peak_memory_mb": 0.0,
        "finished": False,
        "seed": benchmark.seed,
        "models": dict(models.description),
        "systems": list(benchmark.systems),
        "foreign": {one.name: dict(one.description) for one in benchmark.foreign},
        "sets": [one.describe() for one in benchmark.sets],
        "tasks": tasks,
        "without_reference": {
            task.name: {
                one.condition: len(one.utterances) - len(list(benchmark.questions_of(task, one)))
                for one in benchmark.sets
                if not task.conditions or one.condition in task.conditions
            }
            for task in benchmark.tasks
        },
    }
    if (out / RUN).exists():
        record = _continue(read_run(out), record, out)
    write_json(out / RUN, record)
    return record


def _continue(earlier: dict[str, Any], record: dict[str, Any], out: Path) -> dict[str, Any]:
    """Return the record of both runs together.

    Raises:
        InputError: they differ in what their answers depend on.
    """
    # As JSON gives it back, so that a tuple equals the list it became.
    record = json.loads(json.dumps(record))
    _check_same(earlier["seed"], record["seed"], what="seed", out=out)
    if earlier["models"] and record["models"]:  # none: only systems from elsewhere were asked
        _check_same(earlier["models"], record["models"], what="models", out=out)
    joined = record | {key: earlier[key] for key in ("seconds", "peak_memory_mb")}
    joined["models"] = record["models"] or earlier["models"]
    joined["foreign"] = earlier.get("foreign", {}) | record["foreign"]
    known = earlier.get("without_reference", {})
    joined["without_reference"] = known | {
        task: known.get(task, {}) | found for task, found in record["without_reference"].items()
    }
    for name, found in earlier.get("foreign", {}).items():
        _check_same(found, joined["foreign"][name], what=f"system {name!r}", out=out)
    joined["systems"] = list(dict.fromkeys(earlier["systems"] + record["systems"]))
    for key, name in (("sets", "condition"), ("tasks", "name")):
        known = {row[name]: row for row in earlier[key]}
        for row in record[key]:
            _check_same(known.get(row[name], row), row, what=f"{name} {row[name]!r}", out=out)
        joined[key] = list((known | {row[name]: row for row in record[key]}).values())
    return joined


def _check_same(earlier: Any, now: Any, *, what: str, out: Path) -> None:
    if earlier == now:
        return
    detail = ""
    if isinstance(earlier, dict) and isinstance(now, dict):
        keys = earlier.keys() | now.keys()
        key = sorted(key for key in keys if earlier.get(key) != now.get(key))[0]
        detail, earlier, now = f" in {key!r}", earlier.get(key), now.get(key)
    raise InputError(
        f"{out}: expected to continue a run with the same {what}, found it differ{detail}: "
        f"{str(earlier)[:80]} then, {str(now)[:80]} now; choose another folder"
    )


def _transcript_task(benchmark: Benchmark) -> Task:
    first = benchmark.sets[0].utterances[0].language or "en"
    return Task(
        name=TRANSCRIPT,
        prompts=("",),
        reference="text",
        metrics=recognition_metrics(first),
        language=first,
    )


def _copy_spellings(benchmark: Benchmark, models: Models, out: Path) -> None:
    """Keep the normaliser's table with the predictions, so that scores can always be made again."""
    tasks = list(benchmark.tasks)
    if CASCADE in benchmark.systems:
        tasks.append(_transcript_task(benchmark))
    for task in tasks:
        if NORMALIZED & set(task.metrics):
            build_normalizer(task.language, models.whisper)  # refuses before hours are spent
            table = models.whisper / "normalizer.json"
            if table.is_file() and models.whisper != out:
                shutil.copyfile(table, out / table.name)


# --- asking ---------------------------------------------------------------------------------------


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
    task = _transcript_task(asking.benchmark)
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


def _silent(label: str, done: int, total: int) -> None:
    """Say nothing."""
