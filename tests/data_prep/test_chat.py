"""`blsp prep chat`: the two forms that instructions come in."""

import json
from pathlib import Path

import pytest

from blsp.cli import main
from blsp.manifest import read_conversations, read_meta
from blsp.validation import validate

ALPACA = [
    {"instruction": "Name a colour.", "input": "", "output": "Red."},
    {"instruction": "Translate into German.", "input": "good day", "output": "Guten Tag"},
    {"instruction": "Say nothing.", "input": "", "output": ""},
]
CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
    ]
}


def prepare(tmp_path: Path, name: str, text: str) -> int:
    (tmp_path / name).write_text(text, encoding="utf-8")
    out = str(tmp_path / "out")
    return main(["prep", "chat", str(tmp_path / name), "--out", out, "--license", "CC0-1.0"])


def texts(path: Path) -> list[list[tuple[str, str]]]:
    return [
        [(m.role, "".join(getattr(part, "text", "") for part in m.content)) for m in one.messages]
        for one in read_conversations(path)
    ]


def test_instructions_become_conversations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(tmp_path, "alpaca_data.json", json.dumps(ALPACA)) == 0
    out = tmp_path / "out" / "alpaca_data.jsonl"
    assert capsys.readouterr().out == f"{out}: 2 conversations; without an answer: 1\n"
    assert texts(out) == [
        [("user", "Name a colour."), ("assistant", "Red.")],
        [("user", "Translate into German.\ngood day"), ("assistant", "Guten Tag")],
    ]
    assert {one.license for one in read_conversations(out)} == {"CC0-1.0"}
    meta = read_meta(out)
    assert meta and meta.command.startswith("blsp prep chat ")


def test_chats_keep_their_turns(tmp_path: Path) -> None:
    assert prepare(tmp_path, "chats.jsonl", f"{json.dumps(CHAT)}\n") == 0
    out = tmp_path / "out" / "chats.jsonl"
    assert texts(out) == [[("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello.")]]
    assert not validate(out).problems


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected a JSON list or JSON lines"),
        (
            '[{"question": 1}]',
            "x.json:1: expected instruction and output, or messages, found",
        ),
        ('[{"messages": [{"role": "tool", "content": "x"}]}]', "found 'tool' with str"),
        ("[]", "expected chats with answers, found none"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(tmp_path, "x.json", text) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()
