"""Examples from files: both views, skipped audio, foreign files, and what it costs to hold them."""

import logging
import pickle
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from templates import TOOLS, build_tokenizer

from blsp.config import parse_config
from blsp.dataset import ConversationDataset, DataConfig, Demands, expand_placeholders
from blsp.errors import InputError
from blsp.manifest import AudioPart, Conversation, Message, Meta, TextPart, write_rows
from blsp.model.processing import Features
from blsp.rendering import IGNORED, Rendered, Renderer

AUDIO = 5000
RENDERER = Renderer(build_tokenizer("tiny"), audio_token_id=AUDIO)
LLM = "tiny@1"
META = Meta(command="test", llm=LLM, template=RENDERER.template_fingerprint())


def speak(
    name: str,
    *,
    seconds: float = 1.0,
    answer: str = "the light",
    words: str = "turn on the light",
    emotion: str | None = None,
) -> Conversation:
    part = AudioPart(audio=f"{name}.wav", duration=seconds, transcript=words, emotion=emotion)
    question = Message(role="user", content=(TextPart(text="Repeat:\n"), part))
    response = Message(role="assistant", content=(TextPart(text=answer),))
    return Conversation(id=name, messages=(question, response))


def ask(name: str) -> Conversation:
    question = Message(role="user", content=(TextPart(text="Who?"),))
    response = Message(role="assistant", content=(TextPart(text="me"),))
    return Conversation(id=name, messages=(question, response))


def load_features(part: AudioPart, root: Path) -> Features:
    """100 frames of two numbers a second; anything called bad is unreadable."""
    if "bad" in part.audio:
        raise InputError(f"{root / part.audio}: expected audio, found noise; drop it")
    frames = round(part.duration * 100)
    return torch.full((2, frames), part.duration), frames


def num_speech_tokens(frames: int) -> int:
    return -(-frames // 16)


def build(
    *files: Path, llm: str | None = LLM, demands: Demands | None = None, **options: Any
) -> ConversationDataset:
    config = DataConfig(conversations=files, **options)
    return ConversationDataset(
        config, RENDERER, load_features, num_speech_tokens, llm=llm, demands=demands
    )


def write(path: Path, *conversations: Conversation, meta: Meta = META) -> Path:
    write_rows(path, conversations, meta)
    return path


def test_an_example_has_a_placeholder_a_speech_embedding_and_both_views(tmp_path: Path) -> None:
    """0.8 s are 80 frames are 5 embeddings."""
    example = build(write(tmp_path / "c.jsonl", speak("a", seconds=0.8)))[0]
    student = RENDERER.render(speak("a"), view="student")
    teacher = RENDERER.render(speak("a"), view="teacher")
    [(position, _)] = student.audio
    ids = student.ids[:position] + [AUDIO] * 5 + student.ids[position + 1 :]
    assert example.id == "a"
    assert example.input_ids.tolist() == ids
    assert example.labels[example.labels != IGNORED].tolist() == [
        label for label in teacher.labels if label != IGNORED
    ]
    assert example.teacher_input_ids.tolist() == teacher.ids
    assert example.teacher_labels.tolist() == teacher.labels
    assert [(tuple(one.shape), frames) for one, frames in example.features] == [((2, 80), 80)]


def test_both_views_of_an_example_have_the_tools_of_their_conversation(tmp_path: Path) -> None:
    renderer = Renderer(build_tokenizer("qwen2.5"), audio_token_id=AUDIO)
    row = replace(speak("a", seconds=0.8), tools=tuple(TOOLS))
    path = write(tmp_path / "c.jsonl", row, replace(row, id="b", tools=()))
    config = DataConfig(conversations=(path,), foreign=True)
    data = ConversationDataset(config, renderer, load_features, num_speech_tokens)
    told, plain = data[0], data[1]
    asked = renderer.render_question(row, view="teacher").ids
    assert told.teacher_input_ids.tolist()[: len(asked)] == asked
    heard = len(told.input_ids) - len(plain.input_ids)
    assert heard == len(told.teacher_input_ids) - len(plain.teacher_input_ids) > 0
    for labels in (told.labels, told.teacher_labels, plain.teacher_labels):
        assert labels[labels != IGNORED].tolist() == plain.labels[plain.labels != IGNORED].tolist()
    # What follows the recording is the same in both views.
    answer = len(told.input_ids) - told.input_ids.tolist()[::-1].index(AUDIO)
    suffix = told.input_ids.tolist()[answer:]
    assert told.teacher_input_ids.tolist()[-len(suffix) :] == suffix
    longer = [max(len(x.input_ids), len(x.teacher_input_ids)) for x in (told, plain)]
    assert data.tokens.tolist() == longer


def test_files_count_as_often_as_they_weigh(tmp_path: Path) -> None:
    """Two of four, three twice, and one and a half times two: 2 + 6 + 3 conversations."""
    half = write(tmp_path / "a.jsonl", *(speak(f"a{at}", seconds=1 + at) for at in range(4)))
    twice = write(tmp_path / "b.jsonl", *(speak(f"b{at}") for at in range(3)))
    more = write(tmp_path / "c.jsonl", *(speak(f"c{at}") for at in range(2)))
    data = build(half, twice, more, weights=(0.5, 2.0, 1.5))
    names = [data.read_conversation(index)[0].id for index in range(len(data))]
    assert len(set(names[:2])) == 2 and {name[0] for name in names[:2]} == {"a"}
    assert names[2:10] == ["b0", "b1", "b2", "b0", "b1", "b2", "c0", "c1"]
    assert names[10] in ("c0", "c1")
    seconds = {f"a{at}": 1.0 + at for at in range(4)}
    assert data.durations[:2].tolist() == [seconds[name] for name in names[:2]]
    again = build(half, twice, more, weights=(0.5, 2.0, 1.5))
    assert [again.read_conversation(index)[0].id for index in range(11)] == names


def test_corpora_and_licences_are_added_up(tmp_path: Path) -> None:
    rows = [speak("a", seconds=2.0), speak("b", seconds=3.0), speak("c")]
    rows[:2] = [replace(row, source="S", license="CC0-1.0") for row in rows[:2]]
    data = build(write(tmp_path / "c.jsonl", *rows))
    assert data.sources == {("S", "CC0-1.0"): [2, 5.0], (None, None): [1, 1.0]}


def test_placeholders_of_several_recordings_are_repeated_each() -> None:
    part = AudioPart(audio="a", duration=1, transcript="")
    student = Rendered(
        ids=[1, 9, 2, 9, 3, 4],
        labels=[IGNORED, IGNORED, IGNORED, IGNORED, 3, 4],
        audio=[(1, part), (3, part)],
    )
    assert expand_placeholders(student, [3, 1]) == (
        [1, 9, 9, 9, 2, 9, 3, 4],
        [IGNORED] * 6 + [3, 4],
    )


def test_text_alone_is_an_example_without_features(tmp_path: Path) -> None:
    dataset = build(write(tmp_path / "c.jsonl", ask("a")))
    assert dataset[0].features == ()
    assert torch.equal(dataset[0].input_ids, dataset[0].teacher_input_ids)
    assert dataset.durations.tolist() == [0]


def test_any_line_of_any_file_is_found_again(tmp_path: Path) -> None:
    """Multi-byte characters and a byte order mark must not shift the offsets."""
    first = write(
        tmp_path / "a.jsonl", speak("\u00e9\u00e9"), speak("b", answer="\u4f60\u597d"), speak("c")
    )
    first.write_bytes(b"\xef\xbb\xbf" + first.read_bytes().replace(b"\n", b"\r\n\r\n"))
    second = write(tmp_path / "b.jsonl", ask("d"), ask("e"))
    dataset = build(first, second)
    assert [dataset[i].id for i in range(len(dataset))] == ["\u00e9\u00e9", "b", "c", "d", "e"]
    with pytest.raises(IndexError):
        dataset[5]


def test_the_plan_states_seconds_and_the_longer_view(tmp_path: Path) -> None:
    """At one token a word the transcript has several; 0.16 s are 1 embedding and 16 s are 100."""
    dataset = build(write(tmp_path / "c.jsonl", speak("a", seconds=0.16), speak("b", seconds=16)))
    assert dataset.durations.tolist() == pytest.approx([0.16, 16])
    short, long = dataset[0], dataset[1]
    assert len(short.input_ids) < len(short.teacher_input_ids) == dataset.tokens[0]
    assert len(long.teacher_input_ids) < len(long.input_ids) == dataset.tokens[1]


def test_audio_lies_where_the_side_file_says(tmp_path: Path) -> None:
    meta = Meta(command="t", llm=LLM, template=META.template, root="../corpus")
    dataset = build(write(tmp_path / "c" / "c.jsonl", speak("a"), meta=meta))
    assert dataset.read_conversation(0)[1] == tmp_path / "c" / "../corpus"


def test_unreadable_audio_is_left_out_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "c.jsonl", speak("a"), speak("bad"), speak("c"))
    dataset = build(path, max_unreadable_share=0.5)
    with caplog.at_level(logging.WARNING):
        examples = [dataset[i] for i in (0, 1, 1, 2)]
    reason = f"{tmp_path}/bad.wav: expected audio, found noise; drop it"
    assert [example.unreadable for example in examples] == [None, reason, reason, None]
    assert dataset.unreadable == {"bad": reason}
    assert caplog.messages == [f"left out bad: {reason}"]


def test_too_much_unreadable_audio_stops(tmp_path: Path) -> None:
    """A quarter of eight is two; the third is too many."""
    names = ["a", "bad1", "bad2", "b", "bad3", "c", "d", "e"]
    dataset = build(write(tmp_path / "c.jsonl", *map(speak, names)), max_unreadable_share=0.25)
    for index in range(4):
        dataset[index]
    with pytest.raises(InputError, match=r"at most 25\.0% .* found 3 among 5, the last bad3 \("):
        dataset[4]


@pytest.mark.parametrize(
    ("meta", "llm", "said"),
    [
        (Meta(command="t"), LLM, "expected a side file that names the language model"),
        (Meta(command="t", llm=LLM, template="0"), LLM, r"found 0 \(by tiny@1\); write them with"),
        (META, "tiny@2", "expected conversations written by tiny@2, found tiny@1; write them"),
    ],
)
def test_conversations_of_another_model_or_template_are_refused(
    tmp_path: Path, meta: Meta, llm: str, said: str
) -> None:
    path = write(tmp_path / "c.jsonl", speak("a"), meta=meta)
    with pytest.raises(InputError, match=said):
        build(path, llm=llm)
    assert len(build(path, llm=llm, foreign=True)) == 1


def test_conversations_of_unknown_origin_are_foreign(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", speak("a"))
    path.with_suffix(".meta.json").unlink()
    with pytest.raises(InputError, match=r"data\.foreign: true"):
        build(path)


def test_a_bad_line_is_named_before_training(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", speak("a"))
    path.write_text(path.read_text() + '{"id": "b"}\n')
    with pytest.raises(InputError, match=r"c\.jsonl:2: expected the key 'messages'"):
        build(path)


def test_a_conversation_that_cannot_be_rendered_is_named_before_training(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", Conversation(id="a", messages=ask("a").messages[:1]))
    with pytest.raises(InputError, match=r"c\.jsonl:1: conversation 'a': expected a question"):
        build(path)


def test_a_file_that_changes_during_training_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", speak("a"), speak("b"))
    dataset = build(path)
    path.write_text(path.read_text()[3:])
    with pytest.raises(InputError, match="expected the file as it was when training began"):
        dataset[1]


def test_a_dataset_can_be_sent_to_a_worker(tmp_path: Path) -> None:
    dataset = build(write(tmp_path / "c.jsonl", speak("a")))
    assert pickle.loads(pickle.dumps(dataset))[0].id == "a"


def test_a_plan_takes_at_most_150_bytes_a_conversation(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", *(speak(f"utterance-{i:05d}") for i in range(2000)))
    build(path)[0]  # whatever is cached once
    tracemalloc.start()
    dataset = build(path)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(dataset) == 2000
    assert kept < 2000 * 24 + 20_000
    assert peak < 2000 * 300 + 200_000  # ids are remembered during the scan


def test_options_are_those_of_a_recipe() -> None:
    config = parse_config(DataConfig, "conversations: [a.jsonl]\nforeign: true", name="r.yaml")
    assert config == DataConfig(conversations=(Path("a.jsonl"),), foreign=True)


def test_some_of_the_conversations_are_a_data_set_too(tmp_path: Path) -> None:
    """Of the files a b c and d e: numbers 1, 2 and 4."""
    first = write(tmp_path / "1.jsonl", *(speak(name) for name in "abc"))
    second = write(tmp_path / "2.jsonl", *(speak(name, seconds=2.0) for name in "de"))
    chosen = build(first, second).select([4, 1, 2])
    assert [chosen[i].id for i in range(len(chosen))] == ["b", "c", "e"]
    assert chosen.durations.tolist() == [1.0, 1.0, 2.0]
    assert len(chosen.tokens) == 3


# --- what model and objectives demand -------------------------------------------------------------

BY_TOKEN = Demands(decides_length=True)


def test_with_one_embedding_a_token_there_are_as_many_placeholders_as_words(tmp_path: Path) -> None:
    [example] = build(write(tmp_path / "c.jsonl", speak("a", seconds=8)), demands=BY_TOKEN)
    [(start, end)] = example.transcripts
    assert example.speech_lengths == (end - start,)
    assert (example.input_ids == AUDIO).sum() == end - start
    assert len(example.input_ids) == len(example.teacher_input_ids)


def test_otherwise_there_are_as_many_as_the_recording_takes(tmp_path: Path) -> None:
    """0.8 s are 80 frames are 5 embeddings."""
    [example] = build(write(tmp_path / "c.jsonl", speak("a", seconds=0.8)))
    assert example.speech_lengths == (5,)


def test_a_recording_that_cannot_become_its_tokens_is_skipped_and_counted(tmp_path: Path) -> None:
    """0.04 s are 2 encoder rows."""
    rows = [speak("a"), speak("none", words=""), speak("many", seconds=0.04), speak("b"), ask("c")]
    path = write(tmp_path / "c.jsonl", *rows)
    dataset = build(path, demands=BY_TOKEN)
    assert [one.id for one in dataset] == ["a", "b", "c"]
    assert dataset.skipped == {"empty transcript": 1, "more tokens than encoder rows": 1}
    assert len(build(path)) == 5 and not build(path).skipped


def test_an_emotion_nobody_asked_for_is_skipped_and_one_nobody_knows_is_not(tmp_path: Path) -> None:
    emotions = ["sad", None, "bored", "happy"]
    rows = [speak(f"{i}", emotion=emotion) for i, emotion in enumerate(emotions)]
    path = write(tmp_path / "c.jsonl", *rows)
    dataset = build(path, demands=Demands(emotions=("happy", "sad")))
    assert [one.emotions for one in dataset] == [(1,), (IGNORED,), (0,)]
    assert dataset.skipped == {"unknown emotion 'bored'": 1}
    assert dataset.labelled == 2
    assert build(path)[0].emotions == (IGNORED,) and build(path).labelled == 0
