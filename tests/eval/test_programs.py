"""The benchmark programs through the command line, on tiny random models."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from blsp.cli import main
from blsp.generation import GenerationConfig
from blsp.manifest import Utterance
from blsp.model import load_checkpoint
from blsp.results import SHUFFLED_TEXT, SYSTEMS
from blsp.systems import build_models, find_whisper
from blsp.tasks import build_messages
from tests.model.conftest import make_audio

FEW = ["--max-new-tokens", "3", "--batch-size", "4"]


@pytest.mark.parametrize(
    ("arguments", "name", "metrics", "prompt"),
    [
        (["--task", "asr"], "asr", ["wer", "cer"], "Repeat the following words exactly"),
        (["--task", "st"], "st-de", ["bleu", "chrf"], "into German"),
        (["--task", "slu"], "intent", ["accuracy", "invalid_rate"], "nothing else: call, play\n"),
        (
            ["--task", "ser"],
            "emotion",
            ["accuracy", "unweighted_accuracy", "invalid_rate"],
            "options: happy, sad.\n\nSpeech:\n{audio}",
        ),
        (
            ["--task", "slu", "--slots"],
            "slots",
            ["intent_accuracy", "slurp_f1", "slot_f1", "invalid_frames"],
            "Intents: call, play\nTypes: name\n{audio}",
        ),
        (
            ["--task", "sqa", "--reference", "golds"],
            "sqa",
            ["squad_em", "squad_f1", "contains_gold", "spoken_em", "spoken_f1"],
            "as few words as possible, not with a sentence.\n{audio}",
        ),
        (
            ["--task", "sqa", "--reference", "letter"],
            "sqa",
            ["choice_accuracy", "unparsed_choices"],
            "with the letter of the right option",
        ),
        (
            ["--task", "reply", "--reference", "answers.who", "--instruction", "Who?"],
            "who",
            ["exact_match", "chrf"],
            "Who?",
        ),
    ],
)
def test_each_task_scores_any_manifest(  # noqa: PLR0913
    arguments: list[str],
    name: str,
    metrics: list[str],
    prompt: str,
    checkpoint: Path,
    manifest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    call = ["eval", str(checkpoint), *arguments, "--manifest", str(manifest), "--out", str(out)]
    assert main([*call, *FEW]) == 0
    results = json.loads((out / "results.json").read_text())
    [task] = [one for one in results["tasks"] if one["name"] == name]
    assert task["metrics"] == metrics and prompt in task["prompts"][0]
    rows = [row for row in results["rows"] if row["task"] == name]
    assert {(row["system"], row["metric"]) for row in rows} == {
        (system, metric)
        for system in SYSTEMS
        for metric in metrics
        if (name, system) != ("emotion", SHUFFLED_TEXT)  # words that do not tell it
    }
    assert all(row["n"] == 3 and row["condition"] == "test" for row in rows)
    assert results["command"].startswith(f"blsp bench {arguments[1]} {checkpoint} ")
    assert results["models"]["decoding"]["max_new_tokens"] == 3
    assert (out / "report.html").is_file()
    assert "text bound" in capsys.readouterr().out


def test_gigaspeech_is_scored_by_its_own_normaliser_too(
    checkpoint: Path, manifest: Path, tmp_path: Path
) -> None:
    rows = manifest.read_text().splitlines()
    marked = [json.dumps(json.loads(row) | {"source": "GigaSpeech"}) for row in rows]
    copy = manifest.with_name("giga.jsonl")
    copy.write_text("\n".join(marked) + "\n")
    out = tmp_path / "out"
    call = ["bench", "asr", str(checkpoint), "--manifest", str(copy), "--out", str(out), *FEW]
    assert main([*call, "--systems", "text bound"]) == 0
    results = json.loads((out / "results.json").read_text())
    assert [row["metric"] for row in results["rows"]] == ["wer", "cer", "gigaspeech_wer"]


def test_conditions_systems_and_limit_can_be_chosen(
    checkpoint: Path, manifest: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    sets = ["--manifest", f"clean={manifest}", "--manifest", f"again={manifest}"]
    some = ["--systems", "speech,text bound", "--limit", "2", "--held-out"]
    call = ["bench", "slu", str(checkpoint), *sets, *some, "--out", str(out), *FEW]
    assert main([*call, "--labels", "call,play,stop"]) == 0
    results = json.loads((out / "results.json").read_text())
    assert {row["condition"] for row in results["rows"]} == {"clean", "again"}
    assert {row["system"] for row in results["rows"]} == {"speech", "text bound"}
    assert all(row["held_out"] and row["n"] == 2 for row in results["rows"])
    assert results["tasks"][0]["labels"] == ["call", "play", "stop"]


def test_a_report_is_made_again_from_predictions(
    checkpoint: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    call = ["bench", "asr", str(checkpoint), "--manifest", str(manifest), "--out", str(out)]
    assert main([*call, *FEW, "--systems", "speech"]) == 0
    first = (out / "results.json").read_bytes(), (out / "report.html").read_bytes()
    (out / "results.json").unlink()
    (out / "report.html").unlink()
    assert main(["report", str(out)]) == 0
    assert first == ((out / "results.json").read_bytes(), (out / "report.html").read_bytes())
    assert "written:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "arr"], "expected a task, found 'arr'; did you mean 'asr'?"),
        (["--task", "st", "--target", "German"], "expected the code of the target language"),
        (["--task", "st", "--target", "fi"], "say how to ask with --instruction"),
        (["--task", "asr", "--limit", "0"], "expected --limit of at least 1, found 0"),
        (["--task", "asr", "--systems", "oracle"], "found 'oracle'"),
        (
            ["--task", "ser", "--labels", "happy,neutral"],
            "expected one of its labels for 'u0', found 'sad'",
        ),
        (["--task", "reply"], "expected 'reply' in the utterances of "),
        (
            ["--task", "slu", "--labels", "play,stop"],
            "expected one of its labels for 'u0', found 'call'",
        ),
    ],
)
def test_a_wrong_argument_is_one_line(
    arguments: list[str],
    message: str,
    checkpoint: Path,
    manifest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = ["--manifest", str(manifest), "--out", str(tmp_path / "out"), *FEW]
    assert main(["eval", str(checkpoint), *arguments, *out]) == 2
    captured = capsys.readouterr().err
    assert message in captured and captured.count("\n") == 1


@pytest.mark.parametrize("name", ["asr", "st", "slu", "ser", "sqa", "reply"])
def test_a_program_runs_as_a_module(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.delitem(sys.modules, f"eval.{name}", raising=False)
    with pytest.raises(SystemExit) as caught:
        runpy.run_module(f"eval.{name}", run_name="__main__")
    assert caught.value.code == 0
    assert f"usage: blsp bench {name}" in capsys.readouterr().out


def test_all_systems_share_weights_prompts_and_decoding(
    checkpoint: Path, manifest: Path, whisper: Path
) -> None:
    model, processor = load_checkpoint(checkpoint)
    assert find_whisper(model) == whisper
    config = GenerationConfig(max_new_tokens=3)
    models = build_models(model, processor, config, whisper=whisper, name={"n": 1})
    heard = Utterance(id="u", audio="u.wav", duration=0.5, text="call ada")
    chat = build_messages("Say:\n{audio}", heard, "call ada")
    one, same, other = models.read([chat, chat, build_messages("Say:\n{audio}", heard, "no")])
    assert one == same and one != other
    assert models.read([chat]) == [one]
    texts = models.transcribe([make_audio(8000), make_audio(9000, 1)], "en")
    assert texts == [
        models.transcribe([a], "en")[0] for a in (make_audio(8000), make_audio(9000, 1))
    ]
    assert len(models.hear([chat, chat], [make_audio(8000), make_audio(9000, 1)])) == 2


def test_a_checkpoint_that_names_no_whisper_needs_one(checkpoint: Path, whisper: Path) -> None:
    model, _ = load_checkpoint(checkpoint)
    bases: dict[str, Any] = dict(model.config.bases or {})
    model.config.bases = bases | {"encoder": None}
    with pytest.raises(ValueError, match="names none; give one with --whisper"):
        find_whisper(model)
    assert find_whisper(model, str(whisper)) == whisper


def test_a_folder_that_is_no_checkpoint_is_one_line(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["eval", str(tmp_path), "--task", "asr", "--manifest", str(manifest)]
    assert main(call) == 2
    assert f"{tmp_path}: expected a checkpoint of blsp, found none" in capsys.readouterr().err


def test_levels_of_noise_are_conditions(checkpoint: Path, manifest: Path, tmp_path: Path) -> None:
    out, asked = tmp_path / "out", ["--systems", "speech,text bound", "--snr", "10,-5"]
    call = ["bench", "asr", str(checkpoint), "--manifest", f"calls={manifest}", *asked, *FEW]
    assert main([*call, "--out", str(out)]) == 0
    results = json.loads((out / "results.json").read_text())
    assert [one["condition"] for one in results["sets"]] == [
        "calls",
        "calls, 10 dB",
        "calls, -5 dB",
    ]
    assert results["sets"][2]["noise"] == {"kind": "babble", "snr_db": -5.0}
    bound = [row["value"] for row in results["rows"] if row["system"] == "text bound"]
    assert len(set(bound[::2])) == 1  # who reads is not disturbed
    assert main([*call[:-2], "--snr", "loud", "--out", str(out)]) == 2


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_the_language_model_may_be_held_in_fewer_bits_than_it_was_trained_with(
    bits: int, checkpoint: Path, manifest: Path, tmp_path: Path
) -> None:
    call = ["bench", "asr", str(checkpoint), "--manifest", str(manifest), *FEW]
    call += ["--systems", "speech,text bound", "--out", str(tmp_path / "out")]
    assert main([*call, "--bits", str(bits)]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["models"]["bits"] == bits
    assert main(call) == 2  # another run: as it was trained
