"""Continuations: drawn by seed, written once, kept over a kill, and never mixed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from blsp import continuation
from blsp.behaviours import Behaviour, Behaviours, draw_requests, load_behaviours
from blsp.continuation import find_fault, main, plan_batches
from blsp.dataset import ConversationDataset, DataConfig
from blsp.errors import InputError
from blsp.generation import Answer, GenerationConfig, build_renderer
from blsp.manifest import AudioPart, Meta, Utterance, read_conversations, read_meta, write_rows
from blsp.model import compose
from blsp.model.loading import load_tokenizer
from blsp.rendering import Renderer
from blsp.tiny.llm import ask
from blsp.tiny.world import instructions, kinds
from tests.model.conftest import save_llm, save_whisper

TWO = """
behaviours:
  - kind: repeat
    prompts: ["Repeat this"]
  - kind: mood
    prompts: ["{audio}\\nWhich mood?"]
    with_hint: true
hints: {sad: They sound sad.}
"""


def utterance(name: str, **fields: Any) -> Utterance:
    words: dict[str, Any] = {"text": f"say {name}", "emotion": "sad", "license": "CC0"}
    return Utterance(id=name, audio=f"{name}.wav", duration=1.0, **(words | fields))


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llm(tmp_path_factory.mktemp("llm"), "qwen3", tie_word_embeddings=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "two.yaml").write_text(TWO)
    rows = [utterance(f"u{index}") for index in range(6)]
    write_manifest(tmp_path, [*rows, utterance("silent", text=None)])
    return tmp_path


def write_manifest(folder: Path, rows: list[Utterance]) -> None:
    write_rows(folder / "m.jsonl", rows, Meta(command="test", root="audio"))


def command(folder: Path, llm: Path, *extra: str) -> list[str]:
    return [
        str(folder / "m.jsonl"),
        *("--llm", str(llm), "--behaviours", str(folder / "two.yaml")),
        *("--out", str(folder / "out" / "c.jsonl"), "--max-new-tokens", "6"),
        *("--batch-size", "2", *extra),
    ]


# --- what is asked --------------------------------------------------------------------------------


def test_what_is_drawn_depends_on_seed_and_id_alone() -> None:
    behaviours = load_behaviours("tiny")
    rows = [utterance(f"u{index}") for index in range(50)]
    all_drawn = draw_requests(rows, behaviours, per_utterance=2, seed=1)
    assert draw_requests(rows[7:9], behaviours, per_utterance=2, seed=1) == all_drawn[14:18]
    assert draw_requests(rows, behaviours, per_utterance=2, seed=2) != all_drawn
    assert len({request.id for request in all_drawn}) == 100
    assert {request.kind for request in all_drawn} == {b.kind for b in behaviours.behaviours}


def test_words_come_before_or_after_the_instruction_on_their_own_line() -> None:
    rows = [utterance(f"u{index}") for index in range(20)]
    behaviours = Behaviours(behaviours=(Behaviour(kind="a", prompts=("Repeat", "Who?")),))
    drawn = draw_requests(rows, behaviours, per_utterance=1, seed=0)
    assert {request.prompt for request in drawn} == {
        "Repeat:\n{audio}",
        "{audio}\nRepeat",
        "Who?\n{audio}",
        "{audio}\nWho?",
    }


def test_the_tiny_behaviours_are_the_open_wordings_and_no_sealed_one() -> None:
    behaviours = load_behaviours("tiny")
    every = [*behaviours.behaviours, *behaviours.held_out]
    assert {b.kind: list(b.prompts) for b in every} == {
        kind: instructions()["kinds"][kind] for kind in kinds(sealed=False) if kind != "emotion"
    }
    assert {b.kind for b in behaviours.held_out} == {"translate_de", "intent", "reply"}


def test_the_tiny_llm_is_asked_in_the_words_it_learnt() -> None:
    rows = [utterance(f"u{index}") for index in range(40)]
    behaviours = load_behaviours("tiny")
    wordings = {behaviour.kind: behaviour.prompts for behaviour in behaviours.behaviours}
    for request in draw_requests(rows, behaviours, per_utterance=4, seed=3):
        spoken = request.utterance.text or ""
        parts = request.question_with_hint().content
        asked = "".join(p.transcript if isinstance(p, AudioPart) else p.text for p in parts)
        assert asked in {
            ask(wording, spoken, first=first)
            for wording in wordings[request.kind]
            for first in (True, False)
        }


def test_the_general_behaviours_load() -> None:
    assert len(load_behaviours("general").behaviours) >= 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("behaviours: []", "at least one, found none"),
        ("behaviours: [{kind: a, prompts: []}]", "a: expected prompts, found none"),
        ("behaviours: [{kind: a, prompts: [x]}, {kind: a, prompts: [y]}]", "'a' 2 times"),
        ("behaviours: [{kind: a, prompts: ['Say {audio} now']}]", "on a line of its own"),
        ("behaviours: [{kind: a, promts: [x]}]", "prompts"),
    ],
)
def test_a_behaviours_file_that_cannot_work_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "b.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_behaviours(tmp_path / "b.yaml")
    assert "b.yaml" in str(caught.value)


def test_more_behaviours_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match="expected 1 to 10"):
        draw_requests([], load_behaviours("tiny"), per_utterance=11, seed=0)


def test_batches_hold_similar_lengths_the_longest_first() -> None:
    assert plan_batches([3, 9, 4, 8, 1], ["same"] * 5, 2) == [[1, 3], [2, 0], [4]]


def test_a_batch_has_one_kind() -> None:
    kinds = ["short", "long", "short", "long", "short"]
    assert plan_batches([3, 9, 4, 8, 1], kinds, 2) == [[1, 3], [2, 0], [4]]
    assert plan_batches([3, 2, 4, 8, 9], kinds, 2) == [[4, 2], [3, 1], [0]]


# --- what is written ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (" \n", "empty"),
        ("<think>\nhm\n</think> yes", "thinking"),
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("I cannot listen to audio.", "refusal"),
        ("As an AI language model, I have no mood.", "refusal"),
        ("I am sorry you feel down. The light is on.", None),
        ("i can not find my keys", None),
    ],
)
def test_an_answer_that_teaches_nothing_is_left_out(text: str, fault: str | None) -> None:
    assert find_fault(text) == fault


def test_every_row_is_a_question_with_audio_and_the_models_own_answer(
    folder: Path, llm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(folder, llm, "--per-utterance", "2")) == 0
    out = folder / "out" / "c.jsonl"
    rows = list(read_conversations(out))
    assert [row.id.split("/")[0] for row in rows] == sorted(row.id.split("/")[0] for row in rows)
    assert {row.kind for row in rows} == {"repeat", "mood"}
    for row in rows:
        [part] = [part for part in row.messages[0].content if isinstance(part, AudioPart)]
        name = row.id.partition("/")[0]
        assert (part.audio, part.transcript, row.license) == (f"{name}.wav", f"say {name}", "CC0")
        assert row.finish_reason in ("stop", "length")
        assert "sad" not in str([p for p in row.messages[0].content if p is not part])
        assert row.extra == ({"hint": "They sound sad."} if row.kind == "mood" else {})
    meta = read_meta(out)
    assert meta is not None
    assert meta.template == Renderer(load_tokenizer(llm)).template_fingerprint()
    assert meta.llm and meta.llm.startswith("sha256:")
    assert (meta.root, meta.seed, meta.counts["written"]) == ("../audio", 0, len(rows))
    assert sum(meta.counts.values()) == 12
    assert "1 without text" in capsys.readouterr().out
    assert sorted(path.name for path in out.parent.iterdir()) == ["c.jsonl", "c.meta.json"]


def test_shares_add_up_to_the_whole(folder: Path, llm: Path) -> None:
    assert main(command(folder, llm)) == 0
    whole = list(read_conversations(folder / "out" / "c.jsonl"))
    parts = []
    for share in ("1/2", "2/2"):
        out = folder / "out" / f"{share[0]}.jsonl"
        assert main([*command(folder, llm, "--share", share), "--out", str(out)]) == 0
        parts.append({row.id for row in read_conversations(out)})
    assert {len(part) for part in parts} == {3}
    assert parts[0] | parts[1] == {row.id for row in whole}


@pytest.mark.parametrize("share", ["0/2", "3/2", "2", "a/b"])
def test_a_share_that_is_none_is_refused(folder: Path, llm: Path, share: str) -> None:
    with pytest.raises(InputError, match="expected I/N"):
        main(command(folder, llm, "--share", share))


def test_training_accepts_what_its_own_language_model_wrote(folder: Path, llm: Path) -> None:
    assert main(command(folder, llm)) == 0
    model, processor = compose(llm=llm, encoder=save_whisper(folder / "whisper"))
    dataset = ConversationDataset(
        DataConfig(conversations=(folder / "out" / "c.jsonl",)),
        build_renderer(model, processor),
        lambda part, root: (torch.zeros(80, 100), 100),
        lambda frames: 7,
        llm=model.config.bases["llm"]["fingerprint"],  # type: ignore[index]
    )
    assert len(dataset) > 0
    assert (dataset[0].input_ids == processor.audio_token_id).sum() == 7


def test_the_hint_is_read_by_the_writer_alone(folder: Path) -> None:
    behaviours = load_behaviours(folder / "two.yaml")
    [mood] = [
        request
        for request in draw_requests([utterance("a")], behaviours, per_utterance=2, seed=0)
        if request.kind == "mood"
    ]
    texts = [getattr(part, "text", "") for part in mood.question_with_hint().content]
    assert texts == ["They sound sad.\n", "", "\nWhich mood?"]
    assert [getattr(part, "text", "") for part in mood.question().content] == ["", "\nWhich mood?"]


def test_rejected_answers_are_counted(
    folder: Path, llm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = iter(["fine", "", "<think>", "I cannot help you.", "fine", "fine"])
    monkeypatch.setattr(
        continuation,
        "answer_texts",
        lambda _llm, _tokenizer, prompts, _config: [
            Answer(next(texts), "stop", 1) for _ in prompts
        ],
    )
    assert main(command(folder, llm)) == 0
    said = capsys.readouterr().out
    for part in ("3 conversations", "1 empty", "1 thinking", "1 refusal"):
        assert part in said


def test_a_manifest_without_words_is_refused(folder: Path, llm: Path) -> None:
    write_manifest(folder, [utterance("a", text=None), utterance("b", text=" ")])
    with pytest.raises(InputError, match="found none among 2"):
        main(command(folder, llm))


# --- interrupted ----------------------------------------------------------------------------------

SLOW = """
import sys, time
from blsp import continuation
real = continuation.answer_texts
def slow(*arguments):
    time.sleep(0.4)
    return real(*arguments)
continuation.answer_texts = slow
sys.exit(continuation.main(sys.argv[1:]))
"""


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(folder: Path, llm: Path) -> None:
    """Killed after the first of its three batches, it does the other two."""
    argv = command(folder, llm, "--sample")
    out, journal = folder / "out" / "c.jsonl", folder / "out" / "c.jsonl.journal"
    assert main(argv) == 0
    whole, meta = out.read_bytes(), out.with_suffix(".meta.json").read_bytes()
    for path in out.parent.iterdir():
        path.unlink()
    process = subprocess.Popen([sys.executable, "-c", SLOW, *argv], env=os.environ)
    while not journal.exists() or journal.read_bytes().count(b"\n") < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = [json.loads(line) for line in journal.read_bytes().splitlines()[1:]]
    assert 1 <= len(done) < 3
    assert not out.exists()
    asked: list[int] = []
    real = continuation.answer_texts
    continuation.answer_texts = lambda *a: (asked.append(len(a[2])), real(*a))[1]
    try:
        assert main(argv) == 0
    finally:
        continuation.answer_texts = real
    assert asked == [2] * (3 - len(done))
    assert out.read_bytes() == whole
    assert out.with_suffix(".meta.json").read_bytes() == meta
    assert not journal.exists()


@pytest.fixture
def interrupted(folder: Path, llm: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    real, calls = continuation.answer_texts, [0]

    def fail_later(*arguments: Any) -> list[Answer]:
        calls[0] += 1
        if calls[0] > 1:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(continuation, "answer_texts", fail_later)
        with pytest.raises(KeyboardInterrupt):
            main(command(folder, llm))
    return folder


def test_other_settings_are_refused(interrupted: Path, llm: Path) -> None:
    with pytest.raises(InputError, match="the same settings"):
        main(command(interrupted, llm, "--temperature", "0.5"))


def test_other_prompts_are_refused(interrupted: Path, llm: Path) -> None:
    (interrupted / "two.yaml").write_text(TWO.replace("Repeat this", "Say this"))
    with pytest.raises(InputError, match="the same prompts"):
        main(command(interrupted, llm))


def test_another_manifest_is_refused(interrupted: Path, llm: Path) -> None:
    write_manifest(interrupted, [utterance("u0", text="other words")])
    with pytest.raises(InputError, match="the same manifest"):
        main(command(interrupted, llm))


def test_another_language_model_is_refused(interrupted: Path, tmp_path: Path) -> None:
    other = save_llm(tmp_path / "other", "llama", tie_word_embeddings=False)
    with pytest.raises(InputError, match="the same language model"):
        main(command(interrupted, other))


def test_another_template_is_refused(interrupted: Path, llm: Path) -> None:
    with pytest.raises(InputError, match="the same template"):
        main(command(interrupted, llm, "--template-variable", "enable_thinking=true"))


def test_a_finished_file_is_left_alone_and_another_is_never_overwritten(
    folder: Path, llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(command(folder, llm)) == 0
    monkeypatch.setattr(continuation, "answer_texts", None)
    assert main(command(folder, llm)) == 0
    with pytest.raises(InputError, match="choose another --out"):
        main(command(folder, llm, "--seed", "5"))


def test_the_default_settings_are_greedy() -> None:
    assert not GenerationConfig().do_sample
