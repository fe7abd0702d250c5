"""The proof holds for a sound checkpoint, and every kind of damage fails it."""

from pathlib import Path

import pytest
import torch

from blsp.cli import main
from blsp.model import LlmOptions, LoraConfig, compose, load_checkpoint, save_checkpoint
from blsp.model.foundations import quantization_options
from blsp.model.processing import pad_features
from blsp.verify import (
    Answered,
    check_batch,
    check_delta,
    check_reload,
    check_text,
    check_weights,
    make_recording,
    verify,
)
from tests.model.conftest import save_llm, save_whisper


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {
        "llm": save_llm(folder / "llm", "qwen3", tie_word_embeddings=True),
        "whisper": save_whisper(folder / "whisper"),
    }


@pytest.fixture(scope="module")
def checkpoint(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    model, processor = compose(llm=bases["llm"], encoder=bases["whisper"])
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    save_checkpoint(model, processor, folder)
    return folder


def test_a_sound_checkpoint_passes_and_prints_the_proof(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(checkpoint)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:4] for line in lines[:5]] == ["ok  "] * 5
    # embeddings (tied to the head), final norm, and 11 tensors in each of two Qwen3 layers
    assert "24 tensors, sha256 " in lines[0]
    assert "4 of 4 batches equal Qwen3ForCausalLM in float32" in lines[1]
    assert "8 recordings of 0.35 to 4.0 s: 8 answers equal" in lines[4]
    assert lines[-1] == "all that could be checked holds"


def test_one_changed_number_of_the_language_model_is_found(checkpoint: Path) -> None:
    model, _ = load_checkpoint(checkpoint)
    with torch.no_grad():
        model.model.language_model.model.layers[1].mlp.up_proj.weight[3, 5] += 1e-6  # type: ignore
    check = check_weights(model)
    assert check.passed is False
    assert check.found == "1 of 24 tensors differ (model.layers.1.mlp.up_proj.weight)"


def test_a_forward_pass_that_touches_text_is_found(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = load_checkpoint(checkpoint)
    place = model.model.place_speech
    monkeypatch.setattr(model.model, "place_speech", lambda *a, **k: place(*a, **k) * (1 + 1e-6))
    assert check_text(model, processor).passed is False


def test_weights_that_are_not_those_of_the_file_are_found(checkpoint: Path) -> None:
    model, _ = load_checkpoint(checkpoint)
    assert check_delta(model, checkpoint).passed
    with torch.no_grad():
        next(model.model.adapter.parameters()).add_(1.0)
    check = check_delta(model, checkpoint)
    assert check.passed is False and "model.adapter" in check.found


def test_a_batch_that_changes_answers_is_found(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = load_checkpoint(checkpoint)
    recordings = [make_recording(seconds) for seconds in (0.4, 1.5)]
    assert check_batch(model, processor, recordings).passed

    def without_mask(features: list) -> dict:
        found = pad_features(features)
        return found | {"input_features_mask": torch.ones_like(found["input_features_mask"])}

    monkeypatch.setattr("blsp.verify.pad_features", without_mask)
    with pytest.raises(ValueError, match="audio tokens"):
        check_batch(model, processor, recordings)

    def louder_together(features: list) -> dict:
        found = pad_features(features)
        return found | {"input_features": found["input_features"] + 0.1 * (len(features) > 1)}

    monkeypatch.setattr("blsp.verify.pad_features", louder_together)
    assert check_batch(model, processor, recordings).passed is False


def test_a_copy_that_answers_otherwise_is_found() -> None:
    one = Answered([torch.tensor([0.0, 1.0])], [[1]])
    assert check_reload(one, one).passed
    assert check_reload(one, Answered([torch.tensor([0.0, 1.1])], [[1]])).passed is False
    assert check_reload(one, Answered(one.logits, [[0]])).passed is False


def test_a_failed_check_is_exit_code_1(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("blsp.verify.TOLERANCE", -1.0)
    assert main(["verify", str(checkpoint)]) == 1
    out = capsys.readouterr().out
    assert "FAIL  batch = one by one, float32" in out and out.endswith("\n1 failed\n")


@pytest.mark.parametrize("kind", ["gpt2", "gemma2"])
def test_other_architectures_pass_too(
    kind: str, bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    model, processor = compose(llm=save_llm(tmp_path / kind, kind), encoder=bases["whisper"])
    save_checkpoint(model, processor, tmp_path / "checkpoint")
    assert [check.line() for check in verify(tmp_path / "checkpoint") if not check.passed] == []


def test_a_base_in_16_bits_passes_too(bases: dict[str, Path], tmp_path: Path) -> None:
    llm = save_llm(tmp_path / "llm", "qwen3", dtype=torch.bfloat16)
    model, processor = compose(llm=llm, encoder=bases["whisper"])
    assert model.model.language_model.dtype == torch.bfloat16
    save_checkpoint(model, processor, tmp_path / "checkpoint")
    checks = list(verify(tmp_path / "checkpoint"))
    assert [check.line() for check in checks if not check.passed] == []
    assert "in bfloat16" in checks[1].found


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("scope", ["speech", "all"])
def test_lora_and_few_bits_pass_in_what_can_be_decided(
    bits: int, scope: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    llm = save_llm(tmp_path / "llm", "qwen3", intermediate_size=128)
    torch.manual_seed(3)
    model, processor = compose(
        llm=llm,
        encoder=bases["whisper"],
        lora=LoraConfig(scope=scope, rank=4),  # type: ignore[arg-type]
        options=LlmOptions(
            dtype=torch.float32, quantization_config=quantization_options(bits, torch.float32)
        ),
    )
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.5)
    save_checkpoint(model, processor, tmp_path / "checkpoint")
    checks = list(verify(tmp_path / "checkpoint"))
    assert [check.line() for check in checks if check.passed is False] == []
    assert checks[0].passed
    assert checks[1].passed is (True if scope == "speech" else None)
    assert checks[4].passed is (None if bits == 8 else True)
    weight = dict(model.named_parameters())[
        "model.language_model.model.layers.0.mlp.up_proj.base_layer.weight"
    ]
    with torch.no_grad():
        weight.flatten()[7] += 1
    assert check_weights(model).passed is False


def test_a_base_that_is_elsewhere_now_can_be_named(
    bases: dict[str, Path], checkpoint: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in bases["llm"].iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    checks = verify(checkpoint, llm=str(moved))
    assert next(checks).found.endswith(str(moved))


def test_a_folder_that_is_no_checkpoint_is_one_line(
    bases: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(bases["llm"])]) == 2
    assert "expected a checkpoint of blsp, found none" in capsys.readouterr().err
