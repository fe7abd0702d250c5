"""What is asked about a transcript: behaviours, and which of them each utterance gets.

A behaviours file is a list of kinds (continue it, repeat it, ...) with several wordings each. For
an utterance some kinds are drawn, a wording of each, and whether the words come before or after it;
the draw depends on the seed and the utterance's id alone, so that it survives other utterances
coming or going. Utterances enter, `Request`s leave.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from blsp.config import load_config
from blsp.errors import InputError
from blsp.generation import AUDIO_PLACE, place_audio
from blsp.manifest import AudioPart, Message, TextPart, Utterance

SHIPPED = {"general": "behaviours.yaml", "tiny": "tiny/behaviours.yaml"}
"""Name of a behaviours file in the package -> where it lies."""


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """Something that is asked about a transcript, in several wordings."""

    kind: str
    """Its name, which conversations carry."""
    prompts: tuple[str, ...]
    """`{audio}` alone on a line marks the words; without it they come before or after, as drawn."""
    with_hint: bool = False
    """Tell the language model the emotion, which the words do not; the conversation does not."""


@dataclass(frozen=True, kw_only=True)
class Behaviours:
    """A behaviours file."""

    behaviours: tuple[Behaviour, ...]
    """What training aligns."""
    held_out: tuple[Behaviour, ...] = ()
    """What only evaluation asks."""
    hints: dict[str, str] = field(default_factory=dict)
    """Emotion of an utterance -> how a text says it."""

    def __post_init__(self) -> None:
        every = [*self.behaviours, *self.held_out]
        if not self.behaviours:
            raise InputError("behaviours: expected at least one, found none; write one")
        for kind, count in Counter(behaviour.kind for behaviour in every).items():
            if count > 1:
                raise InputError(
                    f"behaviours: expected every kind once, found {kind!r} {count} times; join "
                    "their prompts"
                )
        for behaviour in every:
            if not behaviour.prompts:
                raise InputError(f"{behaviour.kind}: expected prompts, found none; write one")
            for prompt in behaviour.prompts:  # refuses a place in mid-line
                place_audio(prompt, TextPart(text=""))


@dataclass(frozen=True, kw_only=True)
class Request:
    """One answer to be written."""

    utterance: Utterance
    kind: str
    prompt: str
    """With `{audio}` on a line of its own."""
    hint: str = ""

    @property
    def id(self) -> str:
        """Of the conversation to come."""
        return f"{self.utterance.id}/{self.kind}"

    def question(self) -> Message:
        """What the conversation asks."""
        return place_audio(self.prompt, _audio_part(self.utterance))

    def question_with_hint(self) -> Message:
        """What the language model is asked."""
        prompt = f"{self.hint}\n{self.prompt}" if self.hint else self.prompt
        return place_audio(prompt, _audio_part(self.utterance))


def load_behaviours(name: str | Path) -> Behaviours:
    """Load a behaviours file, or one of the package by its name.

    Raises:
        InputError: no such file, or what it says cannot work.
    """
    path = Path(__file__).parent / SHIPPED[str(name)] if str(name) in SHIPPED else Path(name)
    if not path.is_file():
        raise InputError(
            f"{name}: expected a behaviours file or one of {', '.join(SHIPPED)}, found neither; "
            "check the path"
        )
    try:
        return load_config(Behaviours, path)
    except InputError as error:
        where = "" if str(path) in str(error) else f"{path}: "
        raise InputError(f"{where}{error}") from error


def draw_requests(
    utterances: Sequence[Utterance], behaviours: Behaviours, *, per_utterance: int, seed: int
) -> list[Request]:
    """Draw what is asked about each utterance that has words; other utterances change nothing."""
    available = len(behaviours.behaviours)
    if not 1 <= per_utterance <= available:
        raise InputError(
            f"--per-utterance: expected 1 to {available}, the number of behaviours, found "
            f"{per_utterance}; write more behaviours or ask for fewer"
        )
    requests = []
    for utterance in utterances:
        rng = random.Random(f"{seed} {utterance.id}")
        for behaviour in rng.sample(behaviours.behaviours, per_utterance):
            prompt = place_prompt(rng.choice(behaviour.prompts), first=rng.random() < 0.5)
            hint = behaviours.hints.get(utterance.emotion or "", "") if behaviour.with_hint else ""
            requests.append(
                Request(utterance=utterance, kind=behaviour.kind, prompt=prompt, hint=hint)
            )
    return requests


def place_prompt(prompt: str, *, first: bool) -> str:
    """Put the words after the instruction or before it, unless the prompt says where."""
    if AUDIO_PLACE in prompt:
        return prompt
    if not first:
        return f"{AUDIO_PLACE}\n{prompt}"
    joint = "" if prompt.endswith(("?", "!", ".", ":")) else ":"
    return f"{prompt}{joint}\n{AUDIO_PLACE}"


def _audio_part(utterance: Utterance) -> AudioPart:
    return AudioPart(
        audio=utterance.audio,
        duration=utterance.duration,
        transcript=utterance.text or "",
        start=utterance.start,
        language=utterance.language,
        emotion=utterance.emotion,
    )
