"""`blsp data`: what it prints about good, bad and unreadable data."""

from pathlib import Path

import numpy as np
import pytest
from templates import TOOLS, build_tokenizer

from blsp.audio import save_audio
from blsp.cli import main
from blsp.manifest import (
    AudioPart,
    Conversation,
    Message,
    Meta,
    TextPart,
    Utterance,
    find_root,
    read_conversations,
    write_rows,
)

META = Meta(command="test")


def write_speech(folder: Path) -> Path:
    """Two recordings of half a second, and a manifest that says one second of the second."""
    for name in "ab":
        save_audio(folder / f"{name}.wav", np.full(8000, 0.1, np.float32))
    rows = [
        Utterance(id="a", audio="a.wav", duration=0.5, text="turn on"),
        Utterance(id="b", audio="b.wav", duration=1.0, text="turn off"),
    ]
    write_rows(folder / "m.jsonl", rows, META)
    return folder / "m.jsonl"


def write_chat(folder: Path) -> Path:
    heard = AudioPart(audio="a.wav", duration=0.5, transcript="turn on the light")
    question = Message(role="user", content=(TextPart(text="Repeat:\n"), heard))
    response = Message(role="assistant", content=(TextPart(text="the light"),))
    conversation = Conversation(
        id="a", messages=(question, response), kind="repeat", finish_reason="stop"
    )
    write_rows(folder / "c.jsonl", [conversation], META)
    return folder / "c.jsonl"


def run(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[int, str]:
    code = main(["data", *map(str, argv)])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_a_good_manifest_is_summed_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_speech(tmp_path)
    assert run(capsys, "validate", path) == (
        0,
        f"{path}: manifest, 2 lines, 0.00 h of audio\nall right\n",
    )


def test_problems_are_listed_and_give_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text("{}\n" * 2)
    code, text = run(capsys, "validate", path, "--limit", "1")
    assert code == 1
    assert text.splitlines()[1:] == [
        f"{path}:1: expected the key 'id', found none; add it",
        "8 problems, 7 of them not shown",
    ]


def test_odd_transcripts_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = Utterance(id="a", audio="a.wav", duration=1, text="TURN ON")
    write_rows(tmp_path / "m.jsonl", [row], META)
    code, text = run(capsys, "validate", tmp_path / "m.jsonl")
    assert code == 0
    assert f"warning: {tmp_path}/m.jsonl:1: 1 in capitals throughout" in text


def test_decoding_finds_audio_that_is_not_as_stated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_speech(tmp_path)
    code, text = run(capsys, "validate", path, "--decode")
    assert code == 1
    assert f"{path}:2: b.wav: expected a segment within 0 to 0.500 s" in text
    assert text.endswith("\n1 problems\n")


def test_decoding_reads_the_audio_of_conversations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_chat(tmp_path)
    code, text = run(capsys, "validate", path, "--decode")
    assert code == 1
    assert f"{path}:1: {tmp_path}/a.wav: expected a file, found nothing there" in text
    write_speech(tmp_path)
    assert run(capsys, "validate", path, "--decode")[0] == 0


def test_a_manifest_row_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "show", write_speech(tmp_path), "--id", "b")
    assert code == 0
    assert text == ("id          b\naudio       b.wav\nduration    1.0\ntext        turn off\n")


def test_a_conversation_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "show", write_chat(tmp_path)) == (
        0,
        "id: a, finish_reason: stop, kind: repeat\n"
        "user       Repeat:\n"
        "           <audio a.wav, 0.50 s: turn on the light>\n"
        "assistant  the light\n",
    )


def test_both_views_are_shown_with_what_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_tokenizer("tiny").save_pretrained(tmp_path / "llm")
    code, text = run(capsys, "show", write_chat(tmp_path), "--llm", tmp_path / "llm")
    assert code == 0
    student = text[text.index("student: ") : text.index("teacher: ")]
    assert student.partition("\n")[2] == (
        "<|im_start|>user\nRepeat:\n<audio a.wav, 0.50 s><|im_end|>\n"
        "<|im_start|>assistant\n\u27e6the light<|im_end|>\u27e7\n\n\n"
    )
    teacher = text[text.index("teacher: ") :]
    assert "; 4 trained, in \u27e6 \u27e7\n<|im_start|>user\nRepeat:\nturn on the" in teacher


def test_what_the_teacher_reads_instead_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = AudioPart(audio="a.wav", duration=0.5, transcript="turn on")
    hint = TextPart(text="", teacher="They sound sad.\n")
    messages = (
        Message(role="user", content=(hint, heard)),
        Message(role="assistant", content=(TextPart(text="Oh."),)),
    )
    write_rows(tmp_path / "c.jsonl", [Conversation(id="a", messages=messages)], META)
    build_tokenizer("tiny").save_pretrained(tmp_path / "llm")
    code, text = run(capsys, "show", tmp_path / "c.jsonl", "--llm", tmp_path / "llm")
    assert code == 0
    assert "\nuser       <student: '', teacher: 'They sound sad.\\n'><audio a.wav, 0.50" in text
    assert "<|im_start|>user\n<audio a.wav, 0.50 s><|im_end|>" in text
    assert "<|im_start|>user\nThey sound sad.\nturn on<|im_end|>" in text


def test_tools_are_shown_by_their_names_and_in_the_views_as_the_template_writes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = (
        Message(role="user", content=(TextPart(text="turn on"),)),
        Message(role="assistant", content=(TextPart(text="Oh."),)),
    )
    row = Conversation(id="a", messages=messages, tools=tuple(TOOLS))
    write_rows(tmp_path / "c.jsonl", [row], META)
    build_tokenizer("qwen2.5").save_pretrained(tmp_path / "llm")
    code, text = run(capsys, "show", tmp_path / "c.jsonl", "--llm", tmp_path / "llm")
    assert code == 0
    assert text.startswith("id: a, tools: light radio\nuser ")
    assert text.count('{"name": "radio", "description"') == 2


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--id", "z"], "expected a row with id 'z', found none in 1; check --id"),
        (["--llm", "nowhere"], "nowhere: expected the folder of a language model, found none"),
        (["--llm", "{folder}"], "expected a tokenizer, found this"),
    ],
)
def test_what_cannot_be_shown_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], said: str
) -> None:
    folder = str(tmp_path)
    path = write_chat(tmp_path)
    code, text = run(capsys, "show", path, *(part.format(folder=folder) for part in argv))
    assert code == 2
    assert said in text
    assert text.count("\n") == 1


def test_a_manifest_has_no_views(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "show", write_speech(tmp_path), "--llm", tmp_path)
    assert code == 2
    assert "expected conversations to show with --llm, found a manifest" in text


# --- answers --------------------------------------------------------------------------------------


def write_intents(folder: Path) -> Path:
    """Three recordings, of which two say what the speaker wants."""
    rows = [
        Utterance(id="a", audio="a.wav", duration=0.5, text="turn on", intent="light"),
        Utterance(id="b", audio="b.wav", duration=0.5, text="call", intent="phone"),
        Utterance(id="c", audio="c.wav", duration=0.5, text="well"),
    ]
    write_rows(folder / "speech" / "m.jsonl", rows, META)
    return folder / "speech" / "m.jsonl"


def test_a_field_of_the_manifest_becomes_the_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, out = write_intents(tmp_path), tmp_path / "chats" / "intents.jsonl"
    prompt = "Which of {labels}?\n{audio}"
    answers = "--answer", "intent", "--prompt", prompt, "--out", out
    code, told = run(capsys, "supervise", manifest, *answers)
    assert (code, told) == (0, f"{out}: 2 conversations; without an answer: 1\n")
    first, second = read_conversations(out)
    asked = TextPart(text="Which of light, phone?\n")
    heard = AudioPart(audio="a.wav", duration=0.5, transcript="turn on")
    assert first.messages[0].content == (asked, heard)
    assert [one.messages[1].content for one in (first, second)] == [
        (TextPart(text="light"),),
        (TextPart(text="phone"),),
    ]
    assert find_root(out).resolve() == manifest.parent
    assert run(capsys, "validate", out)[0] == 0


@pytest.mark.parametrize(
    ("answer", "prompt", "message"),
    [
        ("emotion", "What?", "expected utterances with 'emotion', found none among 3"),
        ("intent", "{audio} what?", "expected {audio} once, on a line of its own"),
    ],
)
def test_answers_that_cannot_be_written_are_one_line(
    answer: str,
    prompt: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifest, out = write_intents(tmp_path), tmp_path / "c.jsonl"
    code, told = run(
        capsys, "supervise", manifest, "--answer", answer, "--prompt", prompt, "--out", out
    )
    assert code == 2
    assert message in told
    assert not out.exists()
