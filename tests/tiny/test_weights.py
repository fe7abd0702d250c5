"""The shipped tiny models: every gate is reached, and they are ordinary transformers folders."""

import json
from pathlib import Path

import numpy as np
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
from blsp.tiny.speech import make_speech, plan_utterances

LLM, WHISPER = build.WEIGHTS / "llm", build.WEIGHTS / "whisper"


def test_every_gate_is_reached(capsys: pytest.CaptureFixture[str]) -> None:
    code = build.main(["--check"])
    printed = capsys.readouterr().out
    with capsys.disabled():
        print("\n" + printed)
    assert code == 0, printed


def test_the_report_of_the_build_says_how_the_weights_came_to_be() -> None:
    report = json.loads((build.WEIGHTS / "build.json").read_text(encoding="utf-8"))
    assert {"command", "seed", "versions", "hours", "gates", "curves"} <= set(report)
    assert (
        report["curves"]["whisper"][-1]["wer_clean"] < report["curves"]["whisper"][0]["wer_clean"]
    )
    assert (build.WEIGHTS / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_llm_chats_as_any_causal_lm_does() -> None:
    model = AutoModelForCausalLM.from_pretrained(LLM)
    tokenizer = AutoTokenizer.from_pretrained(LLM)
    chat = [{"role": "user", "content": "Which person is mentioned?\ncall anna after dinner"}]
    inputs = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert tokenizer.decode(out[0, inputs["input_ids"].shape[1] :]) == "anna<|im_end|>"


def test_whisper_transcribes_as_any_whisper_does(tmp_path: Path) -> None:
    [plan] = plan_utterances(77, "dev", 1)
    manifest = make_speech([plan], tmp_path, "one")
    row = json.loads(manifest.read_text(encoding="utf-8"))
    audio = load_audio(row["audio"], root=tmp_path)
    model = AutoModelForSpeechSeq2Seq.from_pretrained(WHISPER, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(WHISPER)
    inputs = processor(np.asarray(audio), sampling_rate=16_000, return_tensors="pt")
    assert inputs["input_features"].shape == (1, 80, 3000)
    # No language is given: it is detected, as with any multilingual Whisper.
    [text] = processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)
    assert text.strip() == row["text"]


def test_the_normaliser_travels_with_the_tokenizer() -> None:
    tokenizer = AutoProcessor.from_pretrained(WHISPER).tokenizer
    assert tokenizer.normalize("The colour, of my Neighbour's house") == (
        "the color of my neighbor is house"
    )


def test_missing_weights_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["--check", "--weights", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
