"""Validation: every line that is refused, every oddity that is warned of, and what it costs."""

import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from test_manifest import CHAT, ROW, write

from blsp.validation import validate

AUDIO: dict[str, Any] = CHAT["messages"][0]["content"][1]
TOLD: dict[str, Any] = {"type": "text", "text": "a", "teacher": "b"}


def problems(path: Path, *rows: dict[str, Any] | bytes) -> list[str]:
    """What validation says, without the path."""
    write(path / "m.jsonl", *rows)
    return [line.removeprefix(f"{path}/") for line in validate(path / "m.jsonl").problems]


def chat(*parts: Any, role: str = "user") -> dict[str, Any]:
    return {"id": "a", "messages": [{"role": role, "content": list(parts)}]}


def test_validation_lists_all_problems_of_all_lines(tmp_path: Path) -> None:
    bad = {"id": "a", "audio": "../a.wav", "duration": 0}
    assert problems(tmp_path, ROW, bad, b"{") == [
        "m.jsonl:2: expected the key 'text', found none; add it",
        "m.jsonl:2: audio: expected a path inside the root, found '../a.wav'; move the file there "
        "or set another root in X.meta.json",
        "m.jsonl:2: duration: expected seconds above 0, as a number, found 0; measure the file "
        "again or delete the line",
        "m.jsonl:2: expected every id once, found 'a' also on line 1; rename or delete one",
        "m.jsonl:3: expected a JSON object, found broken JSON at column 2 (Expecting property name "
        "enclosed in double quotes); repair or delete the line",
    ]


def test_validation_counts_beyond_its_limit(tmp_path: Path) -> None:
    report = validate(write(tmp_path / "m.jsonl", *[b"{}"] * 10), limit=3)
    assert (report.rows, report.problem_count, len(report.problems)) == (10, 40, 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"duration": float("nan")}, "duration: expected seconds above 0, as a number, found nan"),
        ({"duration": float("inf")}, "duration: expected seconds above 0, as a number, found inf"),
        ({"duration": "3"}, "duration: expected seconds above 0, as a number, found '3'"),
        ({"duration": True}, "duration: expected seconds above 0, as a number, found True"),
        ({"start": -0.5}, "start: expected seconds of at least 0, as a number, found -0.5"),
        ({"start": None}, "start: expected seconds of at least 0, as a number, found None"),
        ({"id": ""}, "id: expected a text that is not empty, found ''"),
        ({"id": 7}, "id: expected a text that is not empty, found 7"),
        ({"text": ["a"]}, "text: expected a text or null, found ['a']"),
        ({"audio": ""}, "audio: expected the path of an audio file, found ''"),
        ({"audio": "/data/a.wav"}, "audio: expected a path relative to the root"),
        ({"audio": "C:\\a.wav"}, "audio: expected a path relative to the root"),
        ({"audio": "~/a.wav"}, "audio: expected a path relative to the root"),
        ({"audio": "a\\b.wav"}, "audio: expected '/' between folders"),
        ({"audio": "a/../../b.wav"}, "audio: expected a path inside the root"),
        ({"audio": "../a.zip::b.wav"}, "audio: expected a path inside the root"),
        ({"audio": "https://a.org/b.wav"}, "audio: expected a file on this machine"),
        ({"entities": ["room"]}, "entities: expected a list of {'type': text, 'filler': text}"),
        ({"translation": "hallo"}, "translation: expected an object of language to text"),
        ({"translation": {"de": 1}}, "translation: expected an object of language to text"),
        ({"durration": 2}, "found 'durration'; did you mean 'duration'?"),
        ({"Speaker": "x"}, "found 'Speaker'; did you mean 'speaker'?"),
        ({"lang": "de"}, "found 'lang'; did you mean 'language'?"),
        ({"extra": {}}, "expected your own keys beside ours, found 'extra'"),
    ],
)
def test_a_bad_value_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    [problem] = problems(tmp_path, ROW | change)
    assert problem.startswith("m.jsonl:1: ")
    assert said in problem


def test_a_key_that_another_tool_writes_is_recognised(tmp_path: Path) -> None:
    row = {"id": "a", "audio_filepath": "a.wav", "duration": 1.5, "transcription": "x"}
    said = " ".join(problems(tmp_path, row))
    assert "found 'audio_filepath'; did you mean 'audio'?" in said
    assert "found 'transcription'; did you mean 'text'?" in said


@pytest.mark.parametrize(
    "extra", ["speaker_id", "age", "sha256", "text_raw", "snr_db", "domain", "gender", "end"]
)
def test_a_key_of_ones_own_is_no_near_miss(tmp_path: Path, extra: str) -> None:
    assert problems(tmp_path, ROW | {extra: 1}) == []


def test_dots_inside_the_root_are_fine(tmp_path: Path) -> None:
    assert problems(tmp_path, ROW | {"audio": "a/../b..wav"}) == []
    assert problems(tmp_path, ROW | {"audio": "clips.zip::../b.wav"}) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"[1]", "expected a JSON object a line, found a list"),
        (b"null", "expected a JSON object a line, found a NoneType"),
        (b'{"id": "a"', "broken JSON at column 11"),
        (b'{"id": "\xff"}', r"expected UTF-8 text, found b'\xff'"),
        (b'{"id": "\\ud83d"}', "expected UTF-8 text, found '\\ud83d'"),
        (b"[" * 100_000, "expected a JSON object, found "),
        (b'{"id": 1' + b"0" * 5000 + b"}", "expected a JSON object, found Exceeds the limit"),
    ],
)
def test_a_broken_line_is_refused(tmp_path: Path, line: bytes, said: str) -> None:
    [problem] = problems(tmp_path, ROW, line)
    assert problem.startswith("m.jsonl:2: ")
    assert said in problem


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (chat(AUDIO, role="asistant"), "role: expected a known role, found 'asistant'; did you"),
        (chat(AUDIO, role="assistant"), "expected audio in user messages only, found it in assist"),
        (CHAT | {"messages": []}, "messages: expected a list of at least one, found []"),
        (CHAT | {"messages": "hi"}, "messages: expected a list of at least one, found 'hi'"),
        (CHAT | {"messages": ["hi"]}, "messages[0]: expected an object with role and content"),
        (CHAT | {"finish_reason": "eos"}, "finish_reason: expected 'stop', 'length' or null"),
        (CHAT | {"tools": ["light"]}, "tools: expected a list of {'type': 'function', 'function'"),
        (CHAT | {"tools": []}, "tools: expected a list of {'type': 'function', 'function'"),
        (CHAT | {"tool": None}, "did you mean 'tools'?"),
        (CHAT | {"finish_raeson": None}, "did you mean 'finish_reason'?"),
        (chat(), "messages[0]: content: expected a text or a list of parts, found []"),
        (chat("hi"), "content[0]: expected a part of type 'text' or 'audio', found 'hi'"),
        (chat({"type": "image"}), "content[0]: expected a part of type 'text' or 'audio'"),
        (chat({"type": "text", "text": None}), "text: expected a text, found None"),
        (chat(TOLD | {"teacher": 1}), "content[0]: teacher: expected a text or null, found 1"),
        (chat({"type": "text", "teacher": "x"}), "content[0]: expected the key 'text', found none"),
        (
            chat(TOLD, role="assistant"),
            "content[0]: expected a response that is the same in both views, found 'teacher'; rem",
        ),
        (chat(AUDIO | {"text": "x"}), "the words of an audio part as 'transcript', found 'text'"),
        (chat(AUDIO | {"duration": 0}), "messages[0]: content[0]: duration: expected seconds abov"),
        (chat(AUDIO | {"audio": "/a.wav"}), "content[0]: audio: expected a path relative"),
        (chat(AUDIO | {"speed": 2}), "content[0]: expected known keys, found 'speed'; choose from"),
        (chat({"type": "audio"}), "content[0]: expected the key 'audio', found none; add it"),
    ],
)
def test_a_bad_conversation_is_refused(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    assert said in problems(tmp_path, CHAT | {"id": "first"}, row)[0]


def test_an_empty_file_is_a_problem(tmp_path: Path) -> None:
    assert problems(tmp_path) == ["m.jsonl: expected at least one line, found none; write some"]


def test_what_is_allowed_but_odd_is_a_warning(tmp_path: Path) -> None:
    write(
        tmp_path / "m.jsonl",
        ROW,
        ROW | {"id": "b", "text": "HELLO THERE"},
        ROW | {"id": "c", "text": "HELLO YOU"},
        ROW | {"id": "d", "text": "OK", "duration": 30.5},
        ROW | {"id": "e", "text": " "},
        ROW | {"id": "f", "text": None},
    )
    report = validate(tmp_path / "m.jsonl")
    assert (report.problems, report.seconds) == ([], 5 * 1.5 + 30.5)
    assert [line.removeprefix(f"{tmp_path}/").partition(" (")[0] for line in report.warnings] == [
        "m.jsonl:2: 2 in capitals throughout",
        "m.jsonl:4: 1 longer than 30 s",
        "m.jsonl:5: 1 with an empty transcript",
        "m.jsonl:6: 1 without a transcript",
    ]


def test_the_audio_of_conversations_is_summed_and_looked_at(tmp_path: Path) -> None:
    row = chat({"type": "text", "text": "A B\n"}, AUDIO | {"transcript": "A B"})
    report = validate(write(tmp_path / "c.jsonl", CHAT | {"id": "b"}, row))
    assert (report.kind, report.rows, report.seconds) == ("conversations", 2, 3.0)
    assert [line.partition(" (")[0] for line in report.warnings] == [
        f"{tmp_path}/c.jsonl:2: 1 in capitals throughout"
    ]


def test_validation_keeps_no_rows(tmp_path: Path) -> None:
    """Only the ids stay, so that a million lines fit into a few hundred megabytes."""
    rows = [ROW | {"id": f"utterance-{i:06d}", "text": "word " * 40} for i in range(5000)]
    path = write(tmp_path / "m.jsonl", *rows)
    tracemalloc.start()
    assert validate(path).problems == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5000 * 250
