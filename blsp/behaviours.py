"""What is asked about a transcript: behaviours, and which of them each utterance gets.

A behaviours file is a list of kinds (continue it, repeat it, ...) with several wordings each, which
may follow the utterance's language. For an utterance some kinds are drawn, a wording of each, and
whether the words come before or after it; the draw depends on the seed and the utterance's id
alone, so that it survives other utterances coming or going. Where the voice tells what the words do
not (emotion), the language model is told in writing: by a hint, or in another wording. Utterances
enter, `Request`s leave.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from blsp.config import load_config
from blsp.contexts import NOTHING, Context
from blsp.errors import InputError
from blsp.languages import base_language
from blsp.manifest import AudioPart, Message, TextPart, Utterance
from blsp.prompts import AUDIO_PLACE, place_audio, read_prompt

SHIPPED = {
    "general": "styles/general.yaml",
    "emotions": "styles/blsp-emo.yaml",
    "instructions": "styles/instructions.yaml",
    "blsp": "styles/blsp.yaml",
    "blsp-emo": "styles/blsp-emo.yaml",
    "repeat": "styles/repeat.yaml",
    "reply": "styles/reply.yaml",
    "translate-de": "styles/translate-de.yaml",
    "translate-en": "styles/translate-en.yaml",
    "translate-zh": "styles/translate-zh.yaml",
    "tiny": "tiny/behaviours.yaml",
    "tiny-emotions": "tiny/emotions.yaml",
}
"""Name of a behaviours file in the package -> where it lies."""

EMOTION = "{emotion}"
"""In a text prompt: the emotion of the utterance."""

_ENDS = tuple("?!.:\uff1f\uff01\u3002\uff1a")  # Chinese has its own


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """Something that is asked about a transcript, in several wordings."""

    kind: str
    """Its name, which conversations carry."""
    prompts: tuple[str, ...]
    """`{audio}` alone on a line marks the words; without it they come before or after, as drawn."""
    text_prompts: tuple[str, ...] = ()
    """What the language model is asked instead of `prompts`, one for each and in their order;
    `{emotion}` is the utterance's."""
    prompts_by_language: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Language of the utterance -> what is asked instead of `prompts`, which are for all others."""
    translates_to: str | None = None
    """Language of the answer: an utterance that is in it is left out, and so is an answer that
    surely is not."""
    with_hint: bool = False
    """Tell the language model the emotion, on a line before the prompt; the model that hears is to
    find it in the voice."""

    def __post_init__(self) -> None:
        if not self.prompts:
            raise InputError(f"{self.kind}: expected prompts, found none; write one")
        if self.text_prompts and self.prompts_by_language:
            raise InputError(
                f"{self.kind}: expected text_prompts or prompts_by_language, found both; write a "
                "file for each language"
            )
        for language, prompts in self.prompts_by_language.items():
            if not prompts or base_language(language) != language:
                raise InputError(
                    f"{self.kind}: expected prompts of languages such as de or zh, found "
                    f"{len(prompts)} of {language!r}; write them so"
                )
        if self.text_prompts and len(self.text_prompts) != len(self.prompts):
            raise InputError(
                f"{self.kind}: expected as many text_prompts as prompts, {len(self.prompts)}, "
                f"found {len(self.text_prompts)}; write one for each, in their order"
            )
        for prompt in self.every_prompt():
            if EMOTION in prompt:
                raise InputError(
                    f"{self.kind}: expected {EMOTION} in text_prompts only, found it in "
                    f"{prompt!r}, which asks about a voice; move it"
                )
        for prompt in (*self.every_prompt(), *self.text_prompts):  # refuses a place in mid-line
            place_audio(prompt, TextPart(text=""))

    def every_prompt(self) -> tuple[str, ...]:
        """What the model that hears may be asked, in all languages."""
        return (*self.prompts, *chain.from_iterable(self.prompts_by_language.values()))

    def prompts_for(self, utterance: Utterance) -> tuple[str, ...]:
        """What may be asked about an utterance, in its language if there are prompts for it."""
        return self.prompts_by_language.get(base_language(utterance.language) or "", self.prompts)


@dataclass(frozen=True, kw_only=True)
class Behaviours:
    """A behaviours file."""

    behaviours: tuple[Behaviour, ...]
    """What training aligns."""
    held_out: tuple[Behaviour, ...] = ()
    """What only evaluation asks."""
    hints: dict[str, str] = field(default_factory=dict)
    """Emotion of an utterance -> how a text says it; empty where it says nothing."""

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
            if behaviour.with_hint and not self.hints:
                raise InputError(
                    f"{behaviour.kind}: expected hints for with_hint, found none; write them as "
                    "hints: {sad: The speaker sounds sad.}"
                )


@dataclass(frozen=True, kw_only=True)
class Request:
    """One answer to be written."""

    utterance: Utterance
    kind: str
    prompt: str
    """What the model that hears is asked, with `{audio}` on a line of its own."""
    text_prompt: str = ""
    """What the language model is asked instead, if anything else."""
    translates_to: str | None = None
    """The language that the answer has to be in."""
    context: Context = NOTHING
    """What stands before."""

    @property
    def id(self) -> str:
        """Of the conversation to come."""
        return f"{self.utterance.id}/{self.kind}"

    def question(self) -> Message:
        """What the conversation asks; its teacher view is what the language model is asked."""
        part = _audio_part(self.utterance)
        return place_audio(self.prompt, part, teacher=self.text_prompt or None)

    def messages(self) -> tuple[Message, ...]:
        """All of the conversation up to the answer."""
        return (*self.context.build_messages(), self.question())


def load_behaviours(name: str | Path) -> Behaviours:
    """Load a behaviours file, or one of the package by its name.

    A `.txt` file has a prompt a line, all of one kind that is named like the file.

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
        return _read_lines(path) if path.suffix == ".txt" else load_config(Behaviours, path)
    except InputError as error:
        where = "" if str(path) in str(error) else f"{path}: "
        raise InputError(f"{where}{error}") from error


def _read_lines(path: Path) -> Behaviours:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"expected UTF-8 text, found {error.reason}; re-save it") from error
    prompts = tuple(read_prompt(line.strip()) for line in lines if line.strip())
    return Behaviours(behaviours=(Behaviour(kind=path.stem, prompts=prompts),))


def draw_requests(
    utterances: Sequence[Utterance], behaviours: Behaviours, *, per_utterance: int, seed: int
) -> tuple[list[Request], Counter[str]]:
    """Draw what is asked about each utterance that has words; other utterances change nothing.

    Returns:
        The requests, and how many more were drawn that cannot be asked, by reason: a behaviour
        tells an emotion, and the utterance is `without emotion` or has an `unknown emotion`, one
        without a hint; or it translates, and the utterance is `in the target language`.
    """
    available = len(behaviours.behaviours)
    if not 1 <= per_utterance <= available:
        raise InputError(
            f"--per-utterance: expected 1 to {available}, the number of behaviours, found "
            f"{per_utterance}; write more behaviours or ask for fewer"
        )
    requests: list[Request] = []
    left_out: Counter[str] = Counter()
    for utterance in utterances:
        rng = random.Random(f"{seed} {utterance.id}")
        for behaviour in rng.sample(behaviours.behaviours, per_utterance):
            prompts = behaviour.prompts_for(utterance)
            number, first = rng.choice(range(len(prompts))), rng.random() < 0.5
            if reason := _find_lack(utterance, behaviour, behaviours.hints):
                left_out[reason] += 1
                continue
            prompt = place_prompt(prompts[number], first=first)
            read = place_prompt((behaviour.text_prompts or prompts)[number], first=first)
            told = _tell_emotion(read, utterance, behaviours.hints if behaviour.with_hint else {})
            text_prompt = told if told != prompt else ""
            requests.append(
                Request(
                    utterance=utterance,
                    kind=behaviour.kind,
                    prompt=prompt,
                    text_prompt=text_prompt,
                    translates_to=behaviour.translates_to,
                )
            )
    return requests, left_out


def _tell_emotion(prompt: str, utterance: Utterance, hints: dict[str, str]) -> str:
    emotion = utterance.emotion or ""
    hint = hints.get(emotion)
    return (f"{hint}\n" if hint else "") + prompt.replace(EMOTION, emotion)


def _find_lack(utterance: Utterance, behaviour: Behaviour, hints: dict[str, str]) -> str | None:
    """Why a behaviour cannot be asked about an utterance; None if it can."""
    target = base_language(behaviour.translates_to)
    if target and target == base_language(utterance.language):
        return "in the target language"
    tells = behaviour.with_hint or any(EMOTION in prompt for prompt in behaviour.text_prompts)
    if tells and not utterance.emotion:
        return "without emotion"
    return "unknown emotion" if behaviour.with_hint and utterance.emotion not in hints else None


def place_prompt(prompt: str, *, first: bool) -> str:
    """Put the words after the instruction or before it, unless the prompt says where."""
    if AUDIO_PLACE in prompt:
        return prompt
    if not first:
        return f"{AUDIO_PLACE}\n{prompt}"
    joint = "" if prompt.endswith(_ENDS) else ":"
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
