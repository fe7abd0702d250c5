"""Where a recording stands in what a model is asked."""

from typing import Any

import pytest

from blsp.errors import InputError
from blsp.manifest import AudioPart, TextPart
from blsp.prompts import place_audio

AUDIO = AudioPart(audio="a.wav", duration=1.0, transcript="turn on the light")


@pytest.mark.parametrize(
    ("instruction", "content"),
    [
        ("Repeat", [AUDIO, TextPart(text="\nRepeat")]),
        ("Repeat:\n{audio}", [TextPart(text="Repeat:\n"), AUDIO]),
        ("A\n{audio}\nB", [TextPart(text="A\n"), AUDIO, TextPart(text="\nB")]),
        ("", [AUDIO]),
    ],
)
def test_a_recording_stands_where_the_instruction_says(
    instruction: str, content: list[Any]
) -> None:
    assert list(place_audio(instruction, AUDIO).content) == content


@pytest.mark.parametrize(
    ("instruction", "teacher", "content"),
    [
        ("Go on", "Sad:\n{audio}\nGo on", [("", "Sad:\n"), AUDIO, ("\nGo on", None)]),
        ("Go on:\n{audio}", "{audio}\nGo on", [("Go on:\n", ""), AUDIO, ("", "\nGo on")]),
        ("Hear:\n{audio}", "Read:\n{audio}", [("Hear:\n", "Read:\n"), AUDIO]),
        ("Go on", "Go on", [AUDIO, ("\nGo on", None)]),
    ],
)
def test_the_teacher_may_be_asked_otherwise(
    instruction: str, teacher: str, content: list[Any]
) -> None:
    parts = [
        TextPart(text=part[0], teacher=part[1]) if isinstance(part, tuple) else part
        for part in content
    ]
    assert list(place_audio(instruction, AUDIO, teacher=teacher).content) == parts


@pytest.mark.parametrize("instruction", ["Repeat {audio}", "{audio}\n{audio}", "{audio} again"])
def test_a_recording_in_mid_line_is_refused(instruction: str) -> None:
    with pytest.raises(InputError, match="on a line of its own"):
        place_audio(instruction, AUDIO)
