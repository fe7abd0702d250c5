"""Continuations: drawn by seed, written once, kept over a kill, and never mixed."""

import os
import signal
import subprocess
import sys
import time
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from blsp import authors
from blsp.authors import load_author
from blsp.behaviours import Behaviour, Behaviours, Request, draw_requests, load_behaviours
from blsp.continuation import (
    ContinuationConfig,
    continue_manifest,
    main,
    plan_batches,
)
from blsp.dataset import ConversationDataset, DataConfig
from blsp.errors import InputError
from blsp.filters import find_fault
from blsp.generation import Answer, GenerationConfig
from blsp.manifest import (
    AudioPart,
    Meta,
    TextPart,
    Utterance,
    read_conversations,
    read_meta,
    write_rows,
)
from blsp.model import compose
from blsp.model.loading import load_tokenizer
from blsp.prompts import build_renderer
from blsp.rendering import Renderer, View
from blsp.tiny.llm import ask
from blsp.tiny.world import answer, instructions, kinds, sample_sentences
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


def draw(rows: list[Utterance], behaviours: Behaviours, **options: Any) -> list[Request]:
    """What is asked, where all that is drawn can be."""
    requests, left_out = draw_requests(rows, behaviours, **options)
    assert not left_out
    return requests


def shown(request: Request, view: View) -> str:
    """What one view shows of a question, the words in place of the recording."""
    texts = []
    for part in request.question().content:
        if isinstance(part, AudioPart):
            texts.append(part.transcript)
        else:
            texts.append(
                part.teacher if view == "teacher" and part.teacher is not None else part.text
            )
    return "".join(texts)


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
    all_drawn = draw(rows, behaviours, per_utterance=2, seed=1)
    assert draw(rows[7:9], behaviours, per_utterance=2, seed=1) == all_drawn[14:18]
    assert draw(rows, behaviours, per_utterance=2, seed=2) != all_drawn
    assert len({request.id for request in all_drawn}) == 100
    assert {request.kind for request in all_drawn} == {b.kind for b in behaviours.behaviours}


def test_words_come_before_or_after_the_instruction_on_their_own_line() -> None:
    rows = [utterance(f"u{index}") for index in range(20)]
    behaviours = Behaviours(behaviours=(Behaviour(kind="a", prompts=("Repeat", "Who?")),))
    drawn = draw(rows, behaviours, per_utterance=1, seed=0)
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
    for request in draw(rows, behaviours, per_utterance=4, seed=3):
        spoken = request.utterance.text or ""
        assert shown(request, "teacher") in {
            ask(wording, spoken, first=first)
            for wording in wordings[request.kind]
            for first in (True, False)
        }


def test_the_general_behaviours_load() -> None:
    assert len(load_behaviours("general").behaviours) >= 3


def test_the_emotional_behaviours_tell_the_writer_what_the_hearer_must_find() -> None:
    [request] = draw([utterance("a")], load_behaviours("emotions"), per_utterance=1, seed=0)
    assert "the conveyed emotion tone" in shown(request, "student")
    assert "a 'sad' emotion tone" in shown(request, "teacher")


def test_the_tiny_emotions_are_those_of_the_text_world() -> None:
    behaviours = load_behaviours("tiny-emotions")
    every = [*behaviours.behaviours, *behaviours.held_out]
    assert {b.kind: list(b.prompts) for b in every} == {
        kind: instructions()["kinds"][kind] for kind in ("continue", "emotion", "reply")
    }
    assert all(b.with_hint for b in every)
    assert [b.kind for b in behaviours.held_out] == ["reply"]
    assert behaviours.hints == {
        emotion: said["hint"] for emotion, said in instructions()["emotions"].items()
    }


def test_the_tiny_llm_answers_by_the_emotion_that_it_is_told(tmp_path: Path) -> None:
    """It gives the right answers of the text world, in both places of the words."""
    known = load_behaviours("tiny-emotions")
    every = (*known.behaviours, *known.held_out)
    moods = list(instructions()["emotions"])
    spoken = {f"u{i}": one for i, one in enumerate(sample_sentences(5, "test", 20))}
    rows = [
        utterance(f"{name}-{mood}", text=one.text, emotion=mood)
        for name, one in spoken.items()
        for mood in moods
    ]
    write_manifest(tmp_path, rows)
    author = load_author("blsp/tiny-llm", None, {})
    config = ContinuationConfig(per_utterance=len(every))
    counts = continue_manifest(
        tmp_path / "m.jsonl",
        tmp_path / "c.jsonl",
        author,
        Behaviours(behaviours=every, hints=known.hints),
        config,
        command="test",
    )
    assert counts == {"written": 300}
    for row in read_conversations(tmp_path / "c.jsonl"):
        name, mood = row.id.partition("/")[0].split("-")
        [reply] = row.messages[1].content
        assert reply == TextPart(text=answer(str(row.kind), spoken[name], emotion=mood)), row.id


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("behaviours: []", "at least one, found none"),
        ("behaviours: [{kind: a, prompts: []}]", "a: expected prompts, found none"),
        ("behaviours: [{kind: a, prompts: [x]}, {kind: a, prompts: [y]}]", "'a' 2 times"),
        ("behaviours: [{kind: a, prompts: ['Say {audio} now']}]", "on a line of its own"),
        ("behaviours: [{kind: a, promts: [x]}]", "prompts"),
        (
            "behaviours: [{kind: a, prompts: [x, y], text_prompts: [z]}]",
            "a: expected as many text_prompts as prompts, 2, found 1",
        ),
        (
            "behaviours: [{kind: a, prompts: [x], text_prompts: ['Say {audio} now']}]",
            "on a line of its own",
        ),
        (
            "behaviours: [{kind: a, prompts: ['A {emotion} text']}]",
            "a: expected {emotion} in text_prompts only, found it in 'A {emotion} text'",
        ),
        (
            "behaviours: [{kind: a, prompts: [x], with_hint: true}]",
            "a: expected hints for with_hint",
        ),
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


def test_no_right_answer_of_the_tiny_world_is_left_out() -> None:
    spoken = sample_sentences(3, "train", 100)
    moods = instructions()["emotions"]
    faults = {
        find_fault(answer(kind, one, emotion=mood))
        for one in spoken
        for kind in kinds()
        for mood in moods
    }
    assert faults == {None}


def test_an_answer_that_was_cut_is_not_taught_to_end(
    folder: Path, llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the limit on tokens, through the file, to the labels of both views."""
    ends: dict[str, Literal["stop", "length"]] = {"whole": "stop", "cut of": "length"}
    endless = cycle(ends.items())
    monkeypatch.setattr(
        authors,
        "answer_texts",
        lambda _llm, _tokenizer, prompts, _config, names: [
            Answer(*next(endless), 2) for _ in prompts
        ],
    )
    assert main(command(folder, llm)) == 0
    tokenizer = load_tokenizer(llm)
    renderer = Renderer(tokenizer, audio_token_id=len(tokenizer))
    [end] = renderer.end_of_turn_ids()
    views: tuple[View, View] = ("student", "teacher")
    for row in read_conversations(folder / "out" / "c.jsonl"):
        [reply] = row.messages[1].content
        assert isinstance(reply, TextPart) and row.finish_reason == ends[reply.text]
        for view in views:
            labels = renderer.render(row, view=view).labels
            assert (end in labels) is (row.finish_reason == "stop")


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
        [text] = [part for part in row.messages[0].content if isinstance(part, TextPart)][:1]
        hinted = TextPart(text="", teacher="They sound sad.\n")
        assert (text == hinted) is (row.kind == "mood")
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


def test_the_hint_is_read_by_the_writer_and_the_teacher_alone(folder: Path) -> None:
    behaviours = load_behaviours(folder / "two.yaml")
    drawn = draw([utterance("a")], behaviours, per_utterance=2, seed=0)
    [mood] = [request for request in drawn if request.kind == "mood"]
    assert shown(mood, "teacher") == "They sound sad.\nsay a\nWhich mood?"
    assert shown(mood, "student") == "say a\nWhich mood?"


def test_the_teacher_view_is_the_very_prompt_that_was_answered(
    folder: Path, llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered: dict[str, list[int]] = {}

    def note(
        _llm: Any, _tokenizer: Any, prompts: list[list[int]], *_: Any, **__: Any
    ) -> list[Answer]:
        texts = [f"answer {len(answered) + index}" for index in range(len(prompts))]
        answered.update(zip(texts, prompts, strict=True))
        return [Answer(text, "stop", 2) for text in texts]

    monkeypatch.setattr(authors, "answer_texts", note)
    assert main(command(folder, llm, "--per-utterance", "2")) == 0
    renderer = Renderer(load_tokenizer(llm))
    rows = list(read_conversations(folder / "out" / "c.jsonl"))
    assert len(rows) == 12
    for row in rows:
        [reply] = row.messages[1].content
        assert isinstance(reply, TextPart)
        prompt = renderer.render_prompt(row.messages[:1], view="teacher")
        assert prompt.ids == answered[reply.text]


EMOTIONAL = Behaviour(
    kind="continue",
    prompts=("Continue", "Go on by the tone:"),
    text_prompts=("Continue a {emotion} text", "Go on in a {emotion} tone:"),
)


def test_the_language_model_is_asked_in_words_of_its_own() -> None:
    rows = [utterance(f"u{index}") for index in range(20)]
    drawn = draw(rows, Behaviours(behaviours=(EMOTIONAL,)), per_utterance=1, seed=0)
    assert {(request.prompt, request.text_prompt) for request in drawn} == {
        ("Continue:\n{audio}", "Continue a sad text:\n{audio}"),
        ("{audio}\nContinue", "{audio}\nContinue a sad text"),
        ("Go on by the tone:\n{audio}", "Go on in a sad tone:\n{audio}"),
        ("{audio}\nGo on by the tone:", "{audio}\nGo on in a sad tone:"),
    }


def test_the_recording_may_stand_elsewhere_than_the_words() -> None:
    behaviour = Behaviour(
        kind="a", prompts=("{audio}\nGo on",), text_prompts=("Sad:\n{audio}\nGo on",)
    )
    [request] = draw([utterance("a")], Behaviours(behaviours=(behaviour,)), per_utterance=1, seed=0)
    assert shown(request, "student") == "say a\nGo on"
    assert shown(request, "teacher") == "Sad:\nsay a\nGo on"


@pytest.mark.parametrize(
    ("behaviour", "emotion", "reason"),
    [
        (Behaviour(kind="a", prompts=("x",), with_hint=True), None, "without emotion"),
        (Behaviour(kind="a", prompts=("x",), with_hint=True), "bored", "unknown emotion"),
        (EMOTIONAL, None, "without emotion"),
        (EMOTIONAL, "bored", None),
        (Behaviour(kind="a", prompts=("x",), with_hint=True), "neutral", None),
        (Behaviour(kind="a", prompts=("x",)), None, None),
    ],
)
def test_an_emotion_that_cannot_be_told_is_counted_and_not_asked_about(
    behaviour: Behaviour, emotion: str | None, reason: str | None
) -> None:
    behaviours = Behaviours(behaviours=(behaviour,), hints={"sad": "Sad.", "neutral": ""})
    rows = [utterance("u", emotion=emotion), utterance("v")]
    requests, left_out = draw_requests(rows, behaviours, per_utterance=1, seed=0)
    assert [request.utterance.id for request in requests] == (["v"] if reason else ["u", "v"])
    assert left_out == ({reason: 1} if reason else {})


def test_a_hint_that_says_nothing_leaves_both_views_the_same() -> None:
    behaviour = Behaviour(kind="a", prompts=("x",), with_hint=True)
    behaviours = Behaviours(behaviours=(behaviour,), hints={"sad": ""})
    [request] = draw([utterance("u")], behaviours, per_utterance=1, seed=0)
    assert request.text_prompt == ""
    assert all(not isinstance(p, TextPart) or p.teacher is None for p in request.question().content)


def test_emotions_left_out_are_said(
    folder: Path, llm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moods = ("sad", None, "", "bored", "sad", "sad")
    rows = [utterance(f"u{i}", emotion=mood) for i, mood in enumerate(moods)]
    write_manifest(folder, rows)
    assert main(command(folder, llm, "--per-utterance", "2")) == 0
    said = capsys.readouterr().out
    for part in ("9 conversations", "2 without emotion", "1 unknown emotion"):
        assert part in said


def test_a_manifest_without_any_emotion_to_tell_is_refused(folder: Path, llm: Path) -> None:
    (folder / "two.yaml").write_text(
        "behaviours: [{kind: a, prompts: [x], with_hint: true}]\nhints: {sad: Sad.}"
    )
    write_manifest(folder, [utterance("u", emotion=None), utterance("v", emotion="bored")])
    with pytest.raises(InputError, match="found none: 1 without emotion, 1 unknown emotion; add"):
        main(command(folder, llm))


def test_rejected_answers_are_counted(
    folder: Path, llm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = iter(["fine", "", "<think>", "I cannot help you.", "fine", "fine"])
    monkeypatch.setattr(
        authors,
        "answer_texts",
        lambda _llm, _tokenizer, prompts, _config, names: [
            Answer(next(texts), "stop", 1) for _ in prompts
        ],
    )
    assert main(command(folder, llm)) == 0
    said = capsys.readouterr().out
    for part in ("3 conversations", "1 empty", "1 thinking", "1 refusal"):
        assert part in said


def test_answers_that_were_cut_can_be_dropped(
    folder: Path, llm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cut: Any = cycle(["stop", "length"])
    monkeypatch.setattr(
        authors,
        "answer_texts",
        lambda _llm, _tokenizer, prompts, _config, names: [
            Answer("fine", next(cut), 1) for _ in prompts
        ],
    )
    assert main(command(folder, llm, "--cut", "drop")) == 0
    assert "3 conversations; left out: 3 cut" in capsys.readouterr().out


def test_a_manifest_without_words_is_refused(folder: Path, llm: Path) -> None:
    write_manifest(folder, [utterance("a", text=None), utterance("b", text=" ")])
    with pytest.raises(InputError, match="found none among 2"):
        main(command(folder, llm))


# --- interrupted ----------------------------------------------------------------------------------

STUCK = """
import sys, time
from blsp import authors, continuation
real, calls = authors.answer_texts, []
def answer_one_batch(*arguments, **options):
    calls.append(None)
    if len(calls) > 1:
        time.sleep(600)
    return real(*arguments, **options)
authors.answer_texts = answer_one_batch
sys.exit(continuation.main(sys.argv[1:]))
"""


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(
    folder: Path, llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the first of its three batches, it does the other two."""
    argv = command(folder, llm, "--sample")
    out, journal = folder / "out" / "c.jsonl", folder / "out" / "c.jsonl.journal"
    assert main(argv) == 0
    whole, meta = out.read_bytes(), out.with_suffix(".meta.json").read_bytes()
    for path in out.parent.iterdir():
        path.unlink()
    process = subprocess.Popen([sys.executable, "-c", STUCK, *argv], env=os.environ)
    while not journal.exists() or journal.read_bytes().count(b"\n") < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert journal.read_bytes().count(b"\n") == 2
    assert not out.exists()
    asked: list[int] = []
    real = authors.answer_texts
    with monkeypatch.context() as patch:
        patch.setattr(
            authors, "answer_texts", lambda *a, **k: (asked.append(len(a[2])), real(*a, **k))[1]
        )
        assert main(argv) == 0
    assert asked == [2, 2]
    assert out.read_bytes() == whole
    assert out.with_suffix(".meta.json").read_bytes() == meta
    assert not journal.exists()


@pytest.fixture
def interrupted(folder: Path, llm: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    real, calls = authors.answer_texts, [0]

    def fail_later(*arguments: Any, **options: Any) -> list[Answer]:
        calls[0] += 1
        if calls[0] > 1:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(authors, "answer_texts", fail_later)
        with pytest.raises(KeyboardInterrupt):
            main(command(folder, llm))
    return folder


def test_other_settings_are_refused(interrupted: Path, llm: Path) -> None:
    with pytest.raises(InputError, match="the same settings"):
        main(command(interrupted, llm, "--temperature", "0.5"))


def test_other_filters_lose_no_answer(interrupted: Path, llm: Path) -> None:
    (journal,) = (interrupted / "out").glob("*.journal")
    answered = len(journal.read_text().splitlines()) - 1
    assert answered > 0
    main(command(interrupted, llm, "--cut", "drop"))
    assert not journal.exists()
    with pytest.raises(InputError, match="expected no file yet, or that of the same run"):
        main(command(interrupted, llm))


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
    monkeypatch.setattr(authors, "answer_texts", None)
    assert main(command(folder, llm)) == 0
    with pytest.raises(InputError, match="choose another --out"):
        main(command(folder, llm, "--seed", "5"))


def test_the_default_settings_are_greedy() -> None:
    assert not GenerationConfig().do_sample
