"""What was said before the question stands in both views, is drawn by id and never trained."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from templates import GEMMA, QWEN2_5, TOOLS

from blsp import authors
from blsp.cli import main as run_blsp
from blsp.contexts import Context, draw_context, load_contexts
from blsp.continuation import main
from blsp.errors import InputError
from blsp.generation import Answer
from blsp.journal import digest
from blsp.manifest import AudioPart, Message, Meta, TextPart, Utterance, write_rows
from blsp.manifest import read_conversations as read
from blsp.model.loading import load_tokenizer
from blsp.rendering import IGNORED, Renderer
from tests.model.conftest import save_llm

ROOT = Path(__file__).resolve().parent.parent
YAML = """
contexts:
  - messages: []
  - messages: [{role: system, content: Be brief.}]
  - messages: [{role: user, content: Hello}, {role: assistant, content: Good day}]
"""
LINES = """{"messages": []}

{"messages": [{"role": "system", "content": "Be brief."}]}
{"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]}
"""


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llm(tmp_path_factory.mktemp("llm"), "qwen3", tie_word_embeddings=False)


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Answer -> the prompt it was given to."""
    prompts_by_answer: dict[str, list[int]] = {}

    def write(_llm: Any, _tokenizer: Any, prompts: Sequence[list[int]], *_: Any, **__: Any) -> Any:
        texts = [f"answer {len(prompts_by_answer) + index}" for index in range(len(prompts))]
        prompts_by_answer.update(zip(texts, prompts, strict=True))
        return [Answer(text, "stop", 2) for text in texts]

    monkeypatch.setattr(authors, "answer_texts", write)
    return prompts_by_answer


def command(folder: Path, llm: Path, contexts: str = YAML) -> list[str]:
    rows = [
        Utterance(id=f"u{at}", audio=f"{at}.wav", duration=1.0, text=f"say {at}")
        for at in range(12)
    ]
    write_rows(folder / "m.jsonl", rows, Meta(command="test"))
    (folder / "contexts.yaml").write_text(contexts)
    words = [str(folder / "m.jsonl"), "--llm", str(llm), "--out", str(folder / "c.jsonl")]
    return [*words, "--behaviours", "reply", "--contexts", str(folder / "contexts.yaml")]


def words(messages: Sequence[Message]) -> list[str]:
    parts = [part for message in messages for part in message.content]
    return [part.text for part in parts if isinstance(part, TextPart)]


def test_json_lines_and_yaml_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(YAML)
    (tmp_path / "c.jsonl").write_text(LINES)
    assert load_contexts(tmp_path / "c.yaml") == load_contexts(tmp_path / "c.jsonl")


def test_the_contexts_of_the_guide_are_some(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "guides" / "your-own-llm.md").read_text()
    (tmp_path / "c.jsonl").write_text(guide.split("```json\n")[1].split("```")[0])
    contexts = load_contexts(tmp_path / "c.jsonl")
    assert [(len(each.messages), len(each.tools)) for each in contexts] == [(0, 0), (1, 0), (0, 1)]


def test_an_escaped_character_of_json_is_that_character(tmp_path: Path) -> None:
    line = '{"messages": [{"role": "system", "content": "\\ud83d\\ude00 a\\/b"}]}'
    (tmp_path / "c.jsonl").write_text(line)
    assert load_contexts(tmp_path / "c.jsonl")[0].messages[0].content == "\U0001f600 a/b"


def test_what_is_drawn_depends_on_seed_and_id_alone(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(YAML)
    contexts = load_contexts(tmp_path / "c.yaml")
    names = [f"u{index}" for index in range(40)]
    drawn = [draw_context(contexts, name, seed=1) for name in names]
    assert {len(context.messages) for context in drawn} == {0, 1, 2}
    assert drawn[7:9] == [draw_context(contexts, name, seed=1) for name in names[7:9]]
    assert drawn != [draw_context(contexts, name, seed=2) for name in names]


def test_both_views_have_the_context_and_the_teachers_is_what_was_answered(
    tmp_path: Path, llm: Path, answered: dict[str, list[int]]
) -> None:
    assert main(command(tmp_path, llm)) == 0
    tokenizer = load_tokenizer(llm)
    renderer = Renderer(tokenizer, audio_token_id=len(tokenizer))
    rows = list(read(tmp_path / "c.jsonl"))
    assert {len(row.messages) for row in rows} == {2, 3, 4}
    for row in rows:
        *before, question, reply = row.messages
        assert isinstance(question.content[0], AudioPart)
        prompt = renderer.render_prompt([*before, question], view="teacher").ids
        assert prompt == answered[words([reply])[0]]
        heard = tokenizer.decode(renderer.render_prompt([*before, question], view="student").ids)
        assert all(text in heard for text in words(before))


def test_only_the_last_response_is_trained(
    tmp_path: Path, llm: Path, answered: dict[str, list[int]]
) -> None:
    assert main(command(tmp_path, llm)) == 0
    renderer = Renderer(load_tokenizer(llm))
    [end] = renderer.end_of_turn_ids()
    for row in read(tmp_path / "c.jsonl"):
        labels = renderer.render(row, view="teacher").labels
        trained = [label for label in labels if label != IGNORED]
        assert trained == [*renderer.tokenizer.encode(words(row.messages[-1:])[0]), end]


def test_a_template_without_a_system_role_is_refused_with_advice(
    tmp_path: Path, llm: Path, answered: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(llm)
    tokenizer.chat_template = GEMMA
    monkeypatch.setattr(authors, "load_tokenizer", lambda *_: tokenizer)
    with pytest.raises(InputError, match="put the system prompt into the first user message"):
        main(command(tmp_path, llm))


def test_a_run_with_other_contexts_is_refused(
    tmp_path: Path, llm: Path, answered: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(authors, "answer_texts", interrupt)
        main(command(tmp_path, llm))
    with pytest.raises(InputError, match="the same contexts"):
        main(command(tmp_path, llm, YAML.replace("brief", "kind")))


# --- tools ----------------------------------------------------------------------------------------

TOOLBOX = f"""
contexts:
  - messages: []
  - messages: [{{role: system, content: Be brief.}}]
    tools: {json.dumps(TOOLS)}
  - messages: []
    tools: {json.dumps(TOOLS[:1])}
"""


@pytest.fixture
def tokenizer(llm: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One whose template shows tools."""
    tokenizer = load_tokenizer(llm)
    tokenizer.chat_template = QWEN2_5
    monkeypatch.setattr(authors, "load_tokenizer", lambda *_: tokenizer)
    return tokenizer


def test_tools_stand_in_the_conversation_and_in_the_prompt_that_was_answered(
    tmp_path: Path, llm: Path, answered: dict[str, list[int]], tokenizer: Any
) -> None:
    assert main(command(tmp_path, llm, TOOLBOX)) == 0
    renderer = Renderer(tokenizer, audio_token_id=len(tokenizer))
    rows = list(read(tmp_path / "c.jsonl"))
    assert {len(row.tools) for row in rows} == {0, 1, 2}
    for row in rows:
        assert list(row.tools) == TOOLS[: len(row.tools)]
        prompt = renderer.render_question(row, view="teacher").ids
        assert prompt == answered[words(row.messages[-1:])[0]]
        text = tokenizer.decode(renderer.render_question(row, view="student").ids)
        assert [json.dumps(tool, ensure_ascii=False) in text for tool in TOOLS] == [
            len(row.tools) > 0,
            len(row.tools) > 1,
        ]


def test_a_conversation_without_tools_is_written_as_ever(
    tmp_path: Path, llm: Path, answered: dict[str, list[int]], tokenizer: Any
) -> None:
    assert main(command(tmp_path, llm, TOOLBOX)) == 0
    lines = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    plain = next(line for line in lines if "tools" not in line)
    assert list(plain) == ["id", "messages", "finish_reason", "kind"]


def test_a_template_that_ignores_tools_stops_before_the_first_answer(
    tmp_path: Path, llm: Path, answered: dict[str, list[int]]
) -> None:
    with pytest.raises(InputError, match=r"utterance 'u\d+': expected a chat template that shows"):
        main(command(tmp_path, llm, TOOLBOX))
    assert not answered


def test_a_run_with_other_tools_is_refused_and_one_without_has_the_plan_it_had() -> None:
    plain, tools = Context(messages=()), Context(messages=(), tools=(TOOLS[0],))
    assert plain.describe() == {"messages": ()}
    assert digest([plain.describe()]) != digest([tools.describe()])


@pytest.mark.parametrize(
    "words",
    [
        ["filter", "c.jsonl", "--min-seconds", "0.5", "--out", "out/c.jsonl"],
        ["split", "c.jsonl", "--parts", "c=1", "--out", "out"],
        ["shard", "c.jsonl", "--size", "1MB", "--out", "out"],
    ],
    ids=lambda words: words[0],
)
def test_tools_outlive_what_makes_files_of_files(
    tmp_path: Path,
    words: list[str],
    llm: Path,
    answered: dict[str, list[int]],
    tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(command(tmp_path, llm, TOOLBOX)) == 0
    for row in read(tmp_path / "c.jsonl"):
        (tmp_path / row.recordings[0].audio).write_bytes(b"sound")
    monkeypatch.chdir(tmp_path)
    assert run_blsp(["data", *words]) == 0
    kept = {row.id: row.tools for row in read(tmp_path / "out" / "c.jsonl")}
    assert kept == {row.id: row.tools for row in read(tmp_path / "c.jsonl")}


@pytest.mark.parametrize(
    "tools",
    ["[{name: light}]", "[{type: function, function: {name: light}}]", "[hm]"],
)
def test_tools_that_no_template_takes_are_refused(tmp_path: Path, tools: str) -> None:
    (tmp_path / "c.yaml").write_text(f"contexts: [{{messages: [], tools: {tools}}}]")
    with pytest.raises(InputError, match=r"c.yaml:1: .*tools"):
        load_contexts(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("roles", "is_right"),
    [
        (["system"], True),
        (["system", "user", "assistant"], True),
        (["user", "assistant", "user", "assistant"], True),
        (["user"], False),
        (["assistant"], False),
        (["user", "assistant", "system"], False),
        (["user", "user", "assistant"], False),
    ],
)
def test_a_context_ends_where_the_user_may_speak(
    tmp_path: Path, roles: list[str], is_right: bool
) -> None:
    turns = ", ".join(f"{{role: {role}, content: hm}}" for role in roles)
    (tmp_path / "c.yaml").write_text(f"contexts: [{{messages: [{turns}]}}]")
    if is_right:
        assert len(load_contexts(tmp_path / "c.yaml")[0].messages) == len(roles)
    else:
        with pytest.raises(InputError, match=r"c.yaml:1: .*found the roles"):
            load_contexts(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.yaml", "contexts: []", "expected contexts, found none"),
        ("c.jsonl", "\n", "expected contexts, found none"),
        ("c.jsonl", "{}\n{", "c.jsonl:1"),
        ("c.jsonl", '{"messages": [{"role": "system", "content": " "}]}', "expected words"),
        ("c.jsonl", '{"messages": [{"role": "tool", "content": "x"}]}', "one of system, user"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        load_contexts(tmp_path / name)
