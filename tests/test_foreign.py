"""Systems from elsewhere: what a server is sent, how files are joined, and that both are scored."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from completions import Completions, reply, serve
from test_benchmark import WORDS, Fakes, utterance, values, write_spellings, write_spoken

from blsp import endpoint
from blsp.cli import main
from blsp.manifest import Meta, write_rows


def hear(prompt: str, audio: np.ndarray) -> str:
    """Tells recordings apart by their length, and mishears the last."""
    i = len(audio) // 1600 - 1
    return "set a tuner" if i == 3 else WORDS[i]


def bench(folder: Path, *words: str, manifest: str = "test.jsonl", task: str = "asr") -> int:
    whisper = ["--whisper", str(folder / "whisper")] if (folder / "whisper").exists() else []
    call = ["bench", task, *whisper, "--manifest", str(folder / manifest)]
    return main([*call, "--out", str(folder / "out"), *words])


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "results.json").read_text())


def write_answers(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_spellings(tmp_path)
    write_spoken(tmp_path)
    return tmp_path


# --- servers --------------------------------------------------------------------------------------


def ask(folder: Path, server: Completions, *words: str) -> int:
    return bench(folder, "--system", server.address, *words)


def test_a_server_stands_in_the_table_by_the_name_of_its_model(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(hear=hear) as server:
        assert ask(folder, server) == 0
    # "set a tuner": one word of the twelve
    wer = values(results(folder), "asr", "wer")
    assert wer["tiny"] == pytest.approx(1 / 12)
    assert set(wer) == {"tiny", "random", "empty"}  # what needs no checkpoint
    captured = capsys.readouterr()
    assert f"sending 4 recordings to 127.0.0.1:{server.server_port}" in captured.err
    assert "tiny" in captured.out
    assert "tiny" in (folder / "out" / "report.html").read_text()


def test_a_server_is_sent_sound_and_prompt_and_no_transcript(folder: Path) -> None:
    with serve(hear=hear) as server:
        ask(folder, server, "--instruction", "Say:\n{audio}\nNow.", "--max-new-tokens", "7")
    body = server.bodies[0]
    assert {key: body[key] for key in body if key != "messages"} == {
        "model": "tiny",
        "temperature": 0.0,
        "max_tokens": 7,
    }
    (message,) = body["messages"]
    first, sound, last = message["content"]
    assert (message["role"], first, last) == (
        "user",
        {"type": "text", "text": "Say:\n"},
        {"type": "text", "text": "\nNow."},
    )
    assert sound["type"] == "input_audio" and sound["input_audio"]["format"] == "wav"
    said = json.dumps(server.bodies)
    assert not any(words in said for words in (*WORDS, ".wav", "u0"))


def test_a_server_reads_the_question_that_stands_in_writing(folder: Path) -> None:
    rows = [
        replace(utterance(i), extra={"question": f"Which {i}?", "answer": "x"}) for i in range(2)
    ]
    write_rows(folder / "asked.jsonl", rows, Meta(command="test"))
    with serve(hear=hear) as server:
        address = ["--system", server.address]
        assert bench(folder, *address, manifest="asked.jsonl", task="sqa") == 0
    said = json.dumps(server.bodies)
    assert "Question: Which 0?" in said and "{question}" not in said


@pytest.mark.parametrize("how", [429, 503, "torn", "garbled", "strange", "silent"])
def test_a_server_that_fails_is_asked_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, how: Any
) -> None:
    if how == "silent":
        monkeypatch.setattr(endpoint, "TIMEOUT_SECONDS", 2.0)
    with serve(failures=[how], hear=hear) as server:
        assert ask(folder, server) == 0
    assert set(server.tries.values()) == {2}
    assert values(results(folder), "asr", "wer")["tiny"] == pytest.approx(1 / 12)


def test_no_more_recordings_are_under_way_than_asked_for(folder: Path) -> None:
    with serve(seconds=0.2, hear=hear) as server:
        ask(folder, server, "--at-once", "2")
    assert server.most == 2


def test_what_a_server_has_answered_is_not_sent_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(hear=hear) as server:
        ask(folder, server)
        path = folder / "out" / "predictions" / "tiny.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:3]))
        first = results(folder)
        server.bodies.clear()
        capsys.readouterr()
        assert ask(folder, server) == 0
    assert len(server.bodies) == 1
    assert "sending 1 recordings" in capsys.readouterr().err
    assert results(folder)["rows"] == first["rows"]


def test_how_many_are_asked_at_once_changes_nothing(folder: Path) -> None:
    found = []
    for at_once in ("1", "4"):
        with serve(hear=hear) as server:
            ask(folder, server, "--at-once", at_once, "--out", str(folder / at_once))
        found.append(json.loads((folder / at_once / "results.json").read_text())["rows"])
    assert found[0] == found[1]


def test_an_answer_that_was_cut_is_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("completions.reply", lambda text: reply(text, "length"))
    with serve(hear=hear) as server:
        ask(folder, server)
    (counts,) = [row for row in results(folder)["counts"] if row["system"] == "tiny"]
    assert (counts["n"], counts["truncated"], counts["empty"]) == (4, 4, 0)


def test_the_key_is_sent_to_one_host_alone_and_written_nowhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serve(hear=hear) as server:
        assert ask(folder, server, "--system", "openai:http://other.test/v1#b") == 2
        assert "expected one host while OPENAI_API_KEY is set" in capsys.readouterr().err
        assert server.bodies == []
        assert ask(folder, server) == 0
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer secret"}
    written = [path for path in (folder / "out").rglob("*") if path.is_file()]
    assert not any("secret" in path.read_text() for path in written)


def test_a_server_stands_beside_a_checkpoint_in_the_same_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes = Fakes(folder / "whisper")
    monkeypatch.setattr("blsp.evaluate.load_models", lambda *_, **__: fakes.models)
    words = ["--instruction", "Repeat", "--systems", "speech,text bound"]
    with serve(hear=hear) as server:
        assert ask(folder, server, *words[:2]) == 0  # the server first, alone
        assert bench(folder, *words, "checkpoint") == 0  # options may come before the checkpoint
        assert len(server.bodies) == 4
    found = results(folder)
    assert set(values(found, "asr", "wer")) == {"speech", "text bound", "tiny", "random", "empty"}
    assert found["foreign"]["tiny"]["model"] == "tiny"
    pairs = {(one["first"], one["second"]) for one in found["comparisons"]}
    assert pairs == {("speech", "text bound"), ("speech", "tiny")}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected a CHECKPOINT for the system 'speech', found none"),
        (["--system", "http://x/v1#m"], "--system: expected openai:URL#MODEL"),
        (["--system", "openai:http://me:pw@x/v1#m"], "with a user, password or query"),
        (["--system", "openai:http://x/v1#speech"], "a name of its own for each system"),
        (["--system", "openai:http://x/v1#m", "--at-once", "0"], "--at-once of at least 1"),
        (["--system", "openai:http://x/v1#m", "--systems", "cascade"], "the system 'cascade'"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_sent(
    words: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(folder, *words) == 2
    captured = capsys.readouterr().err
    assert message in captured and captured.count("\n") == 1


def test_english_needs_a_table_of_spellings(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "whisper" / "normalizer.json").unlink()
    with serve(hear=hear) as server:
        assert ask(folder, server) == 2
        assert server.bodies == []
    assert "--whisper FOLDER" in capsys.readouterr().err


# --- files of answers -----------------------------------------------------------------------------


def test_answers_are_joined_by_id_and_missing_ones_are_wrong(folder: Path) -> None:
    rows = [{"id": f"u{i}", "prediction": WORDS[i]} for i in (2, 0, 1)]
    path = write_answers(folder / "omni.jsonl", rows)
    assert bench(folder, "--predictions", str(path)) == 0
    found = results(folder)
    assert values(found, "asr", "wer")["omni"] == pytest.approx(3 / 12)  # "set a timer" is lacking
    (counts,) = [row for row in found["counts"] if row["system"] == "omni"]
    assert counts["n"] == 4 and counts["missing"] == 1 and counts["empty"] == 0
    assert found["foreign"]["omni"]["predictions"] == "omni.jsonl"


def test_files_stand_side_by_side_and_are_compared(folder: Path) -> None:
    good = write_answers(
        folder / "a.jsonl", [{"id": f"u{i}", "prediction": WORDS[i]} for i in range(4)]
    )
    bad = write_answers(folder / "b.jsonl", [{"id": f"u{i}", "prediction": "no"} for i in range(4)])
    assert bench(folder, "--predictions", f"good={good}", "--predictions", f"bad={bad}") == 0
    wer = values(results(folder), "asr", "wer")
    assert (wer["good"], wer["bad"]) == (0, 1)
    (pair,) = [one for one in results(folder)["comparisons"] if one["metric"] == "wer"]
    assert (pair["first"], pair["second"], pair["difference"]) == ("bad", "good", 1)


def test_a_line_may_say_which_task_and_condition_it_answers(folder: Path) -> None:
    rows = [{"id": f"u{i}", "prediction": WORDS[i], "condition": "clean"} for i in range(4)]
    rows += [{"id": f"u{i}", "prediction": "no", "condition": "noisy"} for i in range(4)]
    rows += [{"id": "u0", "prediction": "light_on", "task": "intent"}]  # of another benchmark
    path = write_answers(folder / "omni.jsonl", rows)
    manifest = str(folder / "test.jsonl")
    words = ["bench", "asr", "--whisper", str(folder / "whisper"), "--predictions", str(path)]
    sets = ["--manifest", f"clean={manifest}", "--manifest", f"noisy={manifest}"]
    assert main([*words, *sets, "--out", str(folder / "out")]) == 0
    found = {
        row["condition"]: row["value"]
        for row in results(folder)["rows"]
        if (row["system"], row["metric"]) == ("omni", "wer")
    }
    assert found == {"clean": 0, "noisy": 1}


def test_a_limit_does_not_make_ids_unknown(folder: Path) -> None:
    rows = [{"id": f"u{i}", "prediction": WORDS[i]} for i in range(4)]
    path = write_answers(folder / "omni.jsonl", rows)
    assert bench(folder, "--predictions", str(path), "--limit", "2") == 0
    (counts,) = [row for row in results(folder)["counts"] if row["system"] == "omni"]
    assert (counts["n"], counts["missing"]) == (2, 0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "u9", "prediction": ""}], "omni.jsonl:1: expected an id of test, found 'u9'"),
        ([{"id": "u0"}], "omni.jsonl:1: expected a text as 'prediction', found None"),
        ([{"id": "u0", "prediction": "a"}] * 2, "jsonl:2: expected one answer for 'u0', found"),
        ([{"id": "u0", "prediction": "a", "task": "ser"}], "expected answers to asr in test"),
        ([], "expected answers, found none"),
    ],
)
def test_answers_that_fit_nothing_are_refused_in_one_line(
    rows: list[dict[str, Any]],
    message: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_answers(folder / "omni.jsonl", rows)
    assert bench(folder, "--predictions", str(path)) == 2
    captured = capsys.readouterr().err
    assert message in captured and captured.count("\n") == 1
    assert not (folder / "out").exists()


def test_an_id_of_two_test_sets_needs_its_condition(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(folder / "more.jsonl", [utterance(0)], Meta(command="test"))
    path = write_answers(folder / "omni.jsonl", [{"id": "u0", "prediction": "a"}])
    more = ["--manifest", str(folder / "more.jsonl")]
    assert bench(folder, "--predictions", str(path), *more) == 2
    assert "expected a 'condition' for 'u0', which is in test, more" in capsys.readouterr().err


def test_another_file_of_the_same_name_is_not_mixed_in(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_answers(folder / "omni.jsonl", [{"id": "u0", "prediction": "a"}])
    assert bench(folder, "--predictions", str(path)) == 0
    write_answers(path, [{"id": "u0", "prediction": "b"}])
    assert bench(folder, "--predictions", str(path)) == 2
    assert "the same system 'omni', found it differ in 'sha256'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "wer", "empty"),
    [
        ("Repeat the following words exactly as they are and write nothing else", 48 / 12, 0),
        ("", 1, 4),
        ("mach das Licht an", 16 / 12, 0),  # another language: no word is right
    ],
)
def test_answers_that_are_no_answers_score_what_they_should(
    said: str, wer: float, empty: int, folder: Path
) -> None:
    rows = [{"id": f"u{i}", "prediction": said} for i in range(4)]
    assert bench(folder, "--predictions", str(write_answers(folder / "a.jsonl", rows))) == 0
    assert values(results(folder), "asr", "wer")["a"] == pytest.approx(wer)
    (counts,) = [row for row in results(folder)["counts"] if row["system"] == "a"]
    assert counts["empty"] == empty
