"""What a model is asked, in writing or aloud, made ready to be answered.

An instruction, with a recording at `{audio}`, becomes a message; messages with the samples of their
recordings become a `SpeechPrompt`: token ids and features. `blsp.generation` answers it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blsp.dataset import expand_placeholders
from blsp.errors import InputError
from blsp.manifest import Message, Part, TextPart
from blsp.model.modeling import BlspForConditionalGeneration
from blsp.model.processing import BlspProcessor, Features
from blsp.rendering import Renderer

AUDIO_PLACE = "{audio}"
"""Where a recording stands in the text of an instruction."""


@dataclass(frozen=True)
class SpeechPrompt:
    """A prompt that is heard."""

    ids: list[int]
    """One placeholder a speech embedding."""
    features: tuple[Features, ...]
    """Of each recording, in order."""


def read_prompt(text: str) -> str:
    """A prompt as it is typed in a command, where `\\n` begins a line."""
    return text.replace("\\n", "\n")


def place_audio(instruction: str, part: Part, *, teacher: str | None = None) -> Message:
    """Return the user's message: an instruction with a recording (or its words) at `{audio}`.

    Without `{audio}` the recording comes first, on a line of its own.

    Args:
        instruction: what is asked.
        part: what stands at `{audio}`.
        teacher: what the teacher view is asked instead.

    Raises:
        InputError: `{audio}` twice, or beside other words on its line.
    """
    before, after = _split_at_audio(instruction)
    read_before, read_after = (before, after) if teacher is None else _split_at_audio(teacher)
    first, last = _build_text(before, read_before), _build_text(after, read_after)
    return Message(role="user", content=(*first, part, *last))


def _build_text(text: str, teacher: str) -> tuple[TextPart, ...]:
    """One part, or none where neither view has words."""
    if text == teacher:
        return (TextPart(text=text),) if text else ()
    return (TextPart(text=text, teacher=teacher),)


def _split_at_audio(instruction: str) -> tuple[str, str]:
    """What comes before the recording, and what after it."""
    if AUDIO_PLACE not in instruction:
        instruction = f"{AUDIO_PLACE}\n{instruction}".rstrip()
    alone = [line.strip() for line in instruction.splitlines()].count(AUDIO_PLACE)
    if alone != 1 or instruction.count(AUDIO_PLACE) != 1:
        raise InputError(
            f"expected {AUDIO_PLACE} once, on a line of its own, found {instruction!r}; words "
            "tokenise differently in mid-line"
        )
    before, _, after = instruction.partition(AUDIO_PLACE)
    return before, after


def build_renderer(model: BlspForConditionalGeneration, processor: BlspProcessor) -> Renderer:
    """The renderer of a checkpoint, with the template variables it was trained with."""
    return Renderer(
        processor.tokenizer,
        model.config.template_variables,
        audio_token_id=processor.audio_token_id,
    )


def build_speech_prompt(
    renderer: Renderer,
    processor: BlspProcessor,
    messages: Sequence[Message],
    audios: Sequence[np.ndarray],
) -> SpeechPrompt:
    """Render messages as they are heard.

    Args:
        renderer: with the audio token of the model.
        processor: of the model.
        messages: up to the answer to come; only the place of their recordings matters.
        audios: (n,) mono samples at 16 kHz of each recording in order.
    """
    rendered = renderer.render_prompt(messages, view="student")
    counts = [processor.num_speech_tokens(len(audio)) for audio in audios]
    if len(counts) != len(rendered.audio):
        raise ValueError(
            f"expected samples of {len(rendered.audio)} recordings, found {len(counts)}; give one "
            "array for each audio part"
        )
    ids, _ = expand_placeholders(rendered, counts)
    return SpeechPrompt(ids, tuple(processor.extract_features(audio) for audio in audios))
