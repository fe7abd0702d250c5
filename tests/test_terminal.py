"""The chat: lines in, answers out, the whole conversation at every turn."""

import io
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blsp import terminal
from blsp.audio import save_audio
from blsp.cli import main
from blsp.errors import InputError
from blsp.generation import GenerationConfig
from blsp.model import compose, save_checkpoint
from blsp.prompts import SpeechPrompt, build_renderer
from blsp.terminal import Chat, Session, read_lines
from tests.model.conftest import make_audio, save_llm, save_whisper


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose Whisper says that it knows eSpeak's voices only."""
    folder = tmp_path_factory.mktemp("models")
    llm = save_llm(folder / "llm", "qwen3", tie_word_embeddings=False)
    torch.manual_seed(3)
    pair = compose(llm=llm, encoder=save_whisper(folder / "whisper", speech="espeak"))
    save_checkpoint(*pair, folder / "checkpoint")
    return folder / "checkpoint"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("real")
    llm = save_llm(folder / "llm", "qwen3", tie_word_embeddings=False)
    torch.manual_seed(3)
    return compose(llm=llm, encoder=save_whisper(folder / "whisper"))


def build_chat(pair: Any, **fields: Any) -> Chat:
    model, processor = pair
    return Chat(
        model=model,
        processor=processor,
        renderer=build_renderer(model, processor),
        config=GenerationConfig(max_new_tokens=6),
        **fields,
    )


def talk(chat: Chat, *lines: str, say: Any = None) -> str:
    """What the session writes after its greeting."""
    out = io.StringIO()
    Session(chat, out, say).run(iter([]))
    greeting = out.getvalue()
    out = io.StringIO()
    Session(chat, out, say).run(iter(lines))
    return out.getvalue().removeprefix(greeting)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[SpeechPrompt]:
    """Every prompt the model got; it answers `yes one`, `yes two`, ..."""
    prompts: list[SpeechPrompt] = []

    def answer(_model: Any, _processor: Any, prompt: SpeechPrompt, _config: Any, *, on_text: Any):  # noqa: ANN202
        prompts.append(prompt)
        on_text("yes ")
        on_text(["one", "two", "three"][len(prompts) - 1])

    monkeypatch.setattr(terminal, "stream_answer", answer)
    return prompts


def test_a_turn_sees_all_turns_before_it(
    pair: Any, shown: list[SpeechPrompt], tmp_path: Path
) -> None:
    save_audio(tmp_path / "a.wav", make_audio(16_000))
    chat = build_chat(pair)
    out = talk(chat, f"/file {tmp_path / 'a.wav'}", "say it again", "/quit", "not read")
    assert out == "yes one\nyes two\n"
    tokenizer = chat.processor.tokenizer
    text = tokenizer.decode(shown[1].ids)
    heard = "<|audio|>" * 7
    assert text == (
        f"<|im_start|>user\n{heard}<|im_end|>\n<|im_start|>assistant\nyes one<|im_end|>\n"
        "<|im_start|>user\nsay it again<|im_end|>\n<|im_start|>assistant\n"
    )
    assert [len(prompt.features) for prompt in shown] == [1, 1]


def test_new_forgets_all_but_the_system_prompt(pair: Any, shown: list[SpeechPrompt]) -> None:
    chat = build_chat(pair, system="Be brief.")
    assert talk(chat, "hello", "/new", "hello") == "yes one\na new conversation\nyes two\n"
    assert shown[0] == shown[1]
    assert "Be brief." in chat.processor.tokenizer.decode(shown[0].ids)


def test_ctrl_c_stops_an_answer_and_keeps_what_was_said(
    pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(*_: Any, on_text: Any) -> None:
        on_text("once upon ")
        raise KeyboardInterrupt

    monkeypatch.setattr(terminal, "stream_answer", answer)
    chat = build_chat(pair)
    assert talk(chat, "tell me a story") == "once upon  [stopped]\n"
    assert [message.role for message in chat.messages] == ["user", "assistant"]
    assert chat.messages[1].content[0].text == "once upon"  # type: ignore[union-attr]


def test_the_signal_of_ctrl_c_ends_a_generation_under_way(pair: Any) -> None:
    # A test run that was started in the background ignores the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    chat = build_chat(pair)
    chat.config = GenerationConfig(max_new_tokens=450, do_sample=True, temperature=50.0)
    pieces: list[str] = []

    def interrupt(text: str) -> None:
        pieces.append(text)
        if len(pieces) == 1:
            signal.raise_signal(signal.SIGINT)

    try:
        answer = chat.tell("hello", interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert pieces == [pieces[0], " [stopped]"]
    assert answer == pieces[0].strip()


def test_a_turn_without_an_answer_never_was(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "stream_answer", lambda *_, on_text: None)
    chat = build_chat(pair)
    assert talk(chat, "hello") == "(no answer)\n"
    assert chat.messages == []


def test_a_stopped_or_empty_marker_is_no_part_of_the_answer(
    pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(*_: Any, on_text: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(terminal, "stream_answer", answer)
    chat = build_chat(pair)
    talk(chat, "hello")
    assert chat.messages == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/file", "expected a path after /file"),
        ("/file nowhere.wav", "nowhere.wav"),
        ("/say hello", "which is for models of eSpeak's voices"),
        ("/dance", "expected a command, found '/dance'"),
        ("/help", "/file PATH"),
        ("/mic", "record yourself and play it with /file"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_the_chat_goes_on(
    pair: Any, shown: list[SpeechPrompt], line: str, said: str
) -> None:
    out = talk(build_chat(pair), line, "", "hello")
    assert said in out
    assert out.endswith("yes one\n")


def test_a_conversation_that_grew_too_long_is_said_to_be(pair: Any) -> None:
    assert "512 positions" in talk(build_chat(pair), "long " * 200)


def test_a_voice_can_be_named(pair: Any, shown: list[SpeechPrompt]) -> None:
    heard: list[tuple[str, str]] = []

    def say(text: str, voice: str) -> np.ndarray:
        heard.append((text, voice))
        if voice == "xx+y":
            raise InputError("expected a voice like en-us+f1, found 'xx+y'")
        return make_audio(8_000)

    lines = ["/say turn on the light", "/say hello en-us+m3", "/say hello xx+y", "/say"]
    out = talk(build_chat(pair), *lines, say=say)
    assert heard == [
        ("turn on the light", "en-us+f2"),
        ("hello", "en-us+m3"),
        ("hello", "xx+y"),
    ]
    assert out == (
        "yes one\nyes two\nexpected a voice like en-us+f1, found 'xx+y'\n"
        "expected words after /say, found none; give it some\n"
    )


def test_a_tiny_checkpoint_speaks_hears_and_says_what_it_knows(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A piped session through the command line, from the saved folder, with eSpeak's own voice."""
    pytest.importorskip("espeakng_loader")
    lines = "/say turn on the light\nsay it again\n/quit\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    assert main(["chat", str(checkpoint), "--max-new-tokens", "5"]) == 0
    out = capsys.readouterr().out
    assert "/say TEXT [VOICE]" in out
    assert "knows eSpeak's voices and a small household" in out
    answers = out.partition("/say TEXT.\n")[2].splitlines()
    assert answers and "expected" not in out.partition("/say TEXT.\n")[2]


def test_a_person_is_prompted_and_may_leave_with_the_end_of_input(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    typed = iter(["hello"])

    def ask(prompt: str) -> str:
        assert prompt == "> "
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", ask)
    assert list(read_lines(Terminal())) == ["hello"]
