"""`blsp train` through its command line, on tiny random models and hummed conversations."""

import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training import WORDS, read_log, save_models, write_conversations

from blsp.checkpoint import is_complete
from blsp.errors import InputError
from blsp.locking import hold
from blsp.manifest import Meta, read_conversations, write_rows
from blsp.model import BlspProcessor, load_checkpoint
from blsp.model.processing import Features
from blsp.provenance import add_up, read_sources, write_text_provenance
from blsp.recipe import load_recipe
from blsp.rendering import Renderer
from blsp.train import KEPT, build_model, main, resolve

RECIPE = """\
# a tiny random model learns eight words
# needs: nothing
# command: blsp train tiny.yaml
# serves with: blsp serve
# expected: not known

data:
  train: [{folder}/data/conversations.jsonl]
  dev: [{folder}/data/conversations.jsonl]
  foreign: true
model:
  llm: {folder}/llm
  encoder: {folder}/whisper
  adapter: {{kind: stack, stack_factor: 8, hidden_size: 64}}
training:
  output: {output}
  learning_rate: 3e-3
  steps: 4
  warmup_steps: 0
  batch_examples: 4
  eval_steps: 2
  save_steps: 2
  log_steps: 1
  dtype: fp32
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    save_models(folder)
    write_conversations(folder / "data")
    return folder


@pytest.fixture(autouse=True)
def few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model never ends its answers."""
    monkeypatch.setattr("blsp.progress.MAX_NEW_TOKENS", 4)


@pytest.fixture
def recipe(folder: Path, tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(folder=folder, output=tmp_path / "run"), encoding="utf-8")
    return str(path)


def test_a_recipe_becomes_a_checkpoint_with_its_own_recipe(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([recipe, "training.steps=3"]) == 0
    checkpoint = tmp_path / "run" / "checkpoint"
    assert is_complete(checkpoint)
    model, _ = load_checkpoint(checkpoint)
    assert model.config.trained_max_seconds == pytest.approx(0.75)
    resolved, header = load_recipe(checkpoint / "recipe.yaml")
    assert (resolved.training.steps, header.expected) == (3, "not known")
    assert not list((tmp_path / "run").glob("**/training_args.bin"))
    told = capsys.readouterr().out
    assert "recovered" in told and "s of audio/s" in told and "left" in told
    assert "'red': " in told and "'green': " in told
    rows = read_log(tmp_path / "run")
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3]
    assert {"eval_kl", "eval_kl_floor", "eval_recovered"} <= rows[2].keys()


def test_a_checkpoint_names_what_it_learnt_from_and_what_the_one_before_it_did(
    recipe: str, folder: Path, tmp_path: Path
) -> None:
    rows = list(read_conversations(folder / "data" / "conversations.jsonl"))
    files = []
    for name, licence in {"Hums": "CC-BY-4.0", "Calls": "research-only"}.items():
        files.append(folder / "data" / f"{name}.jsonl")
        own = [replace(row, source=name, license=licence) for row in rows[:4]]
        write_rows(files[-1], own, Meta(command="test"))
    assert main([recipe, "training.steps=1", f'data.train=["{files[0]}"]']) == 0
    begun = tmp_path / "run" / "checkpoint"
    more = [f'data.train=["{files[1]}"]', f"training.output={tmp_path / 'on'}"]
    assert main([recipe, "training.steps=1", f"model.init_from={begun}", *more]) == 0
    write_text_provenance(folder / "llm", add_up([("Chats", "CC0-1.0", 2, 0.0)]), "a/b")
    assert main([recipe, "training.steps=1", f"training.output={tmp_path / 'text'}"]) == 0
    first = read_sources(tmp_path / "text" / "checkpoint")[0]
    assert (first.source, first.conversations, first.hours) == ("Chats", 2, 0.0)
    hours = (4 * 0.4 + 0.05 * (0 + 1 + 2 + 3)) / 3600
    assert [
        (one.source, one.license, one.conversations, pytest.approx(one.hours))
        for one in read_sources(tmp_path / "on" / "checkpoint")
    ] == [("Hums", "CC-BY-4.0", 4, hours), ("Calls", "research-only", 4, hours)]
    card = (tmp_path / "on" / "checkpoint" / "README.md").read_text()
    assert "Not for commercial use: Calls may not be used for it." in card
    assert str(tmp_path) not in card


def test_a_file_that_weighs_more_comes_more_often(recipe: str) -> None:
    with pytest.raises(InputError, match=r"data\.weights: expected one for each of the 1 files"):
        main([recipe, "data.weights=[1.0, 2.0]"])
    with pytest.raises(InputError, match="expected numbers above 0 and up to 100"):
        main([recipe, "data.weights=[0]"])
    assert main([recipe, "data.weights=[2.5]", "--dry-run"]) == 0


def test_two_runs_at_once_in_one_folder_are_refused(recipe: str, tmp_path: Path) -> None:
    with hold(tmp_path / "run"), pytest.raises(InputError, match="found one that is still going"):
        main([recipe, "training.steps=1"])
    assert not (tmp_path / "run").exists()


def test_a_second_run_does_not_overwrite_the_first(recipe: str) -> None:
    main([recipe, "training.steps=1"])
    with pytest.raises(InputError, match="expected no earlier run, found one; go on with --resume"):
        main([recipe, "training.steps=1"])


def test_a_finished_run_is_not_gone_on_with(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([recipe]) == 0
    capsys.readouterr()
    assert main([recipe, "--resume"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("finished already: ") and "step " not in told


@pytest.mark.parametrize("change", ["training.optimizer=muon", "model.lora.scope=speech"])
def test_a_run_does_not_go_on_with_other_parts_in_training(change: str, recipe: str) -> None:
    assert main([recipe]) == 0
    with pytest.raises(InputError, match="expected the optimizer's state of what is trained now"):
        main([recipe, "--resume", change, "training.steps=6"])


def test_what_a_checkpoint_brings_back_cannot_be_changed(recipe: str) -> None:
    assert main([recipe, "training.eval_steps=9"]) == 0
    for name in KEPT:
        told = rf"training.{name}: expected .*, with which the run in .* goes on, found 7;"
        changes = "training.eval_steps=9", f"training.{name}=7", "training.steps=6"
        with pytest.raises(InputError, match=told):
            main([recipe, *changes, "--resume"])


def test_resume_needs_something_to_go_on_from(recipe: str) -> None:
    with pytest.raises(InputError, match="expected a finished checkpoint to resume from"):
        main([recipe, "--resume"])


def test_a_dry_run_tells_much_and_leaves_nothing(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert main([recipe, "--dry-run"]) == 0
    assert sorted(tmp_path.rglob("*")) == before
    told = capsys.readouterr().out
    shown = [word for word in WORDS if f"⟦{word[::-1]}<|im_end|>⟧" in told]
    assert len(shown) == 1
    assert "of speech>" in told
    assert "every trained weight has a gradient" in told
    assert "4 steps (2.0 epochs) take at most" in told
    assert "serves with: blsp chat; the language model is untouched" in told


@pytest.mark.parametrize(
    ("bits", "scope"), [(16, "all"), (16, "speech"), (4, "none"), (4, "speech"), (8, "all")]
)
def test_every_way_to_hold_and_tune_the_language_model_trains_and_comes_back(
    recipe: str, tmp_path: Path, bits: int, scope: str
) -> None:
    """The loss falls; text is the base's unless LoRA is everywhere; the checkpoint says it all."""
    changes = [f"model.llm_bits={bits}", f"model.lora.scope={scope}", "model.lora.rank=4"]
    changes.append("training.steps=8")
    assert main([recipe, *changes, "training.learning_rate=3e-3"]) == 0
    rows = read_log(tmp_path / "run")
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0]
    model, processor = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert model.config.lora.scope == scope
    kinds = {type(module).__name__ for module in model.modules()}
    wanted = {4: {"Linear4bit"}, 8: {"Linear8bitLt"}, 16: set()}
    assert {kind for kind in kinds if kind.startswith("Linear") and "bit" in kind} == wanted[bits]
    assert any(name.endswith("lora_B.default.weight") for name in model.delta_state()) == (
        scope != "none"
    )
    text = processor.tokenizer("say it", return_tensors="pt")
    read = model(**text).logits
    with model.model.without_lora():
        assert torch.equal(read, model(**text).logits) == (scope != "all")


def test_the_example_that_stopped_a_run_is_found(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recording of one word has become so loud that its features are not numbers."""
    extract = BlspProcessor.extract_features
    guilty = len(WORDS) - 1  # the longest hum: 0.75 s

    def overflow(self: BlspProcessor, audio: np.ndarray) -> Features:
        log_mel, frames = extract(self, audio)
        return log_mel * (torch.inf if frames == 40 + 5 * guilty else 1.0), frames

    monkeypatch.setattr(BlspProcessor, "extract_features", overflow)
    with pytest.raises(InputError, match="try them one by one with --replay"):
        main([recipe, "data.dev=[]"])
    assert main([recipe, "data.dev=[]", "--replay"]) == 1
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in told if line.startswith("->")] == [f"{WORDS[guilty]}:"]
    assert told[-1] == "1 of 4 are not finite alone"


def test_there_is_nothing_to_replay(recipe: str) -> None:
    with pytest.raises(InputError, match="expected the batch that stopped a run, found none"):
        main([recipe, "--replay"])


def test_another_number_of_processes_than_the_recipe_wants_is_refused(recipe: str) -> None:
    with pytest.raises(InputError, match="expected 4 processes, found 1"):
        main([recipe, "training.processes=4"])


def test_a_tracker_that_is_not_installed_is_refused(recipe: str) -> None:
    with pytest.raises(InputError, match=r"expected trackers that are installed.*found 'wandb'"):
        main([recipe, "training.trackers=[wandb]"])


def test_what_can_learn_masters_a_few_examples(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([recipe, "--overfit", "4", "training.log_steps=50"]) == 0
    assert "expected more than 95%: it can learn" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["overfit-4"]


def test_what_cannot_learn_does_not_master_them(
    recipe: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blsp.train.OVERFIT_STEPS", 3)
    assert main([recipe, "--overfit", "4", "training.learning_rate=1e-9"]) == 1
    assert "it does not learn: look at the examples" in capsys.readouterr().out


def test_conversations_of_the_same_model_need_no_permission(
    recipe: str, folder: Path, tmp_path: Path
) -> None:
    """What a composed model expects is what its bare language model would have written."""
    from transformers import AutoTokenizer

    from blsp.model.foundations import load_llm

    tokenizer = AutoTokenizer.from_pretrained(folder / "llm")
    _, base = load_llm(folder / "llm")
    rows = list(read_conversations(folder / "data" / "conversations.jsonl"))
    meta = Meta(
        command="test",
        root=str(folder / "data"),
        llm=base.fingerprint,
        template=Renderer(tokenizer).template_fingerprint(),
    )
    path = tmp_path / "own.jsonl"
    write_rows(path, rows, meta)
    options = [f"data.train=[{path}]", "data.dev=[]", "data.foreign=false"]
    assert main([recipe, "training.steps=1", *options]) == 0
    assert len(rows) == len(WORDS)


# --- one embedding a token, and emotions ----------------------------------------------------------

BY_TOKEN = "loss.cif_quantity=1", "loss.input_kl=0.5"
EMOTIONAL = "loss.emotion_ce=0.1", "model.emotions=[happy, sad]"


def by_token(recipe: str, adapter: str = "{kind: cformer, pre_layers: 1, post_layers: 1}") -> str:
    """The recipe with an adapter that decides how many embeddings there are."""
    path = Path(recipe)
    text = path.read_text(encoding="utf-8")
    stack = "{kind: stack, stack_factor: 8, hidden_size: 64}"
    assert stack in text
    path.write_text(text.replace(stack, adapter), encoding="utf-8")
    return recipe


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU the library chooses")
def test_on_a_cpu_what_is_trained_through_attends_plainly(recipe: str) -> None:
    """The language model and the adapter's layers; not the encoder, which learns nothing."""
    loaded, _ = load_recipe(Path(by_token(recipe)), BY_TOKEN)
    model, _ = build_model(resolve(loaded))
    adapter: Any = model.model.adapter
    assert adapter.pre_layers[0].self_attn.config._attn_implementation == "eager"
    assert model.model.language_model.config._attn_implementation == "eager"
    assert model.model.audio_tower.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("adapter", ["{kind: cformer}", "{kind: qformer, length: tokens}"])
def test_adapters_that_decide_are_tried_before_they_are_trained(
    adapter: str,
    recipe: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("blsp.train.OVERFIT_STEPS", 3)
    words = by_token(recipe, adapter), *BY_TOKEN, *EMOTIONAL
    assert main([*words, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "every trained weight has a gradient" in told
    assert "memory of the largest batch: " in told
    assert re.search(r"emotion head +130 +0", told)
    assert main([*words, "--overfit", "8"]) == 1
    assert "on 8 examples after 3 steps" in capsys.readouterr().out
    measured = [row for row in read_log(tmp_path / "run" / "overfit-8") if "eval_kl" in row]
    assert len(measured) == 3 and {"eval_kl_floor", "eval_kl_ceiling"} < measured[0].keys()


def test_what_is_skipped_is_told_with_its_reason(
    recipe: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = without_words(folder, tmp_path, ("red", "blue"))
    assert main([by_token(recipe), *BY_TOKEN, f"data.train=[{path}]", "training.steps=1"]) == 0
    told = capsys.readouterr().out
    assert "skipped 2 conversations of data.train: empty transcript" in told
    assert "of data.dev" not in told


@pytest.mark.parametrize("name", ["train", "dev"])
def test_a_file_of_which_nothing_is_left_is_one_line(
    name: str, recipe: str, folder: Path, tmp_path: Path
) -> None:
    path = without_words(folder, tmp_path, WORDS)
    told = f"data.{name}: expected conversations, found none in 1 files; 8 skipped: empty trans"
    with pytest.raises(InputError, match=told):
        main([by_token(recipe), *BY_TOKEN, f"data.{name}=[{path}]"])


@pytest.mark.parametrize("dry", [True, False])
def test_development_data_without_other_words_ends_the_run_before_it_trains(
    dry: bool, recipe: str, tmp_path: Path
) -> None:
    one = write_conversations(tmp_path / "one", WORDS[:1])
    with pytest.raises(InputError, match="at least two recordings of different words"):
        main([recipe, f"data.dev=[{one}]", *(["--dry-run"] if dry else [])])
    assert not (tmp_path / "run" / "log.jsonl").exists()


def without_words(folder: Path, tmp_path: Path, silent: tuple[str, ...]) -> Path:
    """The conversations, some of them about recordings in which nothing is said."""
    path = tmp_path / "silent.jsonl"
    meta = Meta(command="test", root=str(folder / "data"))
    rows = list(read_conversations(folder / "data" / "conversations.jsonl"))
    for number, row in enumerate(rows):
        if row.id in silent:
            question, answer = row.messages
            said, part = question.content
            part = replace(part, transcript="")  # type: ignore[type-var]
            messages = replace(question, content=(said, part)), answer
            rows[number] = replace(row, messages=messages)  # type: ignore[arg-type]
    write_rows(path, rows, meta)
    return path


def test_emotions_that_no_recording_states_are_one_line(recipe: str) -> None:
    told = (
        r"loss.emotion_ce: expected recordings with an emotion of model.emotions \(angry, bored\) "
        "in data.train, found none among 2 conversations"
    )
    with pytest.raises(InputError, match=told):
        main([recipe, "loss.emotion_ce=1", "model.emotions=[angry, bored]"])


def test_a_run_begins_from_one_that_knew_other_emotions(recipe: str, tmp_path: Path) -> None:
    short = "training.steps=1", "data.dev=[]"
    assert main([recipe, *EMOTIONAL, *short]) == 0
    begin = f"model.init_from={tmp_path / 'run' / 'checkpoint'}"
    for name, more in (
        ("none", ()),
        ("others", ("loss.emotion_ce=1", "model.emotions=[sad, angry, happy]")),
    ):
        assert main([recipe, begin, *more, *short, f"training.output={tmp_path / name}"]) == 0


def test_a_misspelt_key_is_named_with_its_line_and_the_nearest(recipe: str) -> None:
    with pytest.raises(InputError, match="'learning_rat'; did you mean 'learning_rate'"):
        main([recipe, "training.learning_rat=1"])


def test_the_module_that_launchers_run_ends_mistakes_in_one_line(
    recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["blsp.train", recipe, "loss.response_kl=0"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module("blsp.train", run_name="__main__")
    assert left.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("blsp: command line: loss.response_kl=0: loss:")
