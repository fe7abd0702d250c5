"""What a run asks, of whom: tasks, test sets and systems, checked before anything is loaded.

The speech model stands between the same language model given the true transcript (text bound) and
given Whisper's (cascade). Sanity systems need no belief: a random answer, an empty one, the audio
of another utterance, and the transcript of that other utterance, which shuffled audio must not
beat. Systems from elsewhere stand beside them. `blsp.running` runs it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from blsp.errors import InputError, suggest
from blsp.foreign import AnswerFile, Given, Server, deal_answers
from blsp.manifest import Utterance
from blsp.results import (
    CASCADE,
    EMPTY,
    RANDOM,
    SHUFFLED_AUDIO,
    SHUFFLED_TEXT,
    SYSTEMS,
    TRANSCRIPT,
    WHISPER,
)
from blsp.slices import Sliced, slice_utterances
from blsp.tasks import Task, recognition_metrics
from blsp.testsets import TestSet
from blsp.whispers import Recogniser

SHUFFLED = frozenset({SHUFFLED_AUDIO, SHUFFLED_TEXT})
MODEL_FREE = frozenset({RANDOM, EMPTY})
"""Systems that need no checkpoint."""

Question = tuple[Task, Utterance, str]
"""Task, utterance and reference."""


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
    def transcript_task(self) -> Task:
        """What the cascade's Whisper is scored on."""
        language = self.sets[0].utterances[0].language or "en"
        return Task(
            name=TRANSCRIPT,
            prompts=("",),
            reference="text",
            metrics=recognition_metrics(language),
            language=language,
        )

    @property
    def scored(self) -> tuple[Task, ...]:
        """The tasks, and the cascade's transcript where there is one."""
        return (*self.tasks, self.transcript_task) if CASCADE in self.systems else self.tasks

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
