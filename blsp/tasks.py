"""What is asked about a recording and how the answer is scored, as data.

A task is written into every result and read back from it, so it holds no code: prompts are texts
with `{audio}` in them, the reference is named by where it stands in the manifest's line, metrics go
by name. The same messages serve the system that hears and those that read; only what stands at the
recording's place differs. An utterance enters; messages and a reference leave.
"""

import re
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from blsp.errors import InputError, suggest
from blsp.generation import place_audio
from blsp.manifest import AudioPart, Message, TextPart, Utterance, to_row
from blsp.metrics import (
    Normalizer,
    Pairs,
    Statistics,
    bleu,
    character_error_rate,
    check_phrases,
    chrf,
    distinct_replies,
    drop_empty_references,
    exact_match,
    fitting_replies,
    invalid_rate,
    label_accuracy,
    unweighted_accuracy,
    word_error_rate,
)

MetricName = Literal[
    "wer",
    "cer",
    "bleu",
    "chrf",
    "accuracy",
    "unweighted_accuracy",
    "invalid_rate",
    "exact_match",
    "distinct",
    "fitting",
]

LOWER_IS_BETTER = frozenset({"wer", "cer", "invalid_rate"})
ERROR_RATES = frozenset({"wer", "cer"})
"""Metrics that normalise both sides first."""
LABELLED = frozenset({"accuracy", "unweighted_accuracy", "invalid_rate"})
"""Metrics that read one of the task's labels out of an answer."""

# A language model may end its answer with a line break; that is not what an exact match is about.
_STRIPPED = Normalizer("stripped", str.strip)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One question to all recordings of a test set.

    Raises:
        InputError: no prompt or metric, an unknown metric, what a metric needs is missing, a prompt
            that has not one place for a recording.
    """

    name: str
    prompts: tuple[str, ...]
    """What is asked, `{audio}` on the line where the recording stands (`place_audio`). Of several
    prompts each utterance gets one by its id, the same for every system."""
    reference: str
    """Where the right answer stands in the utterance's line: `text`, `intent`, `translation.de`."""
    metrics: tuple[MetricName, ...]
    """The first is the one that sanity checks look at."""
    language: str = "en"
    """Of the reference: it decides normaliser and tokeniser."""
    labels: tuple[str, ...] = ()
    """All answers there are, for `accuracy`, `unweighted_accuracy` and `invalid_rate`."""
    held_out: bool = False
    """Whether nothing of this kind was in the training data."""
    conditions: tuple[str, ...] = ()
    """The test sets it is asked about; none means all."""
    group: str = ""
    """Where the words stand in the utterance's line, for `distinct`: answers to the same ones are
    compared."""
    phrases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Reference -> what only an answer to it says, for `fitting`."""

    def __post_init__(self) -> None:
        for one in fields(self):  # JSON gives lists
            value = getattr(self, one.name)
            if isinstance(value, list):
                object.__setattr__(self, one.name, tuple(value))
        read = {reference: tuple(texts) for reference, texts in self.phrases.items()}
        object.__setattr__(self, "phrases", read)
        check_phrases(read)
        self._check_metrics()
        if not self.prompts:
            raise InputError(f"task {self.name!r}: expected a prompt, found none; give one")
        for prompt in self.prompts:
            place_audio(prompt, TextPart(text="words"))  # refuses what it cannot place

    def _check_metrics(self) -> None:
        known = get_args(MetricName)
        wrong = [name for name in self.metrics if name not in known]
        if wrong or not self.metrics:
            found = repr(wrong[0]) if wrong else "none"
            advice = suggest(wrong[0] if wrong else "", known)
            raise InputError(f"task {self.name!r}: expected metrics, found {found}; {advice}")
        if not self.labels and LABELLED & set(self.metrics):
            raise InputError(
                f"task {self.name!r}: expected labels to score {self.metrics[0]} with, found none; "
                "name them all, or score exact_match"
            )
        for metric, key in (("distinct", "group"), ("fitting", "phrases")):
            if metric in self.metrics and not getattr(self, key):
                raise InputError(
                    f"task {self.name!r}: expected {key!r} to score {metric} with, found none; "
                    "give it, or score another metric"
                )

    def to_dict(self) -> dict[str, Any]:
        """As JSON types; `Task(**row)` reads it back."""
        row = asdict(self)
        # Runs that were begun before these keys existed go on.
        unset = {key for key in ("group", "phrases") if not row[key]}
        row = {name: value for name, value in row.items() if name not in unset}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in row.items()}

    def prompt_for(self, identity: str) -> str:
        """The prompt that the utterance of this id gets."""
        return self.prompts[zlib.crc32(identity.encode()) % len(self.prompts)]

    def reference_of(self, utterance: Utterance) -> str | None:
        """The right answer, None where the line has none (or an empty one).

        Raises:
            InputError: what stands there is no text.
        """
        return self._look_up(utterance, self.reference)

    def group_of(self, utterance: Utterance) -> str | None:
        """What the answer is compared within; None where the task compares nothing.

        Raises:
            InputError: what stands there is no text.
        """
        return self._look_up(utterance, self.group) if self.group else None

    def _look_up(self, utterance: Utterance, place: str) -> str | None:
        value: Any = to_row(utterance)
        for key in place.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None and not isinstance(value, str):
            raise InputError(
                f"task {self.name!r}: expected text at {place!r} of utterance {utterance.id!r}, "
                f"found {type(value).__name__}; name another place"
            )
        return value or None


def build_messages(prompt: str, heard: Utterance, transcript: str) -> tuple[Message, ...]:
    """Return a chat of one turn: a prompt about a recording whose words are ``transcript``."""
    recording = AudioPart(
        audio=heard.audio, start=heard.start, duration=heard.duration, transcript=transcript
    )
    return (place_audio(prompt, recording),)


def compute_statistics(
    task: Task, metric: MetricName, pairs: Pairs, normalizer: Normalizer | None
) -> Statistics:
    """Return one metric of a task before it is a number.

    Args:
        task: its language and labels.
        metric: one of the task's.
        pairs: as they were predicted.
        normalizer: for error rates; utterances whose reference has no words after it are left out.

    Raises:
        InputError: nothing to score, or references that are no labels.
    """
    if metric in ERROR_RATES:
        assert normalizer is not None
        kept = drop_empty_references(pairs.normalized(normalizer))
        return word_error_rate(kept) if metric == "wer" else character_error_rate(kept)
    match metric:
        case "distinct":
            return distinct_replies(pairs)
        case "fitting":
            return fitting_replies(pairs, task.phrases)
        case "bleu":
            return bleu(pairs, task.language)
        case "chrf":
            return chrf(pairs)
        case "accuracy":
            return label_accuracy(pairs, task.labels)
        case "unweighted_accuracy":
            return unweighted_accuracy(pairs, task.labels)
        case "invalid_rate":
            return invalid_rate(pairs, task.labels)
        case _:
            return exact_match(pairs.normalized(_STRIPPED))


def recognition_metrics(language: str) -> tuple[MetricName, ...]:
    """Error rates of transcripts in a language: words first, unless it does not space them."""
    unspaced = re.split("[-_]", language.lower())[0] in ("ja", "yue", "zh")
    return ("cer",) if unspaced else ("wer", "cer")
