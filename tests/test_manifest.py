"""Manifests and conversations: what is read and written, and where reading stops."""

import json
from pathlib import Path
from typing import Any

import pytest

from blsp.errors import InputError
from blsp.manifest import (
    AudioPart,
    Conversation,
    Entity,
    Message,
    Meta,
    TextPart,
    Utterance,
    find_root,
    read_conversations,
    read_manifest,
    read_meta,
    write_rows,
)
from blsp.validation import validate

ROW: dict[str, Any] = {"id": "a", "audio": "a.wav", "duration": 1.5, "text": "hello there"}
AUDIO: dict[str, Any] = {
    "type": "audio",
    "audio": "a.wav",
    "duration": 1.5,
    "transcript": "hello there",
}
CHAT: dict[str, Any] = {
    "id": "a",
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Repeat:\n"}, AUDIO]},
        {"role": "assistant", "content": "hello there"},
    ],
}
META = Meta(command="test", versions={"blsp": "0"})


def write(path: Path, *rows: dict[str, Any] | bytes) -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def test_a_line_becomes_an_utterance_and_other_keys_are_kept(tmp_path: Path) -> None:
    row = ROW | {
        "entities": [{"type": "room", "filler": "hall"}],
        "translation": {"de": "hallo"},
        "speaker": None,
        "accent": "scots",
        "prosody": {"rate": 170},
    }
    [utterance] = read_manifest(write(tmp_path / "m.jsonl", row))
    assert utterance == Utterance(
        id="a",
        audio="a.wav",
        duration=1.5,
        text="hello there",
        entities=(Entity(type="room", filler="hall"),),
        translation={"de": "hallo"},
        extra={"accent": "scots", "prosody": {"rate": 170}},
    )


def test_a_line_becomes_a_conversation(tmp_path: Path) -> None:
    [conversation] = read_conversations(write(tmp_path / "c.jsonl", CHAT | {"kind": "repeat"}))
    heard = AudioPart(audio="a.wav", duration=1.5, transcript="hello there")
    assert conversation == Conversation(
        id="a",
        kind="repeat",
        messages=(
            Message(role="user", content=(TextPart(text="Repeat:\n"), heard)),
            Message(role="assistant", content=(TextPart(text="hello there"),)),
        ),
    )


@pytest.mark.parametrize("name", ["manifest", "conversations"])
def test_what_is_written_is_read_back_equal(tmp_path: Path, name: str) -> None:
    rows = [ROW | {"start": 2.0, "noise": "pink"}, ROW | {"id": "b", "text": None}]
    chats = [CHAT | {"finish_reason": "length", "seed": 3}, CHAT | {"id": "b"}]
    read = read_manifest if name == "manifest" else read_conversations
    lines = rows if name == "manifest" else chats
    first = list(read(write(tmp_path / "first.jsonl", *lines)))
    assert write_rows(tmp_path / "second.jsonl", first, META) == 2
    assert list(read(tmp_path / "second.jsonl")) == first
    written = (tmp_path / "second.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written] == lines


def test_what_the_teacher_reads_instead_stands_beside_a_text(tmp_path: Path) -> None:
    hint = {"type": "text", "text": "", "teacher": "They sound sad.\n"}
    rows = [
        CHAT | {"messages": [{"role": "user", "content": content}, CHAT["messages"][1]]}
        for content in ([hint, AUDIO], [{"type": "text", "text": "Hear", "teacher": "Read"}])
    ]
    rows[1]["id"] = "b"
    read = list(read_conversations(write(tmp_path / "first.jsonl", *rows)))
    assert read[0].messages[0].content[0] == TextPart(text="", teacher="They sound sad.\n")
    write_rows(tmp_path / "second.jsonl", read, META)
    lines = (tmp_path / "second.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows


def test_the_side_file_says_what_made_a_file(tmp_path: Path) -> None:
    meta = Meta(
        command="blsp continuations", root="../audio", llm="Qwen@1", template="ab12", seed=1
    )
    write_rows(tmp_path / "c.jsonl", [], meta)
    assert read_meta(tmp_path / "c.jsonl") == meta
    assert find_root(tmp_path / "c.jsonl") == tmp_path / "../audio"
    assert "blsp" in meta.versions


def test_without_a_side_file_audio_lies_beside_the_manifest(tmp_path: Path) -> None:
    assert read_meta(tmp_path / "m.jsonl") is None
    assert find_root(tmp_path / "m.jsonl") == tmp_path


def test_a_side_file_of_a_later_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "m.meta.json").write_text('{"command": "x", "colour": "blue"}')
    meta = read_meta(tmp_path / "m.jsonl")
    assert meta is not None
    assert meta.command == "x"


def test_a_broken_side_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.meta.json").write_text("[]")
    with pytest.raises(InputError, match=r"m\.meta\.json: expected a JSON object"):
        read_meta(tmp_path / "m.jsonl")


def test_a_row_that_cannot_be_read_is_not_written(tmp_path: Path) -> None:
    rows = [Utterance(id="a", audio="/a.wav", duration=1, text="x")]
    with pytest.raises(InputError, match=r"m\.jsonl:1: audio: expected a path relative"):
        write_rows(tmp_path / "m.jsonl", rows, META)
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_fails_leaves_the_old_file_and_its_side_file(tmp_path: Path) -> None:
    write_rows(tmp_path / "m.jsonl", [], META)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def rows() -> Any:
        yield Utterance(id="a", audio="a.wav", duration=1, text="x")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_rows(tmp_path / "m.jsonl", rows(), Meta(command="other"))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_reading_stops_at_the_first_bad_line_and_names_it(tmp_path: Path) -> None:
    reader = read_manifest(write(tmp_path / "m.jsonl", ROW, ROW | {"id": "b", "duration": -1}))
    assert next(reader).id == "a"
    with pytest.raises(InputError) as caught:
        next(reader)
    assert str(caught.value) == (
        f"{tmp_path}/m.jsonl:2: duration: expected seconds above 0, as a number, found -1; "
        "measure the file again or delete the line"
    )


def test_a_byte_order_mark_line_ends_of_windows_and_blank_lines_do_no_harm(tmp_path: Path) -> None:
    lines = [json.dumps(ROW | {"id": name, "text": "\U0001f600"}) for name in "ab"]
    path = tmp_path / "m.jsonl"
    path.write_bytes(("\ufeff" + "\r\n\r\n".join(lines) + "\r\n\r\n").encode())
    assert [utterance.id for utterance in read_manifest(path)] == ["a", "b"]
    assert validate(path).problems == []


def test_a_last_line_without_its_newline_counts(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps(ROW))
    assert len(list(read_manifest(tmp_path / "m.jsonl"))) == 1


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"m\.jsonl: expected a file of JSON lines, found: No"):
        list(read_manifest(tmp_path / "m.jsonl"))
