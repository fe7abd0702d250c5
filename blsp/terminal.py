"""`blsp chat`: a conversation with a checkpoint in the terminal, by typing and by speaking.

Lines of text are turns; `/file` plays a recording to the model and, where the model knows only
synthetic voices, `/say` lets one speak. The whole conversation is shown to the model at every turn,
recordings as recordings. Answers appear word by word, Ctrl-C stops one. Lines may come from a pipe.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

import numpy as np
from transformers.utils import logging

from blsp.arguments import (
    add_bits_option,
    add_checkpoint_options,
    add_generation_options,
    open_checkpoint,
    read_generation,
)
from blsp.audio import SAMPLING_RATE, load_audio
from blsp.errors import InputError
from blsp.generation import GenerationConfig, stream_answer
from blsp.manifest import AudioPart, Message, Part, TextPart
from blsp.model import BlspForConditionalGeneration, BlspProcessor
from blsp.prompts import build_speech_prompt
from blsp.rendering import Renderer

VOICE = "en-us+f2"
"""Who speaks after /say unless another voice is named."""


@dataclass(kw_only=True)
class Chat:
    """A conversation so far, and the model it is with."""

    model: BlspForConditionalGeneration
    processor: BlspProcessor
    renderer: Renderer
    config: GenerationConfig
    system: str | None = None
    messages: list[Message] = field(default_factory=list)
    audios: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.forget()

    @property
    def hears_espeak_only(self) -> bool:
        """The encoder's configuration says that it was trained on eSpeak's voices alone."""
        return getattr(self.model.config.audio_config, "speech", None) == "espeak"

    def forget(self) -> None:
        """Begin a new conversation."""
        self.messages, self.audios = [], []
        if self.system:
            self.messages.append(Message(role="system", content=(TextPart(text=self.system),)))

    def tell(self, text: str, on_text: Callable[[str], object]) -> str:
        """Take a typed turn; returns the answer, which `on_text` gets word by word."""
        return self._answer(TextPart(text=text), [], on_text)

    def play(self, audio: np.ndarray, on_text: Callable[[str], object]) -> str:
        """Take a spoken turn of (n,) samples at 16 kHz."""
        seconds = len(audio) / SAMPLING_RATE
        part = AudioPart(audio="chat", duration=seconds, transcript="")
        return self._answer(part, [audio], on_text)

    def _answer(self, part: Part, heard: list[np.ndarray], on_text: Callable[[str], object]) -> str:
        """Answer a turn; one that fails or is stopped before its first word never was."""
        messages = [*self.messages, Message(role="user", content=(part,))]
        audios = [*self.audios, *heard]
        prompt = build_speech_prompt(self.renderer, self.processor, messages, audios)
        said: list[str] = []

        def hand_on(text: str) -> None:
            said.append(text)
            on_text(text)

        try:
            stream_answer(self.model, self.processor, prompt, self.config, on_text=hand_on)
        except KeyboardInterrupt:
            on_text(" [stopped]")
        answer = "".join(said).strip()
        if answer:
            reply = Message(role="assistant", content=(TextPart(text=answer),))
            self.messages, self.audios = [*messages, reply], audios
        return answer


class Session:
    """Lines in, answers out.

    Args:
        chat: with the model.
        out: where answers go.
        say: text and voice -> samples; None where the model knows real voices.
    """

    def __init__(
        self, chat: Chat, out: TextIO, say: Callable[[str, str], np.ndarray] | None
    ) -> None:
        self.chat, self.out, self.say = chat, out, say
        self.commands: dict[str, tuple[str, str, Callable[[str], None]]] = {
            "/file": ("PATH", "play a recording to the model", self._play_file),
            "/new": ("", "forget the conversation", self._forget),
            "/mic": ("", "how to speak to it yourself", self._explain_microphone),
            "/help": ("", "this list", lambda _: self._help()),
            "/quit": ("", "leave", lambda _: None),
        }
        if say is not None:
            about = f"speak to the model (voice like {VOICE})"
            self.commands = {"/say": ("TEXT [VOICE]", about, self._say)} | self.commands

    def run(self, lines: Iterator[str]) -> None:
        """Greet and take lines until /quit or the end; what goes wrong is one line."""
        self._help()
        self._explain_microphone("")
        for line in map(str.strip, lines):
            name, _, rest = line.partition(" ")
            if name == "/quit":
                return
            try:
                self._take(line, name, rest.strip())
            except InputError as error:
                self._write(f"{error}\n")

    def _take(self, line: str, name: str, rest: str) -> None:
        if not line:
            return
        if not line.startswith("/"):
            self._show(lambda on_text: self.chat.tell(line, on_text))
        elif name in self.commands:
            self.commands[name][2](rest)
        elif name == "/say":
            raise InputError(
                "expected /file PATH, found /say, which is for models of eSpeak's voices; record "
                "yourself and play the file"
            )
        else:
            raise InputError(f"expected a command, found {name!r}; /help lists them")

    def _show(self, answer: Callable[[Callable[[str], object]], str]) -> None:
        if not answer(self._write):
            self._write("(no answer)")
        self._write("\n")

    def _play_file(self, path: str) -> None:
        if not path:
            raise InputError("expected a path after /file, found none; name a sound file")
        audio = load_audio(path)
        self._warn_foreign_voice()
        self._show(lambda on_text: self.chat.play(audio, on_text))

    def _say(self, rest: str) -> None:
        words, _, last = rest.rpartition(" ")
        text, voice = (words, last) if "+" in last else (rest, VOICE)
        if not text:
            raise InputError("expected words after /say, found none; give it some")
        assert self.say is not None
        audio = self.say(text, voice)
        self._show(lambda on_text: self.chat.play(audio, on_text))

    def _forget(self, _: str) -> None:
        self.chat.forget()
        self._write("a new conversation\n")

    def _warn_foreign_voice(self) -> None:
        if self.chat.hears_espeak_only:
            self._write("(this model knows eSpeak's voices only; others it will mishear)\n")

    def _explain_microphone(self, _: str) -> None:
        if self.chat.hears_espeak_only:
            self._write(
                "No microphone: this tiny model knows eSpeak's voices and a small household "
                "vocabulary only; let one speak with /say TEXT.\n"
            )
        else:
            self._write("No microphone here yet: record yourself and play it with /file PATH.\n")

    def _help(self) -> None:
        calls = {f"{name} {takes}".strip(): about for name, (takes, about, _) in self._listed()}
        width = max(map(len, calls))
        self._write("Type to the model, or:\n")
        for call, about in calls.items():
            self._write(f"  {call:<{width}}  {about}\n")

    def _listed(self) -> list[tuple[str, tuple[str, str, Any]]]:
        return list(self.commands.items())

    def _write(self, text: str) -> None:
        self.out.write(text)
        self.out.flush()


def read_lines(source: TextIO) -> Iterator[str]:
    """Lines of a pipe, or of a person who is prompted; Ctrl-C at the prompt leaves."""
    if not source.isatty():
        yield from source
        return
    while True:
        try:
            yield input("> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return


def main(argv: Sequence[str]) -> int:
    """Run `blsp chat`."""
    parser = argparse.ArgumentParser(
        prog="blsp chat", description="Talk with a checkpoint in the terminal."
    )
    add_checkpoint_options(parser)
    add_bits_option(parser)
    parser.add_argument("--system", help="a system prompt")
    add_generation_options(parser)
    options = parser.parse_args(argv)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model, processor, renderer = open_checkpoint(options)
    chat = Chat(
        model=model,
        processor=processor,
        renderer=renderer,
        config=read_generation(options),
        system=options.system,
    )
    say = _speak if chat.hears_espeak_only else None
    Session(chat, sys.stdout, say).run(read_lines(sys.stdin))
    return 0


def _speak(text: str, voice: str) -> np.ndarray:
    from blsp.tiny.speech import say  # eSpeak NG is optional, and GPL

    return say(text, voice=voice)
