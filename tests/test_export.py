"""A checkpoint becomes one folder that answers as before; PLoRA is never merged."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM, AutoProcessor

from blsp.cli import main
from blsp.model import LlmOptions, LoraConfig, compose, load_checkpoint, save_checkpoint
from blsp.model.foundations import quantization_options
from blsp.provenance import Source, read_sources, write_provenance
from blsp.verify import answer_alone, make_recording
from tests.model.conftest import save_llm, save_whisper

SOURCES = [Source(source="A", license="CC-BY-4.0", conversations=3, hours=0.5)]
RECORDINGS = [make_recording(0.7), make_recording(1.3)]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    save_llm(folder / "llm", "qwen3", intermediate_size=128, dtype=torch.bfloat16)
    save_whisper(folder / "whisper")
    return folder


def save(bases: Path, folder: Path, scope: str, bits: int = 16, **more: Any) -> Path:
    torch.manual_seed(3)
    options = LlmOptions(quantization_config=quantization_options(bits, torch.bfloat16))
    lora = LoraConfig(scope=scope, rank=4)  # type: ignore[arg-type]
    model, processor = compose(
        llm=bases / "llm", encoder=bases / "whisper", lora=lora, options=options, **more
    )
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.1)
    save_checkpoint(model, processor, folder)
    return folder


@pytest.mark.parametrize("scope", ["none", "all", "speech"])
def test_the_whole_model_needs_no_base(
    scope: str, bases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    save_llm(own / "llm", "qwen3")
    shutil.copytree(bases / "whisper", own / "whisper")
    checkpoint = save(own, tmp_path / "checkpoint", scope)
    expected = answer_alone(*load_checkpoint(checkpoint), RECORDINGS)
    write_provenance(checkpoint, SOURCES, {})
    assert main(["export", str(checkpoint), "--out", str(tmp_path / "whole")]) == 0
    assert read_sources(tmp_path / "whole") == SOURCES
    assert "| A | CC-BY-4.0 |" in (tmp_path / "whole" / "README.md").read_text()
    assert ("blsp only" in capsys.readouterr().out) == (scope == "speech")
    shutil.rmtree(own)
    model = AutoModelForMultimodalLM.from_pretrained(tmp_path / "whole", dtype="auto").eval()
    found = answer_alone(model, AutoProcessor.from_pretrained(tmp_path / "whole"), RECORDINGS)
    assert found.tokens == expected.tokens
    for one, other in zip(found.logits, expected.logits, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("bits", [16, 4])
def test_merged_lora_is_an_ordinary_language_model_and_an_adapter(
    bits: int, bases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save(bases, tmp_path / "checkpoint", "all", bits)
    out = tmp_path / "merged"
    write_provenance(checkpoint, SOURCES, {})
    assert main(["export", str(checkpoint), "--merge", "--out", str(out)]) == 0
    for folder, title in ((out, "# A speech adapter"), (out / "llm", "# A language model")):
        assert read_sources(folder) == SOURCES
        assert title in (folder / "README.md").read_text()
    assert "of 4 answers of 16 tokens equal, logits within" in capsys.readouterr().out
    model, processor = load_checkpoint(out)
    assert model.config.lora.scope == "none"
    assert not any("lora" in name for name, _ in model.named_parameters())
    plain = AutoModelForCausalLM.from_pretrained(out / "llm", dtype=torch.bfloat16)
    text = processor.tokenizer("some words", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(plain(**text).logits, model(**text).logits)
    options = LlmOptions(quantization_config=False)
    expected = answer_alone(*load_checkpoint(checkpoint, options=options), RECORDINGS)
    found = answer_alone(model, processor, RECORDINGS)
    for one, other in zip(found.logits, expected.logits, strict=True):
        assert (one - other).abs().max() < 0.1 * other.std()


def test_a_classifier_of_emotions_is_merged_beside(bases: Path, tmp_path: Path) -> None:
    checkpoint = save(bases, tmp_path / "checkpoint", "all", emotions=("happy", "sad"))
    out = tmp_path / "merged"
    assert main(["export", str(checkpoint), "--merge", "--out", str(out)]) == 0
    before, after = (load_checkpoint(folder)[0].model for folder in (checkpoint, out))
    assert torch.equal(before.emotion_head.weight, after.emotion_head.weight)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("scope", "why"), [("none", "leave out --merge"), ("speech", "text must not get it")]
)
def test_what_cannot_be_merged_is_one_line(
    scope: str, why: str, bases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save(bases, tmp_path / "checkpoint", scope)
    assert main(["export", str(checkpoint), "--merge", "--out", str(tmp_path / "merged")]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"blsp: {checkpoint}: expected LoRA that acts everywhere, found ")
    assert why in line
    assert not (tmp_path / "merged").exists()


def test_nothing_is_overwritten(
    bases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save(bases, tmp_path / "checkpoint", "none")
    assert main(["export", str(checkpoint), "--out", str(tmp_path / "checkpoint")]) == 2
    assert "expected a new folder" in capsys.readouterr().err
