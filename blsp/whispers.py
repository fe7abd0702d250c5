"""A plain Whisper as a system of its own, beside models that hear or without any.

What the cascade reads needs a checkpoint, whose encoder says how it listens. A Whisper alone
hears as its makers had it: on 30 s of padding, greedy, as many tokens a window as in their program.
So its number can be held against a published one. It answers where words are asked for, and where
their translation into English is. What the user names enters; a `Recogniser` leaves.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from blsp.errors import InputError
from blsp.generation import GenerationConfig
from blsp.hearing import Hearing, transcribe
from blsp.languages import base_language
from blsp.manifest import Utterance
from blsp.model.foundations import resolve_folder
from blsp.systems import Audio
from blsp.tasks import Task
from blsp.transcription import MAX_NEW_TOKENS, Listener, load_listener

PADDING = "max"
"""What the decoder learnt from, and what published numbers are of."""

_NAMED = re.compile(r"(?:(?P<name>[^=]+)=)?whisper:(?P<source>.+)")


@dataclass(frozen=True, kw_only=True)
class Recogniser:
    """A Whisper that answers for itself."""

    name: str
    """In the tables."""
    folder: Path
    """Where it lies, with its table of spellings."""
    listener: Listener
    batch_size: int

    @property
    def description(self) -> Mapping[str, Any]:
        """What it is and how it decodes; a run is continued only with the same."""
        return {
            "whisper": self.listener.name,
            "sha256": self.listener.fingerprint,
            "dtype": str(self.listener.whisper.dtype),
            "audio_padding": PADDING,
            "max_new_tokens": MAX_NEW_TOKENS,
        }

    def check(self, task: Task, utterance: Utterance) -> None:
        """Refuse what this Whisper cannot be asked.

        Raises:
            InputError: a language that is not told or that it is not of, or a translation by a
                Whisper of English alone.
        """
        where = f"{self.name}, utterance {utterance.id!r}"
        language = find_spoken(task, utterance)
        if language is None:
            raise InputError(
                f"{where}: expected the `language` to translate from, found none; add it"
            )
        self.listener.check_language(language, where)
        made: Any = self.listener.whisper.generation_config
        if find_work(task) == "translate" and not getattr(made, "is_multilingual", False):
            raise InputError(
                f"{where}: expected a multilingual Whisper to translate, found one of English "
                "alone; name another"
            )

    def write(self, audios: Sequence[Audio], task: Task, language: str) -> list[str]:
        """Write down recordings of one language, in their order; longer ones in windows.

        Args:
            audios: (n,) mono samples at 16 kHz.
            task: that `find_work` accepts.
            language: of the speech.
        """
        return transcribe(
            self.listener.whisper,
            self.listener.processor,
            audios,
            config=GenerationConfig(batch_size=self.batch_size, max_new_tokens=MAX_NEW_TOKENS),
            hearing=Hearing(audio_padding=PADDING, language=language, task=find_work(task)),
        )


def names_whisper(text: str) -> bool:
    """Whether a `--system` is `[NAME=]whisper:SOURCE`."""
    return _NAMED.fullmatch(text) is not None


def load_recognisers(
    texts: Sequence[str], tasks: Sequence[Task], config: GenerationConfig
) -> list[Recogniser]:
    """Load the Whispers of `--system`.

    Args:
        texts: `[NAME=]whisper:SOURCE` each, a folder or hub id; the name is the end of that if no
            other is given.
        tasks: that they will be asked.
        config: of which the batch size counts.

    Raises:
        InputError: a task that asks for something else than words, or no whole Whisper.
    """
    for task in tasks if texts else ():
        find_work(task)  # before anything is loaded
    return [_load(text, config.batch_size) for text in texts]


def _load(text: str, batch_size: int) -> Recogniser:
    found = _NAMED.fullmatch(text)
    assert found is not None  # whoever calls asks `names_whisper`
    source = found["source"]
    return Recogniser(
        name=found["name"] or Path(source).absolute().name,
        folder=resolve_folder(source, None, what="Whisper"),
        listener=load_listener(source),
        batch_size=batch_size,
    )


def find_work(task: Task) -> Literal["transcribe", "translate"]:
    """Return what a Whisper does to answer a task.

    Raises:
        InputError: it can do neither.
    """
    if task.reference == "text":
        return "transcribe"
    if task.reference == "translation.en":
        return "translate"
    raise InputError(
        "--system whisper: expected a task that asks for the words or for their translation into "
        f"English, found {task.name!r}; leave it out, or name it in blsp bench asr or st --target "
        "en"
    )


def find_spoken(task: Task, utterance: Utterance) -> str | None:
    """Return the language that is spoken: the line's, else the task's where it asks for words."""
    known = utterance.language or (task.language if find_work(task) == "transcribe" else None)
    return base_language(known)
