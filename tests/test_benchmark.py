"""A run with fake models whose answers are known, scored by hand."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blsp.asking import pick_partners
from blsp.audio import save_audio
from blsp.benchmark import Benchmark
from blsp.errors import InputError
from blsp.generation import Answer
from blsp.manifest import AudioPart, Message, Meta, Utterance, write_rows
from blsp.prediction_log import Prediction, PredictionLog
from blsp.report import write_report
from blsp.results import SYSTEMS, recompute
from blsp.running import run
from blsp.systems import Models
from blsp.tasks import Task, build_messages
from blsp.testsets import TestSet, load_test_set

WORDS = ("turn on the light", "play some music", "call ada", "set a timer")
INTENTS = ("light_on", "play_music", "call", "timer")
GERMAN = ("mach das Licht an", "spiel Musik", "ruf Ada an", "stell einen Wecker")


def utterance(i: int, **changes: Any) -> Utterance:
    values: dict[str, Any] = {
        "id": f"u{i}",
        "audio": f"u{i}.wav",
        "duration": (i + 1) / 10,
        "text": WORDS[i],
        "intent": INTENTS[i],
        "translation": {"de": GERMAN[i]},
        "language": "en",
    }
    return Utterance(**(values | changes))


def write_spoken(folder: Path) -> Path:
    """A manifest whose recordings are told apart by their length."""
    for i in range(4):
        save_audio(folder / f"u{i}.wav", np.full(1600 * (i + 1), 0.1, dtype=np.float32))
    write_rows(folder / "test.jsonl", [utterance(i) for i in range(4)], Meta(command="test"))
    return folder / "test.jsonl"


def write_spellings(folder: Path) -> Path:
    (folder / "whisper").mkdir()
    (folder / "whisper" / "normalizer.json").write_text('{"colour": "color"}')
    return folder / "whisper"


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    return write_spoken(tmp_path)


@pytest.fixture
def spellings(tmp_path: Path) -> Path:
    return write_spellings(tmp_path)


def index_of(audio: np.ndarray) -> int:
    return len(audio) // 1600 - 1


def prompt_and_words(messages: Sequence[Message]) -> tuple[str, str]:
    parts = messages[0].content
    recording = next(part for part in parts if isinstance(part, AudioPart))
    text = "".join(part.text for part in parts if not isinstance(part, AudioPart))
    return text.strip(), recording.transcript


def understand(prompt: str, words: str) -> str:
    """A perfect language model of the four sentences."""
    if words not in WORDS:
        return "what?"
    i = WORDS.index(words)
    return {"Repeat": WORDS[i], "Intent?": f"It is {INTENTS[i]}.", "German": GERMAN[i]}[prompt]


def heard(i: int) -> str:
    """A Whisper that gets one of the four wrong."""
    return "call other" if i == 2 else WORDS[i]


class Fakes:
    """Models that note what they were asked."""

    def __init__(self, spellings: Path, hear: Callable[[str, int], str] | None = None) -> None:
        self.asked: list[str] = []
        self.transcribed = 0
        self.hear_one = hear or (lambda prompt, i: understand(prompt, WORDS[i]))
        self.models = Models(
            read=self.read,
            hear=self.hear,
            transcribe=self.transcribe,
            description={"speech": "fake", "max_new_tokens": 8},
            whisper=spellings,
        )

    def read(self, chats: Sequence[Sequence[Message]]) -> list[Answer]:
        self.asked += ["read"] * len(chats)
        return [Answer(understand(*prompt_and_words(chat)), "stop", 3) for chat in chats]

    def hear(self, chats: Sequence[Sequence[Message]], audio: Sequence[np.ndarray]) -> list[Answer]:
        self.asked += ["hear"] * len(chats)
        assert all(prompt_and_words(chat)[1] == "" for chat in chats)
        pairs = zip(chats, audio, strict=True)
        return [
            Answer(self.hear_one(prompt_and_words(chat)[0], index_of(one)), "length", 8)
            for chat, one in pairs
        ]

    def transcribe(self, audio: Sequence[np.ndarray], language: str) -> list[str]:
        assert language == "en"
        self.transcribed += len(audio)
        return [heard(index_of(one)) for one in audio]


TASKS = (
    Task(name="asr", prompts=("Repeat",), reference="text", metrics=("wer", "cer")),
    Task(
        name="intent",
        prompts=("Intent?",),
        reference="intent",
        metrics=("accuracy", "invalid_rate"),
        labels=INTENTS,
        held_out=True,
    ),
    Task(
        name="st",
        prompts=("German",),
        reference="translation.de",
        metrics=("bleu", "exact_match"),
        language="de",
    ),
)


def benchmark(manifest: Path, **changes: Any) -> Benchmark:
    values = {"tasks": TASKS, "sets": (load_test_set(manifest, "clean"),), "command": "blsp eval"}
    return Benchmark(**(values | changes))


def values(results: dict[str, Any], task: str, metric: str) -> dict[str, float]:
    rows = results["rows"]
    return {r["system"]: r["value"] for r in rows if (r["task"], r["metric"]) == (task, metric)}


def test_scores_are_those_worked_out_by_hand(spoken: Path, spellings: Path, tmp_path: Path) -> None:
    results = run(benchmark(spoken), Fakes(spellings).models, tmp_path / "out")
    # 4 + 3 + 2 + 3 = 12 words; Whisper hears one of them wrong, and the reader answers "what?" to
    # "call other": one word for two.
    assert values(results, "transcript", "wer") == {"whisper": pytest.approx(1 / 12)}
    wer = values(results, "asr", "wer")
    assert (wer["speech"], wer["text bound"], wer["empty"]) == (0, 0, 1)
    assert wer["cascade"] == pytest.approx(2 / 12)
    accuracy = values(results, "intent", "accuracy")
    assert accuracy["speech"] == accuracy["text bound"] == 1
    assert (accuracy["cascade"], accuracy["empty"]) == (0.75, 0)
    assert accuracy["shuffled audio"] == accuracy["shuffled_text"] == 0
    assert values(results, "intent", "invalid_rate")["cascade"] == 0.25
    assert values(results, "st", "bleu")["speech"] == pytest.approx(1)
    assert values(results, "st", "exact_match")["cascade"] == 0.75


def test_a_row_has_every_documented_key(spoken: Path, spellings: Path, tmp_path: Path) -> None:
    results = run(benchmark(spoken), Fakes(spellings).models, tmp_path / "out")
    row = next(r for r in results["rows"] if (r["system"], r["task"]) == ("cascade", "intent"))
    assert row | {"ci_low": 0, "ci_high": 0} == {
        "system": "cascade",
        "task": "intent",
        "condition": "clean",
        "metric": "accuracy",
        "value": 0.75,
        "ci_low": 0,
        "ci_high": 0,
        "n": 4,
        "held_out": True,
        "signature": "labels:4|parse:exact-or-only-one-contained",
        "interval": "wilson",
    }
    assert row["ci_low"] < 0.75 < row["ci_high"]
    assert results["command"] == "blsp eval"
    assert {"versions", "seconds", "peak_memory_mb", "hardware"} <= results.keys()
    assert results["finished"] is True
    assert [task["name"] for task in results["tasks"]] == ["asr", "intent", "st", "transcript"]


def keys_of(value: Any) -> set[str]:
    """Names of all keys, but of what users name themselves."""
    if isinstance(value, list):
        return set().union(*map(keys_of, value))
    if not isinstance(value, dict):
        return set()
    named = {"versions", "decoding", "without_reference", "models", "foreign", "phrases"}
    return set(value).union(*(keys_of(v) for k, v in value.items() if k not in named))


def test_every_key_is_documented(
    spoken: Path, spellings: Path, tmp_path: Path, checkout: Path
) -> None:
    results = run(benchmark(spoken, by=("intent",)), Fakes(spellings).models, tmp_path / "out")
    assert all(results[key] for key in ("rows", "slices", "comparisons", "checks", "counts"))
    text = (checkout / "eval" / "README.md").read_text()
    documented = set(re.findall(r"`(\w+)`", text))
    assert keys_of(results) - documented == set()
    predictions = (tmp_path / "out/predictions/speech.jsonl").read_text().splitlines()
    assert keys_of([json.loads(line) for line in predictions]) - documented == set()


@pytest.mark.parametrize("name", ["run.json", "results.json"])
def test_what_a_newer_version_wrote_is_refused(
    name: str, spoken: Path, spellings: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(benchmark(spoken, systems=("speech",)), Fakes(spellings).models, out)
    (out / name).write_text(json.dumps({"format_version": 2}))
    with pytest.raises(InputError, match="expected run format 1 or older, found 2; update blsp"):
        recompute(out) if name == "run.json" else write_report(out)


@pytest.mark.parametrize("size", [1, 3])
def test_batch_and_order_change_no_score(
    size: int, spoken: Path, spellings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(benchmark(spoken), Fakes(spellings).models, tmp_path / "out")
    monkeypatch.setattr("blsp.asking._AT_ONCE", size)
    asked = benchmark(spoken, systems=SYSTEMS[::-1], tasks=TASKS[::-1])
    found = run(asked, Fakes(spellings).models, tmp_path / "other")
    order = lambda row: (row["task"], row["metric"], row["system"])  # noqa: E731
    assert sorted(found["rows"], key=order) == sorted(expected["rows"], key=order)


def test_the_order_of_a_manifest_changes_no_score(
    spoken: Path, spellings: Path, tmp_path: Path
) -> None:
    (ahead,) = benchmark(spoken).sets
    behind = replace(ahead, utterances=ahead.utterances[::-1])
    first, second = (
        run(benchmark(spoken, sets=(one,)), Fakes(spellings).models, tmp_path / name)
        for one, name in ((ahead, "a"), (behind, "b"))
    )
    assert first["rows"] == second["rows"]


def test_the_results_can_be_made_again_from_the_predictions(
    spoken: Path, spellings: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = run(benchmark(spoken), Fakes(spellings).models, out)
    written = (out / "results.json").read_text()
    (out / "results.json").unlink()
    assert recompute(out) == first == json.loads(written)
    assert (out / "results.json").read_text() == written


def test_a_line_on_its_way_is_left_alone_until_something_is_written(tmp_path: Path) -> None:
    row = {"id": "a", "system": "speech", "task": "t", "condition": "c", "reference": "r"}
    first, second = (Prediction(**row | {"id": i}, prediction="é") for i in "ab")  # type: ignore[arg-type]
    PredictionLog(tmp_path).append([first])
    path = tmp_path / "predictions" / "speech.jsonl"
    whole = path.read_bytes()
    torn = whole + '{"id": "b", "prediction": "é'.encode()[:-1]  # within a letter
    path.write_bytes(torn)
    log = PredictionLog(tmp_path)
    assert log.get(first.cell) == {"a": first} and path.read_bytes() == torn
    log.append([second])
    assert path.read_bytes().startswith(whole) and path.read_bytes().count(b"\n") == 2
    assert PredictionLog(tmp_path).get(first.cell) == {"a": first, "b": second}


def test_predictions_have_one_line_each(spoken: Path, spellings: Path, tmp_path: Path) -> None:
    run(benchmark(spoken), Fakes(spellings).models, tmp_path / "out")
    lines = (tmp_path / "out/predictions/text_bound.jsonl").read_text().splitlines()
    assert len(lines) == 3 * 4
    intents = [row for row in map(json.loads, lines) if row["task"] == "intent"]
    assert intents[0] == {
        "id": "u0",
        "system": "text bound",
        "task": "intent",
        "condition": "clean",
        "reference": "light_on",
        "prediction": "It is light_on.",
        "finish_reason": "stop",
    }


def test_each_clip_is_transcribed_once_for_all_tasks(
    spoken: Path, spellings: Path, tmp_path: Path
) -> None:
    fakes = Fakes(spellings)
    run(benchmark(spoken), fakes.models, tmp_path / "out")
    assert fakes.transcribed == 4


def test_a_killed_run_goes_on_where_it_stopped(
    spoken: Path, spellings: Path, tmp_path: Path
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    expected = run(benchmark(spoken), Fakes(spellings).models, whole)
    run(benchmark(spoken), Fakes(spellings).models, out)
    path = out / "predictions/speech.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:5]) + lines[5][:20])  # killed in the middle of a line
    fakes = Fakes(spellings)
    results = run(benchmark(spoken), fakes.models, out)
    assert (fakes.asked, fakes.transcribed) == (["hear"] * 7, 0)
    assert results["rows"] == expected["rows"]


def test_another_model_or_prompt_is_not_mixed_in(
    spoken: Path, spellings: Path, tmp_path: Path
) -> None:
    models = Fakes(spellings).models
    run(benchmark(spoken), models, tmp_path / "out")
    other = replace(models, description={"speech": "fake", "max_new_tokens": 9})
    with pytest.raises(InputError, match="same models, found it differ in 'max_new_tokens': 8 th"):
        run(benchmark(spoken), other, tmp_path / "out")
    tasks = (replace(TASKS[0], prompts=("Say it",)), *TASKS[1:])
    with pytest.raises(InputError, match="same name 'asr', found it differ in 'prompts'"):
        run(benchmark(spoken, tasks=tasks), models, tmp_path / "out")


def test_a_task_can_be_added_later(spoken: Path, spellings: Path, tmp_path: Path) -> None:
    out, models = tmp_path / "out", Fakes(spellings).models
    run(benchmark(spoken, tasks=TASKS[:1]), models, out)
    results = run(benchmark(spoken, tasks=TASKS[1:]), models, out)
    assert {row["task"] for row in results["rows"]} == {"asr", "transcript", "intent", "st"}


def test_shuffled_systems_get_the_same_other_utterance(
    spoken: Path, spellings: Path, tmp_path: Path
) -> None:
    results = run(benchmark(spoken), Fakes(spellings).models, tmp_path / "out")
    log = PredictionLog(tmp_path / "out")
    partners = pick_partners([utterance(i) for i in range(4)], seed=0)
    assert all(identity != other.id for identity, other in partners.items())
    for system in ("shuffled audio", "shuffled_text"):
        said = {i: p.prediction for i, p in log.get((system, "asr", "clean")).items()}
        assert said == {i: other.text for i, other in partners.items()}
    checks = {check["task"]: check for check in results["checks"]}
    assert checks["intent"]["passed"] and checks["st"]["passed"]


def test_an_answer_that_does_not_come_from_the_sound_is_found(
    spoken: Path, spellings: Path, tmp_path: Path
) -> None:
    # Whatever is played, the leaking model answers what is asked: nobody shuffled its answers.
    partners = pick_partners([utterance(i) for i in range(4)], seed=0)
    origin = {int(other.id[1:]): int(i[1:]) for i, other in partners.items()}
    fakes = Fakes(spellings, lambda prompt, i: understand(prompt, WORDS[origin[i]]))
    results = run(benchmark(spoken), fakes.models, tmp_path / "out")
    check = next(one for one in results["checks"] if one["task"] == "intent")
    assert (check["value"], check["verdict"], check["passed"]) == (1, "better", False)


def test_speech_is_compared_with_the_cascade_in_pairs(
    spoken: Path, spellings: Path, tmp_path: Path
) -> None:
    results = run(benchmark(spoken), Fakes(spellings).models, tmp_path / "out")
    found = {
        (one["task"], one["metric"]): one
        for one in results["comparisons"]
        if one["second"] == "cascade"
    }
    assert found["intent", "accuracy"]["difference"] == 0.25
    assert found["intent", "accuracy"]["ratio"] == pytest.approx(4 / 3)
    assert found["asr", "wer"]["difference"] == pytest.approx(-2 / 12)
    assert (found["asr", "wer"]["n"], found["asr", "wer"]["ratio"]) == (4, None)
    # One of four is right in speech alone; of 2 ** 4 swaps every one is as far.
    assert (found["intent", "accuracy"]["p_mcnemar"], found["asr", "wer"]["p_mcnemar"]) == (1, None)
    assert found["asr", "wer"]["p_randomization"] == 1


def test_speakers_are_drawn_where_the_manifest_names_them(
    spoken: Path, spellings: Path, tmp_path: Path
) -> None:
    named = [utterance(i, speaker="ann" if i < 2 else "bob") for i in range(4)]
    write_rows(spoken, named, Meta(command="test"))
    results = run(benchmark(spoken), Fakes(spellings).models, tmp_path / "out")
    row = next(r for r in results["rows"] if (r["system"], r["metric"]) == ("cascade", "accuracy"))
    # One of the two speakers has both right, the other one of two.
    assert row["by_speaker"] == {"n": 2, "ci_low": 0.5, "ci_high": 1.0}
    write_rows(spoken, [utterance(i, speaker="ann") for i in range(4)], Meta(command="test"))
    results = run(benchmark(spoken), Fakes(spellings).models, tmp_path / "one")
    assert not any("by_speaker" in row for row in results["rows"])


@pytest.mark.parametrize(
    ("said", "accuracy", "invalid", "empty"),
    [
        ("", 0, 4, 4),
        ("Intent?", 0, 4, 0),  # repeats its prompt
        ("das ist Musik", 0, 4, 0),  # answers in another language
        ("light_on or timer", 0, 4, 0),  # hedges
        ("Play Music!", 0.25, 0, 0),
    ],
)
def test_answers_that_are_no_answers_score_what_they_should(  # noqa: PLR0913
    said: str,
    accuracy: float,
    invalid: int,
    empty: int,
    spoken: Path,
    spellings: Path,
    tmp_path: Path,
) -> None:
    fakes = Fakes(spellings, lambda prompt, i: said)
    results = run(benchmark(spoken, tasks=TASKS[1:2]), fakes.models, tmp_path / "out")
    assert values(results, "intent", "accuracy")["speech"] == accuracy
    counts = next(row for row in results["counts"] if row["system"] == "speech")
    assert counts == {
        "system": "speech",
        "task": "intent",
        "condition": "clean",
        "n": 4,
        "missing": 0,
        "truncated": 4,
        "empty": empty,
        "invalid": invalid,
    }


def test_a_missing_prediction_counts_as_wrong(tmp_path: Path, spellings: Path) -> None:
    record = {
        "format_version": 1,
        "tasks": [TASKS[1].to_dict()],
        "sets": [{"condition": "clean"}],
        "command": "none",
    }
    (tmp_path / "run.json").write_text(json.dumps(record))
    rows = [("speech", 0), ("cascade", 0), ("cascade", 1)]
    PredictionLog(tmp_path).append(
        Prediction(
            id=f"u{i}",
            system=system,
            task="intent",
            condition="clean",
            reference=INTENTS[i],
            prediction=INTENTS[i],
        )
        for system, i in rows
    )
    results = recompute(tmp_path)
    assert values(results, "intent", "accuracy") == {"speech": 0.5, "cascade": 1}
    assert [row["missing"] for row in results["counts"]] == [1, 0]


def test_utterances_without_a_reference_are_not_asked_about(
    spoken: Path, spellings: Path, tmp_path: Path
) -> None:
    rows = (utterance(0), utterance(1, intent=None), utterance(2), utterance(3, text="Hmm"))
    sets = (TestSet(condition="clean", utterances=rows, root=spoken.parent),)
    results = run(benchmark(spoken, sets=sets), Fakes(spellings).models, tmp_path / "out")
    counts = {
        row["task"]: row for row in results["counts"] if row["system"] in ("speech", "whisper")
    }
    assert counts["intent"]["n"] == 3 and counts["intent"]["without_reference"] == 1
    assert "without_reference" not in counts["asr"]
    # "hmm" is nothing after the English normaliser: dropped from the error rate and counted
    assert (counts["asr"]["n"], counts["asr"]["without_words"]) == (4, 1)
    assert next(r for r in results["rows"] if r["task"] == "asr")["n"] == 3


def test_a_task_that_no_utterance_can_answer_is_refused(spoken: Path) -> None:
    task = Task(name="fr", prompts=("",), reference="translation.fr", metrics=("chrf",))
    with pytest.raises(InputError, match=r"task 'fr': expected 'translation\.fr' in the utteran"):
        benchmark(spoken, tasks=(task,))


def test_a_reading_system_needs_transcripts(spoken: Path, spellings: Path, tmp_path: Path) -> None:
    rows = tuple(utterance(i, text=None) for i in range(4))
    sets = (TestSet(condition="clean", utterances=rows, root=spoken.parent),)
    asked = benchmark(spoken, sets=sets, tasks=TASKS[1:2])
    with pytest.raises(InputError, match="'u0': expected a transcript for the system 'text bound"):
        run(asked, Fakes(spellings).models, tmp_path / "out")
    deaf = replace(asked, systems=("speech", "cascade"))
    results = run(deaf, Fakes(spellings).models, tmp_path / "out2")
    assert {row["task"] for row in results["rows"]} == {"intent"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"systems": ("speech", "oracle")}, "found 'oracle'"),
        ({"tasks": (TASKS[0], TASKS[0])}, "each name once"),
        ({"tasks": ()}, "at least one task"),
        (
            {"tasks": (replace(TASKS[1], labels=("cal", "timer")),)},
            "for 'u0', found 'light_on'; ch",
        ),
    ],
)
def test_a_benchmark_that_cannot_be_run_is_refused(
    changes: dict[str, Any], message: str, spoken: Path
) -> None:
    with pytest.raises(InputError, match=message):
        benchmark(spoken, **changes)
    with pytest.raises(InputError, match="two utterances or more to shuffle, found 1"):
        benchmark(spoken, sets=(load_test_set(spoken, "clean", limit=1),))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ("wre",)}, "found 'wre'; did you mean 'wer'"),
        ({"metrics": ("accuracy",)}, "expected labels"),
        ({"prompts": ("{audio}\n{audio}",)}, "expected {audio} once, on a line of its own"),
        ({"prompts": ()}, "expected a prompt"),
    ],
)
def test_a_task_that_cannot_be_scored_is_refused(changes: dict[str, Any], message: str) -> None:
    valid: dict[str, Any] = {
        "name": "t",
        "prompts": ("",),
        "reference": "text",
        "metrics": ("wer",),
    }
    with pytest.raises(InputError, match=message):
        Task(**(valid | changes))  # type: ignore[arg-type]


def test_a_prompt_says_where_the_recording_stands() -> None:
    parts = build_messages("A\n{audio}\nB", utterance(0), "words")[0].content
    assert [part.transcript if isinstance(part, AudioPart) else part.text for part in parts] == [
        "A\n",
        "words",
        "\nB",
    ]


def test_a_task_is_written_and_read_back() -> None:
    assert [Task(**json.loads(json.dumps(task.to_dict()))) for task in TASKS] == list(TASKS)


def test_several_prompts_are_dealt_by_id_alone() -> None:
    task = replace(TASKS[0], prompts=("A", "B"))
    dealt = [task.prompt_for(f"u{i}") for i in range(8)]
    assert set(dealt) == {"A", "B"} and dealt == [task.prompt_for(f"u{i}") for i in range(8)]


def test_all_systems_are_run_unless_some_are_named(
    spoken: Path, spellings: Path, tmp_path: Path
) -> None:
    results = run(benchmark(spoken), Fakes(spellings).models, tmp_path / "out")
    assert set(values(results, "asr", "wer")) == set(SYSTEMS)
