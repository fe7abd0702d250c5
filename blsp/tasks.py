"""What is asked about a recording and how the answer is scored, as data.

A task is written into every result and read back from it, so it holds no code: prompts are texts
with `{audio}` in them, the reference is named by where it stands in the manifest's line, metrics go
by name. The same messages serve the system that hears and those that read; only what stands at the
recording's place differs. An utterance enters; messages and a reference leave.

A reference is one text. Where several answers are right it is a JSON list of them, where intent and
entities are asked for, the JSON object that an answer should be.
"""

import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from string import ascii_uppercase
from typing import Any, Literal, get_args

from blsp.errors import InputError, suggest
from blsp.manifest import AudioPart, Message, TextPart, Utterance, to_row
from blsp.metrics import (
    GIGASPEECH_WRITTEN,
    Normalizer,
    Pairs,
    Statistics,
    answered,
    bleu,
    character_error_rate,
    check_phrases,
    choice_accuracy,
    chrf,
    conclusion_accuracy,
    contains_gold,
    distinct_replies,
    drop_empty_references,
    exact_match,
    fitting_replies,
    frame_f1,
    intent_accuracy,
    invalid_frames,
    invalid_rate,
    label_accuracy,
    mean_of_labels,
    read_golds,
    refusal_rate,
    squad_em,
    squad_f1,
    unparsed_choices,
    unparsed_conclusions,
    word_error_rate,
    write_frame,
    write_golds,
)
from blsp.prompts import place_audio

MetricName = Literal[
    "wer",
    "cer",
    "gigaspeech_wer",
    "bleu",
    "chrf",
    "accuracy",
    "unweighted_accuracy",
    "macro_f1",
    "weighted_f1",
    "invalid_rate",
    "exact_match",
    "distinct",
    "fitting",
    "squad_em",
    "squad_f1",
    "spoken_em",
    "spoken_f1",
    "contains_gold",
    "choice_accuracy",
    "unparsed_choices",
    "conclusion_accuracy",
    "unparsed_conclusions",
    "refusal_rate",
    "answered",
    "intent_accuracy",
    "slurp_f1",
    "slot_f1",
    "ner_f1",
    "ner_label_f1",
    "invalid_frames",
]
"""What a task may be scored by; each is a function of `blsp.metrics` with this or nearly this name.

- `unweighted_accuracy`, `macro_f1` and `weighted_f1` are means over the labels that occur as
  references, of recall and of F1, the last with the references' weights.
- `gigaspeech_wer` is after that corpus's own normaliser, `wer` after Whisper's.
- `squad_em`, `squad_f1`, `contains_gold` follow SQuAD; `spoken_em` and `spoken_f1` are two of them
  after the normaliser of the language too, which writes "fifty" and "50" alike.
- `choice_accuracy`: the letter chosen; `unparsed_choices`: none was; `conclusion_accuracy`,
  `unparsed_conclusions`: the same of BIG-Bench Hard's yes and no; `refusal_rate`: VoiceBench's.
- `answered`: anything was said.
- `intent_accuracy`, `slurp_f1`, `slot_f1` (equal slots), SLUE's `ner_f1` and `ner_label_f1` (types
  alone) and `invalid_frames` read a JSON object out of the answer.
"""

LOWER_IS_BETTER = frozenset(
    {
        "wer",
        "cer",
        "gigaspeech_wer",
        "invalid_rate",
        "unparsed_choices",
        "unparsed_conclusions",
        "invalid_frames",
    }
)
ERROR_RATES = frozenset({"wer", "cer", "gigaspeech_wer"})
"""Metrics that leave out references without words."""
NORMALIZED = frozenset({"wer", "cer", "spoken_em", "spoken_f1"})
"""Metrics that put both sides through the normaliser of the language first."""
LABELLED = frozenset({"accuracy", "unweighted_accuracy", "macro_f1", "weighted_f1", "invalid_rate"})
"""Metrics that read one of the task's labels out of an answer."""
GOLDS = frozenset({"squad_em", "squad_f1", "spoken_em", "spoken_f1", "contains_gold"})
"""Metrics of which several answers may be right."""
CHOICES = frozenset({"choice_accuracy", "unparsed_choices"})
"""Metrics that read a letter out of an answer."""
VERDICTS = frozenset({"conclusion_accuracy", "unparsed_conclusions"})
"""Metrics that read yes or no, (A) or (B) out of an answer."""
FRAMES = frozenset(
    {"intent_accuracy", "slurp_f1", "slot_f1", "ner_f1", "ner_label_f1", "invalid_frames"}
)
"""Metrics that read intent and entities out of an answer."""

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
    """Where the right answer stands in the utterance's line: `text`, `intent`, `translation.de`.
    For `GOLDS` it is a text or a list of texts, for `FRAMES` it is `entities`, with which `intent`
    goes, and which may be empty."""
    metrics: tuple[MetricName, ...]
    """The first is the one that sanity checks look at."""
    language: str = "en"
    """Of the reference: it decides normaliser and tokeniser."""
    labels: tuple[str, ...] = ()
    """All answers there are, for `LABELLED` metrics."""
    held_out: bool = False
    """Whether nothing of this kind was in the training data."""
    conditions: tuple[str, ...] = ()
    """The test sets it is asked about; none means all."""
    group: str = ""
    """Where the words stand in the utterance's line, for `distinct`: answers to the same ones are
    compared."""
    phrases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Reference -> what only an answer to it says, for `fitting`."""
    fills: tuple[str, ...] = ()
    """Keys of the utterance's line that stand in prompts as `{key}`: a question in writing about
    what is heard, options. A list becomes lines (A), (B), ..."""

    def __post_init__(self) -> None:
        for one in fields(self):  # JSON gives lists
            value = getattr(self, one.name)
            if isinstance(value, list):
                object.__setattr__(self, one.name, tuple(value))
        read = {reference: tuple(texts) for reference, texts in self.phrases.items()}
        object.__setattr__(self, "phrases", read)
        check_phrases(read)
        self._check_metrics()
        self._check_kinds()
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

    def _check_kinds(self) -> None:
        for kind in (GOLDS, CHOICES, VERDICTS, FRAMES):
            others = [name for name in self.metrics if name not in kind]
            if others and len(others) < len(self.metrics):
                raise InputError(
                    f"task {self.name!r}: expected metrics of one kind of reference, found "
                    f"{', '.join(self.metrics)}; leave out {', '.join(others)}"
                )

    def to_dict(self) -> dict[str, Any]:
        """As JSON types; `Task(**row)` reads it back."""
        row = asdict(self)
        # Runs that were begun before these keys existed go on.
        unset = {key for key in ("group", "phrases", "fills") if not row[key]}
        row = {name: value for name, value in row.items() if name not in unset}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in row.items()}

    def prompt_for(self, identity: str) -> str:
        """The prompt that the utterance of this id gets."""
        return self.prompts[zlib.crc32(identity.encode()) % len(self.prompts)]

    def ask(self, utterance: Utterance) -> str:
        """The prompt of an utterance, with its own words filled in.

        Raises:
            InputError: a key that its line lacks.
        """
        prompt, row = self.prompt_for(utterance.id), to_row(utterance)
        for key in self.fills:
            if not row.get(key):
                raise InputError(
                    f"task {self.name!r}: expected {key!r} in the line of utterance "
                    f"{utterance.id!r}, found none; add it, or leave the utterance out"
                )
            prompt = prompt.replace(f"{{{key}}}", _as_text(row[key]))
        return prompt

    def reference_of(self, utterance: Utterance) -> str | None:
        """The right answer as one text, None where the line has none (or an empty one).

        Raises:
            InputError: what stands there is neither text nor what the metrics read.
        """
        if FRAMES & set(self.metrics):
            slots = [(entity.type, entity.filler) for entity in utterance.entities]
            return write_frame(utterance.intent, slots)
        if GOLDS & set(self.metrics):
            golds = self._find(utterance, self.reference)
            if isinstance(golds, list) and all(isinstance(gold, str) for gold in golds):
                return write_golds(golds) if golds else None
            right = self._look_up(utterance, self.reference)
            return write_golds(right) if right else None
        return self._look_up(utterance, self.reference)

    def group_of(self, utterance: Utterance) -> str | None:
        """What the answer is compared within; None where the task compares nothing.

        Raises:
            InputError: what stands there is no text.
        """
        return self._look_up(utterance, self.group) if self.group else None

    def _look_up(self, utterance: Utterance, place: str) -> str | None:
        value = self._find(utterance, place)
        if value is not None and not isinstance(value, str):
            raise InputError(
                f"task {self.name!r}: expected text at {place!r} of utterance {utterance.id!r}, "
                f"found {type(value).__name__}; name another place"
            )
        return value or None

    def _find(self, utterance: Utterance, place: str) -> Any:
        value: Any = to_row(utterance)
        for key in place.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def example_of(self, reference: str) -> str:
        """An answer that is right where this is the reference: of several right ones the first."""
        return read_golds(reference)[0] if GOLDS & set(self.metrics) else reference


def _as_text(value: Any) -> str:
    if not isinstance(value, list):
        return str(value).strip()
    return "\n".join(
        f"({letter}) {str(one).strip()}"
        for letter, one in zip(ascii_uppercase, value, strict=False)
    )


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
        normalizer: for `NORMALIZED` metrics; error rates leave out utterances whose reference has
            no words after it.

    Raises:
        InputError: nothing to score, or references that are no labels.
    """
    if metric in ERROR_RATES:
        return _error_rate(metric, pairs, normalizer)
    if metric in NORMALIZED:
        assert normalizer is not None
        return (squad_em if metric == "spoken_em" else squad_f1)(pairs, normalizer)
    match metric:
        case "fitting":
            return fitting_replies(pairs, task.phrases)
        case "bleu":
            return bleu(pairs, task.language)
        case "accuracy":
            return label_accuracy(pairs, task.labels)
        case "unweighted_accuracy" | "macro_f1" | "weighted_f1":
            return mean_of_labels(metric, pairs, task.labels)
        case "invalid_rate":
            return invalid_rate(pairs, task.labels)
        case "slurp_f1" | "slot_f1" | "ner_f1" | "ner_label_f1":
            return frame_f1(metric, pairs)
        case _:
            return _OF_PAIRS[metric](pairs)


_OF_PAIRS: dict[str, Callable[[Pairs], Statistics]] = {
    "answered": answered,
    "chrf": chrf,
    "distinct": distinct_replies,
    "exact_match": lambda pairs: exact_match(pairs.normalized(_STRIPPED)),
    "squad_em": squad_em,
    "squad_f1": squad_f1,
    "contains_gold": contains_gold,
    "choice_accuracy": choice_accuracy,
    "unparsed_choices": unparsed_choices,
    "conclusion_accuracy": conclusion_accuracy,
    "unparsed_conclusions": unparsed_conclusions,
    "refusal_rate": refusal_rate,
    "intent_accuracy": intent_accuracy,
    "invalid_frames": invalid_frames,
}


def _error_rate(metric: MetricName, pairs: Pairs, normalizer: Normalizer | None) -> Statistics:
    if metric == "gigaspeech_wer":
        kept = drop_empty_references(pairs.normalized(GIGASPEECH_WRITTEN))
        return replace(word_error_rate(kept), metric=metric)
    assert normalizer is not None
    kept = drop_empty_references(pairs.normalized(normalizer))
    return word_error_rate(kept) if metric == "wer" else character_error_rate(kept)


def count_invalid(task: Task, pairs: Pairs) -> int | None:
    """Return how many answers could not be read; None where any text is an answer."""
    if task.labels:
        found = invalid_rate(pairs, task.labels)
    elif CHOICES & set(task.metrics):
        found = unparsed_choices(pairs)
    elif VERDICTS & set(task.metrics):
        found = unparsed_conclusions(pairs)
    elif FRAMES & set(task.metrics):
        found = invalid_frames(pairs)
    else:
        return None
    return int(found.counts[:, 0].sum())


def recognition_metrics(language: str) -> tuple[MetricName, ...]:
    """Error rates of transcripts in a language: words first, unless it does not space them."""
    unspaced = re.split("[-_]", language.lower())[0] in ("ja", "yue", "zh")
    return ("cer",) if unspaced else ("wer", "cer")
