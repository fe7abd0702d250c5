"""The shipped tiny models: every gate is reached, and they are ordinary transformers folders."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    AutoTokenizer,
)

from blsp.audio import load_audio
from blsp.tiny import build
from blsp.tiny.gates import Gate, check_all
from blsp.tiny.speech import make_speech, plan_utterances
from blsp.tiny.store import load_store, store_features
from blsp.tiny.whisper import score_words, transcribe

LLM, WHISPER = build.WEIGHTS / "llm", build.WEIGHTS / "whisper"


REPORT = json.loads((build.WEIGHTS / "build.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=[100, pytest.param(400, marks=pytest.mark.slow)])
def gates(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Gate]:
    """Every gate, measured now on the shipped files; on 400 sentences as the report, or fewer."""
    folder = tmp_path_factory.mktemp("speech")
    found = check_all(build.WEIGHTS, folder, count=request.param)
    return {gate.name: gate for gate in found}


@pytest.mark.parametrize("name", [gate["name"] for gate in REPORT["gates"]])
def test_the_gate_is_reached(name: str, gates: dict[str, Gate]) -> None:
    assert gates[name].passed, gates[name].line()


def test_the_report_names_every_gate(gates: dict[str, Gate]) -> None:
    assert list(gates) == [gate["name"] for gate in REPORT["gates"]]
    assert all(gate["passed"] for gate in REPORT["gates"])


def test_a_missed_gate_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reached, missed = Gate("good", 1.0, 0.9, n=3), Gate("bad", 0.2, 0.1, at_most=True, n=3)
    monkeypatch.setattr(build, "check_all", lambda *_: [reached])
    assert build.main(["--check"]) == 0
    monkeypatch.setattr(build, "check_all", lambda *_: [reached, missed])
    assert build.main(["--check"]) == 1
    assert "MISS  bad" in capsys.readouterr().out


def test_the_report_of_the_build_says_how_the_weights_came_to_be() -> None:
    report = json.loads((build.WEIGHTS / "build.json").read_text(encoding="utf-8"))
    assert {"command", "seed", "versions", "hours", "gates", "curves"} <= set(report)
    assert (
        report["curves"]["whisper"][-1]["wer_clean"] < report["curves"]["whisper"][0]["wer_clean"]
    )
    assert (build.WEIGHTS / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_llm_chats_as_any_causal_lm_does() -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(LLM)
    tokenizer = AutoTokenizer.from_pretrained(LLM)
    chat = [{"role": "user", "content": "Which person is mentioned?\ncall anna after dinner"}]
    inputs = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert tokenizer.decode(out[0, inputs["input_ids"].shape[1] :]) == "anna<|im_end|>"


def test_whisper_transcribes_as_any_whisper_does(tmp_path: Path) -> None:
    manifest = make_speech(plan_utterances(77, "dev", 8), tmp_path, "some")
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    audio = [load_audio(row["audio"], root=tmp_path) for row in rows]
    model = AutoModelForSpeechSeq2Seq.from_pretrained(WHISPER, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(WHISPER)
    inputs = processor(audio, sampling_rate=16_000, return_tensors="pt")
    assert inputs["input_features"].shape == (8, 80, 3000)
    # No language is given: its generation config names the only one it knows.
    heard = processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)
    features = store_features(load_store(manifest))
    assert [text.strip() for text in heard] == transcribe(
        model, processor.tokenizer, features, padding="full"
    )
    assert score_words([row["text"] for row in rows], heard) < 0.1


def test_the_normaliser_travels_with_the_tokenizer() -> None:
    tokenizer = AutoProcessor.from_pretrained(WHISPER).tokenizer
    assert tokenizer.normalize("The colour, of my Neighbour's house") == (
        "the color of my neighbor is house"
    )


def test_missing_weights_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["--check", "--weights", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
