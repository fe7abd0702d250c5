"""Conversations on disk become examples: both views as tokens, and the features of the audio.

Only where each line begins, how long it is in seconds and tokens, and where its audio is if that is
on the hub, is kept in memory (24 bytes a conversation); the line itself is read again when it is
asked for, so that millions of conversations cost a worker nothing. What a recording sounds like and
how many placeholders it takes is asked of functions that are handed in, because the encoder and
adapter know. Files enter, `Example`s leave.
"""

import logging
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from blsp.errors import InputError
from blsp.manifest import (
    AudioPart,
    Conversation,
    build_conversation,
    checked,
    find_root,
    parse_conversation,
    read_meta,
    scan_rows,
)
from blsp.model.encoder import encoder_lengths
from blsp.model.processing import Features
from blsp.regions import Places
from blsp.rendering import IGNORED, Rendered, Renderer

FRAMES_PER_SECOND = 100
"""Log-mel frames; Whisper's hop is 10 ms."""

_SHARE_FROM = 1000
"""A share of unreadable recordings means something only among this many."""

logger = logging.getLogger(__name__)

LoadFeatures = Callable[[AudioPart, Path], Features]
"""A recording and the root its path is relative to; `InputError` if it cannot be read."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is trained on."""

    conversations: tuple[Path, ...]
    """Files of conversations."""
    weights: tuple[float, ...] = ()
    """How often each file counts in an epoch: 2 is twice, 0.5 a drawn half, the same in all epochs;
    none is once each."""
    trained: Literal["last", "all"] = "last"
    """Which responses of a conversation carry a loss."""
    foreign: bool = False
    """Accept conversations that another language model or template wrote, or nobody knows which."""
    max_unreadable_share: float = 0.01
    """Training stops when a larger share of the conversations has audio that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Demands:
    """What model and objectives ask of a conversation; one that cannot meet it is skipped."""

    decides_length: bool = False
    """Each recording becomes as many embeddings as its transcript has tokens, so that it must have
    some, and not more of them than the encoder has rows."""
    emotions: tuple[str, ...] = ()
    """Emotions that can be told apart; a recording of none of them is skipped, one of which none is
    stated is not."""

    def find_misfit(self, parts: Sequence[AudioPart], words: Sequence[int]) -> str | None:
        """Why a conversation cannot be trained on; ``words`` are the tokens of each recording."""
        for part, count in zip(parts, words, strict=True):
            if self.decides_length and not count:
                return "empty transcript"
            rows = encoder_lengths(round(part.duration * FRAMES_PER_SECOND))
            if self.decides_length and count > rows:
                return "more tokens than encoder rows"
            if self.emotions and part.emotion not in (None, *self.emotions):
                return f"unknown emotion {part.emotion!r}"
        return None

    def label(self, part: AudioPart) -> int:
        """The number of a recording's emotion."""
        return self.emotions.index(part.emotion) if part.emotion in self.emotions else IGNORED


@dataclass(frozen=True, kw_only=True)
class Example:
    """One conversation, ready for a batch. T and U are the lengths of the two views."""

    id: str
    input_ids: Tensor
    """(T,) student view: one placeholder a speech embedding."""
    labels: Tensor
    """(T,) -100 where nothing is trained."""
    teacher_input_ids: Tensor
    """(U,) teacher view."""
    teacher_labels: Tensor
    """(U,)"""
    features: tuple[Features, ...] = ()
    """Of each recording, in order."""
    transcripts: tuple[tuple[int, int], ...] = ()
    """Begin and end of what each recording says in the teacher view, in order."""
    speech_lengths: tuple[int, ...] = ()
    """Placeholders of each recording in the student view, in order."""
    emotions: tuple[int, ...] = ()
    """Number of each recording's emotion, -100 where none is stated."""
    unreadable: str | None = None
    """Why the audio could not be read; such an example has no tokens and is left out of a batch."""


class ConversationDataset(Dataset[Example]):
    """The conversations of one or more files.

    Args:
        config: which files, and how strict to be.
        renderer: with the audio token of the model in training.
        load_features: a recording and its root -> log-mel and true frames.
        num_speech_tokens: frames -> how many placeholders the recording takes.
        llm: id and revision of the model in training, to be compared with that of the files.
        demands: of model and objectives; conversations that do not meet them are `skipped`.

    Raises:
        InputError: a bad line, a conversation that cannot be rendered, or a file written by another
            language model or template.
        UnreachableError: audio is on a hub that does not answer, now or when an example is asked
            for. That does not count as unreadable audio: all that lies there would be.
    """

    def __init__(
        self,
        config: DataConfig,
        renderer: Renderer,
        load_features: LoadFeatures,
        num_speech_tokens: Callable[[int], int],
        *,
        llm: str | None = None,
        demands: Demands | None = None,
    ) -> None:
        self.config, self.renderer = config, renderer
        self.demands = demands or Demands()
        self.skipped: Counter[str] = Counter()
        """Why conversations are not here -> how many."""
        self.labelled = 0
        """Recordings with an emotion of those in demand."""
        self.load_features, self.num_speech_tokens = load_features, num_speech_tokens
        self.unreadable: dict[str, str] = {}
        """id -> why, of the recordings this process could not read."""
        self._read = 0
        self._roots = [find_root(path) for path in config.conversations]
        self.sources: dict[tuple[str | None, str | None], list[float]] = {}
        """Corpus and licence -> conversations and seconds of audio."""
        offsets, durations, tokens, self._firsts = array("q"), array("f"), array("i"), [0]
        places = Places()
        weights = config.weights or (1.0,) * len(config.conversations)
        for path, weight in zip(config.conversations, weights, strict=True):
            if not config.foreign:
                _check_origin(path, renderer, llm)
            self._scan(path, offsets, durations, tokens, places)
            first = self._firsts[-1]
            for column in (offsets, durations, tokens, places.numbers) if weight != 1 else ():
                column[first:] = _weigh(column[first:], weight)
            self._firsts.append(len(offsets))
        self._offsets = np.frombuffer(offsets, dtype=np.int64)
        self.durations = np.frombuffer(durations, dtype=np.float32)
        """(N,) seconds of audio."""
        self.tokens = np.frombuffer(tokens, dtype=np.int32)
        """(N,) length of the longer view."""
        self.regions = places.find_regions()
        """What is read together; None where all audio lies here."""

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Example:
        conversation, root = self.read_conversation(index)
        self._read += 1
        try:
            features = tuple(self.load_features(part, root) for part in conversation.recordings)
        except InputError as error:
            return self._leave_out(conversation.id, str(error))
        student = self.renderer.render(conversation, view="student", trained=self.config.trained)
        teacher = self.renderer.render(conversation, view="teacher", trained=self.config.trained)
        words = [end - start for start, end in teacher.transcripts]
        counts = [self.num_speech_tokens(frames) for _, frames in features]
        counts = words if self.demands.decides_length else counts
        input_ids, labels = expand_placeholders(student, counts)
        return Example(
            id=conversation.id,
            input_ids=torch.tensor(input_ids),
            labels=torch.tensor(labels),
            teacher_input_ids=torch.tensor(teacher.ids),
            teacher_labels=torch.tensor(teacher.labels),
            features=features,
            transcripts=tuple(teacher.transcripts),
            speech_lengths=tuple(counts),
            emotions=tuple(self.demands.label(part) for part in conversation.recordings),
        )

    def recordings(self) -> Iterator[tuple[AudioPart, Path, LoadFeatures]]:
        """Yield every recording once: itself, its root and what reads it."""
        seen = set()
        for index in range(len(self)):
            conversation, root = self.read_conversation(index)
            for part in conversation.recordings:
                key = (root, part.audio, part.start, part.duration)
                if key not in seen:
                    seen.add(key)
                    yield part, root, self.load_features

    def select(self, indices: Sequence[int]) -> "ConversationDataset":
        """Return a data set of some of the conversations, in ascending order."""
        kept = np.unique(np.asarray(indices, dtype=np.int64))
        chosen = copy(self)
        chosen._offsets = self._offsets[kept]
        chosen.durations, chosen.tokens = self.durations[kept], self.tokens[kept]
        chosen.regions = self.regions.select(kept) if self.regions else None
        chosen._firsts = np.searchsorted(kept, self._firsts).tolist()
        return chosen

    def read_conversation(self, index: int) -> tuple[Conversation, Path]:
        """Read one conversation and the root of its audio."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        file = int(np.searchsorted(self._firsts, index, side="right")) - 1
        path = self.config.conversations[file]
        with path.open("rb") as lines:
            lines.seek(int(self._offsets[index]))
            data = lines.readline()
        try:
            return parse_conversation(data), self._roots[file]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: expected the file as it was when training began, found it changed "
                f"({error}); start again"
            ) from error

    def _scan(
        self, path: Path, offsets: array, durations: array, tokens: array, places: Places
    ) -> None:
        for line in scan_rows(path, "conversations"):
            conversation = build_conversation(checked(path, line))
            try:
                length, misfit = self._count_tokens(conversation)
            except InputError as error:
                raise InputError(f"{path}:{line.number}: {error}") from error
            if misfit:
                self.skipped[misfit] += 1
                continue
            labels = map(self.demands.label, conversation.recordings)
            self.labelled += sum(label != IGNORED for label in labels)
            seconds = sum(part.duration for part in conversation.recordings)
            known = self.sources.setdefault((conversation.source, conversation.license), [0, 0.0])
            known[0] += 1
            known[1] += seconds
            offsets.append(line.offset)
            durations.append(seconds)
            tokens.append(length)
            places.add([part.audio for part in conversation.recordings])

    def _count_tokens(self, conversation: Conversation) -> tuple[int, str | None]:
        """Return the length of the longer view, where the audio's is that of its stated duration;
        and why the conversation cannot be used, if so."""
        teacher = self.renderer.render(conversation, view="teacher", trained=self.config.trained)
        words = [end - start for start, end in teacher.transcripts]
        misfit = self.demands.find_misfit(conversation.recordings, words)
        heard = sum(
            self.num_speech_tokens(round(part.duration * FRAMES_PER_SECOND))
            for part in conversation.recordings
        )
        return len(teacher.ids) + max(0, heard - sum(words)), misfit

    def _leave_out(self, name: str, reason: str) -> Example:
        """Name, count and leave out a conversation; stop when there are too many."""
        if name not in self.unreadable:
            logger.warning("left out %s: %s", name, reason)
        self.unreadable[name] = reason
        share = self.config.max_unreadable_share
        if len(self.unreadable) > share * max(self._read, min(len(self), _SHARE_FROM)):
            raise InputError(
                f"expected at most {share:.1%} of the conversations with unreadable audio, found "
                f"{len(self.unreadable)} among {self._read}, the last {name} ({reason}); repair "
                "the audio, drop the lines (blsp data validate --decode finds them), or raise "
                "data.max_unreadable_share"
            )
        nothing = torch.empty(0, dtype=torch.long)
        return Example(
            id=name,
            input_ids=nothing,
            labels=nothing,
            teacher_input_ids=nothing,
            teacher_labels=nothing,
            unreadable=reason,
        )


def _weigh(column: array, weight: float) -> array:
    """The values of a file's conversations as often as it counts, each column alike."""
    count = len(column)
    often, rest = divmod(weight, 1.0)
    drawn = np.random.default_rng(count).permutation(count)[: round(rest * count)]
    some = array(column.typecode)
    some.frombytes(np.asarray(column)[np.sort(drawn)].tobytes())
    return column * int(often) + some


def expand_placeholders(student: Rendered, counts: Sequence[int]) -> tuple[list[int], list[int]]:
    """Repeat the placeholder of each recording as often as it has speech embeddings.

    Args:
        student: a student view.
        counts: embeddings of each of its recordings, in order.

    Returns:
        Ids and labels of equal length; no placeholder is trained.
    """
    ids, labels, position = [], [], 0
    for (placeholder, _), count in zip(student.audio, counts, strict=True):
        ids += student.ids[position:placeholder] + [student.ids[placeholder]] * count
        labels += student.labels[position:placeholder] + [IGNORED] * count
        position = placeholder + 1
    return ids + student.ids[position:], labels + student.labels[position:]


def _check_origin(path: Path, renderer: Renderer, llm: str | None) -> None:
    """Refuse responses that are not the trained model's own: they teach it to change."""
    advice = "write them with this model (blsp continuations), or accept it with data.foreign: true"
    meta = read_meta(path)
    if meta is None or meta.template is None:
        raise InputError(
            f"{path}: expected a side file that names the language model and template that wrote "
            f"the conversations, found none; {advice}"
        )
    ours = renderer.template_fingerprint()
    if meta.template != ours:
        raise InputError(
            f"{path}: expected conversations rendered with template {ours}, found {meta.template} "
            f"(by {meta.llm}); {advice}"
        )
    if llm is not None and meta.llm != llm:
        raise InputError(
            f"{path}: expected conversations written by {llm}, found {meta.llm}; {advice}"
        )
