"""`blsp import`: a folder of Ultravox's in, one of our checkpoints out, and what is said of it."""

import json
from pathlib import Path

import pytest

from blsp.checkpoint import is_complete
from blsp.cli import main as run_blsp
from tests.model.conftest import save_llm, save_ultravox, save_whisper


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    save_llm(folder / "llm", "qwen2")
    save_whisper(folder / "whisper")
    return folder


@pytest.fixture
def ultravox(tmp_path: Path, bases: Path) -> Path:
    """The projector of a release of 0.5 for an LLM of width 64 and a Whisper of width 32."""
    return save_ultravox(tmp_path / "ultravox", llm=bases / "llm", encoder=bases / "whisper")


def test_it_says_what_it_found_and_what_it_wrote(
    ultravox: Path, bases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ours"
    assert run_blsp(["import", str(ultravox), "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "found        Ultravox: adapter stack, 8 encoder rows an embedding"
    assert lines[1] == f"encoder      {bases}/whisper (audio padding: variable)"
    assert lines[2] == f"llm          {bases}/llm"
    assert lines[3].startswith(f"wrote        {out}, 0.")
    assert lines[4].startswith("serves with  ")
    assert is_complete(out)


def test_the_base_models_may_lie_elsewhere(
    ultravox: Path, bases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((ultravox / "config.json").read_text())
    config |= {"text_model_id": "/gone/llm", "audio_model_id": "/gone/whisper"}
    (ultravox / "config.json").write_text(json.dumps(config))
    elsewhere = ["--llm", str(bases / "llm"), "--encoder", str(bases / "whisper")]
    assert run_blsp(["import", str(ultravox), "--out", str(tmp_path / "ours"), *elsewhere]) == 0
    assert f"llm          {bases}/llm" in capsys.readouterr().out
    assert run_blsp(["import", str(ultravox), "--out", str(tmp_path / "other")]) == 2
    assert "/gone/whisper: expected a Whisper folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ('{"model_type": "qwen2_audio"}', "found model_type 'qwen2_audio'"),
        ('["text"]', "expected a model folder with config.json, found "),
        ("{", "expected a model folder with config.json, found "),
        (None, "expected a model folder with config.json, found [Errno 2]"),
    ],
)
def test_what_is_no_such_checkpoint_is_one_line(
    config: str | None, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    if config is not None:
        (source / "config.json").write_text(config)
    assert run_blsp(["import", str(source), "--out", str(tmp_path / "ours")]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert not (tmp_path / "ours").exists()
