"""`blsp bench text`: its rules by hand, and a checkpoint whose LoRA changes what is answered."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from blsp.cli import main
from blsp.errors import InputError
from blsp.generation import GenerationConfig
from blsp.model import LoraConfig, compose, load_checkpoint, save_checkpoint
from blsp.model.lora import is_lora
from eval.text import RULES, Instruction, answer_both, format_result, load_instructions, score
from tests.model.conftest import save_llm, save_whisper


@pytest.mark.parametrize(
    ("rule", "value", "right", "wrong"),
    [
        (
            "number",
            42,
            ["42", "42.", "17 + 25 = 42", "**42**"],
            ["", "24", "forty-two", "42 or 43"],
        ),
        ("number", 0.9, ["0.9"], ["0.12", "9"]),
        ("number", 1000, ["1,000"], ["1"]),
        ("equals", ["haus", "das haus"], ["Haus.", "Das Haus!"], ["Häuser", "It is Haus", ""]),
        ("exact", "LANTERN", ["LANTERN"], ["Lantern", "LANTERN."]),
        ("json", {"a": 1}, ['{"a": 1}', '```json\n{"a":1}\n```'], ["{'a': 1}", 'So: {"a": 1}', ""]),
        ("json", [2, 4], ["[2,4]"], ["[4, 2]", "2, 4"]),
        ("bullets", 2, ["- a\n- b", "* a\n\n* b"], ["- a", "-a\n-b", "a\n- b\n- c"]),
        ("words", 3, ["good morning, ada"], ["hello", ""]),
        ("at_most_words", 2, ["blue", "very blue"], ["very very blue", ""]),
        (
            "begins",
            "because",
            ["Because we must.", '"Because we do"'],
            ["We do because", "because"],
        ),
        ("ends", "roses", ["It has roses."], ["Roses grow", "roses"]),
        ("without", ",", ["snow is cold"], ["snow, ice", ""]),
    ],
)
def test_rules(rule: str, value: Any, right: list[str], wrong: list[str]) -> None:
    asked = Instruction(ask="?", rule=rule, value=value)
    assert [asked.accepts(f" {text}\n") for text in right] == [True] * len(right)
    assert [asked.accepts(text) for text in wrong] == [False] * len(wrong)


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(InputError, match="expected a rule, found 'nubmer'; did you mean 'number'"):
        Instruction(ask="?", rule="nubmer", value=1)


def test_the_instructions_use_every_rule_and_none_twice() -> None:
    found = load_instructions()
    assert len({one.ask for one in found}) == len(found) == 40
    assert {one.rule for one in found} == set(RULES)
    assert not any(one.accepts("") for one in found)


def test_what_was_lost_is_counted_in_pairs() -> None:
    asked = [Instruction(ask=str(i), rule="exact", value="x") for i in range(4)]
    found = score(asked, ["x", "x", "x", "y"], ["x", "y", "z", "y"])
    assert (found["before"]["value"], found["after"]["value"]) == (0.75, 0.25)
    assert found["difference"] == -0.5 and found["ci_low"] <= -0.5 <= found["ci_high"]
    assert found["p_mcnemar"] == pytest.approx(0.5)  # two coins on one side
    assert [(one["ask"], one["right_before"], one["right_after"]) for one in found["changed"]] == [
        ("1", True, False),
        ("2", True, False),
    ]
    text = format_result(found)
    assert "lost      50.0 points" in text and "before: x\n    after:  z" in text


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    save_llm(folder / "llm", "qwen3")
    save_whisper(folder / "whisper")
    return folder


def make_checkpoint(base: Path, scope: str, out: Path) -> Path:
    lora = LoraConfig(scope=scope, rank=4, alpha=64)  # type: ignore[arg-type]
    model, processor = compose(llm=base / "llm", encoder=base / "whisper", lora=lora)
    torch.manual_seed(5)
    for name, weight in model.named_parameters():
        if is_lora(name):
            torch.nn.init.normal_(weight)
    save_checkpoint(model, processor, out)
    return out


@pytest.mark.parametrize(("scope", "changes"), [("all", True), ("speech", False), ("none", False)])
def test_only_lora_that_acts_on_text_changes_answers(
    scope: str, changes: bool, base: Path, tmp_path: Path
) -> None:
    model, processor = load_checkpoint(make_checkpoint(base, scope, tmp_path / scope))
    config = GenerationConfig(max_new_tokens=6)
    served, alone = answer_both(model.eval(), processor, ["What?", "Which one?"], config)
    assert (served != alone) == changes


def test_the_program_writes_both_shares_and_what_changed(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = make_checkpoint(base, "all", tmp_path / "checkpoint")
    out = tmp_path / "out"
    call = ["bench", "text", str(checkpoint), "--out", str(out), "--max-new-tokens", "3"]
    assert main(call) == 0
    found = json.loads((out / "text.json").read_text())
    assert (found["n"], found["lora"]) == (40, "all")
    assert found["changed"] and found["command"].startswith("blsp bench text")
    assert {"before", "after", "difference", "ci_low", "ci_high", "p_mcnemar"} <= found.keys()
    assert "answers changed" in capsys.readouterr().out
