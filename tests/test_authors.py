"""A server that writes: what it is sent, how often it is tried, and what it may not do."""

import json
from pathlib import Path
from typing import Any

import pytest
from completions import Completions, complete, serve

from blsp import authors, endpoint
from blsp.authors import ask_server
from blsp.cli import main as run_blsp
from blsp.errors import InputError
from blsp.generation import Answer, GenerationConfig
from blsp.manifest import Meta, Utterance, read_conversations, read_meta, write_rows
from blsp.model.loading import load_tokenizer
from blsp.rendering import Renderer
from tests.model.conftest import save_llm

BEHAVIOURS = """
behaviours:
  - kind: repeat
    prompts: ["Repeat this"]
"""


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llm(tmp_path_factory.mktemp("llm"), "qwen3", tie_word_embeddings=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "one.yaml").write_text(BEHAVIOURS)
    rows = [
        Utterance(id=f"u{at}", audio=f"{at}.wav", duration=1.0, text=f"words {at}")
        for at in range(12)
    ]
    write_rows(tmp_path / "m.jsonl", rows, Meta(command="test"))
    return tmp_path


def write(folder: Path, llm: Path, server: Completions, *more: str) -> int:
    words = [str(folder / "m.jsonl"), "--llm", str(llm), "--out", str(folder / "c.jsonl")]
    words += ["--behaviours", str(folder / "one.yaml"), "--engine", server.address, *more]
    return run_blsp(["continuations", *words])


def answers(folder: Path) -> dict[str, str]:
    rows = read_conversations(folder / "c.jsonl")
    return {row.id: row.messages[-1].content[0].text for row in rows}  # type: ignore[union-attr]


# --- what is sent ---------------------------------------------------------------------------------


def test_every_transcript_is_answered_in_its_place(
    folder: Path, llm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve() as server:
        assert write(folder, llm, server) == 0
    renderer = Renderer(load_tokenizer(llm))
    rows = list(read_conversations(folder / "c.jsonl"))
    assert [row.id.partition("/")[0] for row in rows] == [f"u{at}" for at in range(12)]
    for row in rows:
        ids = renderer.render_prompt(row.messages[:1], view="teacher").ids
        assert row.messages[1].content[0].text == f"the sum is {sum(ids)}"  # type: ignore[union-attr]
    assert f"sending 12 texts to 127.0.0.1:{server.server_port}" in capsys.readouterr().err


def test_a_question_is_token_ids_and_what_the_standard_knows(folder: Path, llm: Path) -> None:
    with serve() as server:
        write(folder, llm, server, "--max-new-tokens", "7")
    body = server.bodies[0]
    assert {key: body[key] for key in body if key != "prompt"} == {
        "model": "tiny",
        "max_tokens": 7,
        "stop": ["<|im_end|>"],
        "temperature": 0.0,
    }
    assert all(isinstance(token, int) for token in body["prompt"])


def test_draws_are_seeded_by_id(folder: Path, llm: Path) -> None:
    with serve() as server:
        write(folder, llm, server, "--sample", "--temperature", "0.7", "--top-p", "0.9")
    seeds = {tuple(body["prompt"]): body["seed"] for body in server.bodies}
    assert len(set(seeds.values())) == 12 and all(0 <= seed < 2**31 for seed in seeds.values())
    assert {(body["temperature"], body["top_p"]) for body in server.bodies} == {(0.7, 0.9)}
    (folder / "c.jsonl").unlink()
    with serve() as server:
        write(folder, llm, server, "--sample", "--temperature", "0.7", "--top-p", "0.9")
    assert {tuple(body["prompt"]): body["seed"] for body in server.bodies} == seeds


def test_the_key_comes_from_the_environment_alone(
    folder: Path, llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serve() as server:
        write(folder, llm, server)
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer secret"}
    assert "secret" not in "".join(path.read_text() for path in folder.glob("c.*"))


def test_no_more_requests_are_under_way_than_asked_for(folder: Path, llm: Path) -> None:
    with serve(seconds=0.2) as server:
        write(folder, llm, server, "--at-once", "3")
    assert server.most == 3


def test_the_file_says_which_weights_wrote_it(folder: Path, llm: Path) -> None:
    with serve() as server:
        write(folder, llm, server)
    meta = read_meta(folder / "c.jsonl")
    assert meta is not None
    assert meta.llm == authors.fingerprint_folder(llm)
    assert meta.models["engine"] == "openai, tiny"


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [429, 500, 503, "torn", "garbled", "strange", "silent"])
def test_a_server_that_fails_is_asked_again(
    folder: Path, llm: Path, monkeypatch: pytest.MonkeyPatch, how: Any
) -> None:
    if how == "silent":
        monkeypatch.setattr(endpoint, "TIMEOUT_SECONDS", 2.0)
    with serve(failures=[how, how]) as server:
        assert write(folder, llm, server, "--at-once", "12") == 0
    assert set(server.tries.values()) == {3}
    assert len(answers(folder)) == 12 and "the sum is" in min(answers(folder).values())


def test_a_server_that_stays_away_ends_the_run_and_nothing_is_lost(
    folder: Path, llm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve() as server:
        assert write(folder, llm, server) == 0
    expected = (folder / "c.jsonl").read_bytes()
    (folder / "c.jsonl").unlink()
    with serve() as server:
        complete_some = iter(range(5))
        server.failures = _Until(complete_some)
        assert write(folder, llm, server, "--at-once", "1") == 2
    assert "expected an answer, found status 500 at the last of 7 tries" in capsys.readouterr().err
    journal = [json.loads(line) for line in (folder / "c.jsonl.journal").open()]
    assert len(journal) == 1 + 5
    with serve() as server:
        assert write(folder, llm, server) == 0
    assert sum(server.tries.values()) == 12 - 5
    assert (folder / "c.jsonl").read_bytes() == expected


class _Until:
    """Failures that begin when an iterator is spent."""

    def __init__(self, remaining: Any) -> None:
        self.remaining = remaining

    def __len__(self) -> int:
        return 0 if next(self.remaining, None) is not None else 10**6

    def __getitem__(self, attempt: int) -> int:
        return 500


@pytest.mark.parametrize(
    ("status", "advice"),
    [(401, "set OPENAI_API_KEY to its key"), (404, "check URL and MODEL"), (400, "(not now)")],
)
def test_a_refusal_is_not_tried_again(
    folder: Path, llm: Path, capsys: pytest.CaptureFixture[str], status: int, advice: str
) -> None:
    with serve(failures=[status]) as server:
        assert write(folder, llm, server, "--at-once", "1") == 2
    assert set(server.tries.values()) == {1}
    assert advice in capsys.readouterr().err


def test_an_answer_that_was_cut_or_filtered_is_known_as_such(
    llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for reason, expected in {
        "length": Answer("cut of", "length", 3),
        "content_filter": Answer("", "stop", 3),
    }.items():
        with serve() as server:
            monkeypatch.setattr(
                "completions.complete", lambda _, r=reason: complete("cut of\ufffd", r)
            )
            author = ask_server(server.address, str(llm), None, {}, at_once=1)
            assert author.write([[1, 2]], ["a"], GenerationConfig()) == [expected]


@pytest.mark.parametrize("address", ["openai:localhost:8000#x", "openai:http://x/v1", "vllm"])
def test_an_engine_that_is_none_is_refused(
    folder: Path, llm: Path, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    words = [str(folder / "m.jsonl"), "--llm", str(llm), "--out", str(folder / "c.jsonl")]
    assert run_blsp(["continuations", *words, "--engine", address]) == 2
    assert "--engine: expected" in capsys.readouterr().err


def test_another_engine_is_never_mixed_in(folder: Path, llm: Path) -> None:
    with serve() as server:
        server.failures = _Until(iter(range(2)))
        write(folder, llm, server, "--at-once", "1")
    with pytest.raises(InputError, match=r"the same engine \(hf, 16 bits\), found openai, tiny"):
        from blsp.continuation import main

        main(
            [
                str(folder / "m.jsonl"),
                "--llm",
                str(llm),
                "--out",
                str(folder / "c.jsonl"),
                "--behaviours",
                str(folder / "one.yaml"),
            ]
        )
