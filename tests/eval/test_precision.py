"""Adapters trained in several precisions, served in all, on tiny random models."""

import json
from pathlib import Path

import pytest
import torch

from blsp.arguments import choose_bits
from blsp.cli import main
from blsp.model import compose, save_checkpoint
from blsp.model.foundations import LlmOptions
from blsp.model.restoring import read_trained_bits
from eval.precision import build_table

FEW = ["--max-new-tokens", "3", "--batch-size", "4"]


@pytest.fixture(scope="module")
def four(whisper: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that was made around 4 bits."""
    folder = tmp_path_factory.mktemp("four") / "checkpoint"
    options = choose_bits(LlmOptions(dtype=torch.float32), 4, torch.device("cpu"))
    model, processor = compose(llm=checkpoint.parent / "llm", encoder=whisper, options=options)
    save_checkpoint(model, processor, folder)
    return folder


def test_a_checkpoint_knows_in_how_many_bits_it_was_trained(checkpoint: Path, four: Path) -> None:
    assert (read_trained_bits(checkpoint), read_trained_bits(four)) == (16, 4)


def test_every_adapter_is_served_in_every_precision(
    checkpoint: Path,
    four: Path,
    manifest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    call = ["bench", "precision", "asr", str(checkpoint), str(four), "--manifest", str(manifest)]
    assert main([*call, *FEW, "--out", str(out)]) == 0
    for trained in (16, 4):
        for served in (16, 8, 4):
            folder = out / f"{trained}-bits-in-{served}"
            assert json.loads((folder / "results.json").read_text())["models"]["bits"] == served
    table = (out / "precision.md").read_text()
    assert table.partition("\nMade by")[0] in capsys.readouterr().out
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in lines] == [
        "trained in",
        "---",
        "16 bits",
        "4 bits",
        "(text bound)",
    ]
    assert lines[2].count("[") == 2 and lines[3].count("[") == 3  # all but the first cell
    found = json.loads((out / "comparison.json").read_text())
    assert {one["second"] for one in found["differences"]} == {"16-bits-in-16"}
    assert len(found["differences"]) == 5
    assert (out / "report.html").exists()


def test_a_cell_says_how_far_it_is_from_the_first_and_whether_by_chance() -> None:
    where = {"task": "asr", "condition": "clean", "metric": "wer"}
    rows = [
        {**where, "run": f"4-bits-in-{bits}", "system": "speech", "n": 9}
        | {"value": value, "ci_low": 0.0, "ci_high": 1.0}
        for bits, value in ((16, 0.5), (8, 0.25), (4, 0.125))
    ]
    differences = [
        {**where, "first": "4-bits-in-16", "difference": 0.375, "better": "x"},
        {**where, "first": "4-bits-in-8", "difference": 0.125, "better": None},
    ]
    tasks = [{"name": "asr", "metrics": ["wer", "cer"]}]
    table = build_table({"tasks": tasks, "rows": rows, "differences": differences}, [4])
    (line,) = [line for line in table.splitlines() if line.startswith("| 4 bits")]
    first, second, third = (cell.strip() for cell in line.split("|")[2:5])
    assert first == "50.0 (0.0 to 100.0) [+37.5*]"
    assert second == "25.0 (0.0 to 100.0) [+12.5]"
    assert third == "12.5 (0.0 to 100.0)"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--bits", "4"], "--bits: expected none"),
        ([], "expected checkpoints trained in different bits"),
    ],
)
def test_what_makes_no_table_is_one_line(
    more: list[str], message: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["bench", "precision", "asr", str(checkpoint), str(checkpoint), "--manifest", "x.jsonl"]
    assert main([*call, *more]) == 2
    assert message in capsys.readouterr().err
