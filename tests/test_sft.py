"""Training on text with trl: a model folder leaves, and speech loses nothing by our own loop."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from training import ADAPTER, build_dataset, build_model, read_log, save_models, write_conversations
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from blsp.cli import main
from blsp.collator import Collator
from blsp.manifest import Conversation, Message, Meta, TextPart, write_rows
from blsp.model import compose
from blsp.objectives import LossConfig
from blsp.provenance import add_up, read_sources, write_text_provenance
from blsp.recipe import load_recipe
from blsp.rendering import PLAIN_TEMPLATE
from blsp.sft import TextRecipe, find_sources
from blsp.trainer import AlignmentTrainer, TrainingConfig

RECIPE = """\
# a random model learns to answer
# needs: nothing
# command: blsp sft tiny.yaml
# serves with: anything that serves the language model
# expected: not known

data:
  train: [{data}]
  dev: [{data}]
model:
  llm: {llm}
training:
  output: {output}
  learning_rate: 1e-2
  steps: 4
  warmup_steps: 0
  batch_examples: 4
  eval_steps: 4
  save_steps: 2
  log_steps: 1
  max_tokens: 64
  dtype: fp32
"""


CHATS = add_up([("chats", "own", 8, 0.0)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, speech, and eight questions in writing."""
    folder = tmp_path_factory.mktemp("text")
    save_models(folder)
    write_conversations(folder / "speech")
    rows = [
        Conversation(
            id=f"{i}",
            messages=(
                Message(role="user", content=(TextPart(text=f"{i}?"),)),
                Message(role="assistant", content=(TextPart(text="abc"),)),
            ),
            source="chats",
            license="own",
        )
        for i in range(8)
    ]
    write_rows(folder / "text.jsonl", rows, Meta(command="test"))
    return folder


@pytest.fixture(autouse=True)
def few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model never ends its answers."""
    monkeypatch.setattr("blsp.sft.MAX_NEW_TOKENS", 4)


def run(folder: Path, output: Path, *changes: str, data: str = "text.jsonl") -> int:
    output.mkdir(parents=True, exist_ok=True)
    recipe = output / "tiny.yaml"
    text = RECIPE.format(data=folder / data, llm=folder / "llm", output=output / "run")
    recipe.write_text(text, encoding="utf-8")
    return main(["sft", str(recipe), *changes])


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("blsp: ")]
    return line


def test_a_base_model_becomes_one_that_answers(folder: Path, tmp_path: Path) -> None:
    changes = "training.steps=60", "training.eval_steps=60", "model.chat_template=plain"
    assert run(folder, tmp_path, *changes, "training.log_steps=60") == 0
    key = "eval_answers_right"
    right = [row[key] for row in read_log(tmp_path / "run") if key in row]
    assert right == [0.0, 1.0]
    llm = tmp_path / "run" / "llm"
    assert AutoTokenizer.from_pretrained(llm).chat_template == PLAIN_TEMPLATE
    assert (llm / "recipe.yaml").is_file()
    assert read_sources(llm) == CHATS
    assert "| chats | own |" in (llm / "README.md").read_text()
    _, processor = compose(llm=llm, encoder=folder / "whisper", adapter=ADAPTER)
    assert "capitalize" in str(processor.chat_template)


def test_a_conversation_of_speech_is_read_as_its_transcript(folder: Path, tmp_path: Path) -> None:
    assert run(folder, tmp_path, data="speech/conversations.jsonl") == 0
    [found] = read_sources(tmp_path / "run" / "llm")
    assert (found.source, found.conversations) == ("not stated", 8)
    assert found.hours > 0


def test_what_a_language_model_learnt_from_before_is_kept(tmp_path: Path) -> None:
    write_text_provenance(tmp_path, CHATS, "Qwen/Qwen2.5-0.5B")
    text = RECIPE.format(data="x.jsonl", llm=tmp_path, output=tmp_path / "run")
    (tmp_path / "recipe.yaml").write_text(text)
    recipe, _ = load_recipe(tmp_path / "recipe.yaml", [], schema=TextRecipe)
    [later] = add_up([("books", "CC0-1.0", 1, 0.0)])
    row = Conversation(id="a", messages=(), source="books", license="CC0-1.0")
    assert find_sources(recipe, [row]) == [*CHATS, later]


def test_low_rank_weights_are_merged_into_an_ordinary_model(folder: Path, tmp_path: Path) -> None:
    assert run(folder, tmp_path, "model.lora.scope=all", "model.lora.rank=2") == 0
    names = load_file(tmp_path / "run" / "llm" / "model.safetensors").keys()
    assert names == load_file(folder / "llm" / "model.safetensors").keys()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "llm")
    base = AutoModelForCausalLM.from_pretrained(folder / "llm")
    moved = {
        name
        for (name, one), two in zip(merged.named_parameters(), base.parameters(), strict=True)
        if not torch.equal(one, two)
    }
    assert moved and all("_proj" in name for name in moved)


def test_a_resumed_run_ends_as_an_uninterrupted_one(folder: Path, tmp_path: Path) -> None:
    changes = "training.steps=6", "training.save_steps=3", "training.batch_examples=2"
    assert run(folder, tmp_path / "whole", *changes) == 0
    assert run(folder, tmp_path / "parts", *changes) == 0
    # The state of a run that was killed in mid-epoch while it wrote its second checkpoint.
    whole, parts = tmp_path / "whole" / "run", tmp_path / "parts" / "run"
    (parts / "checkpoint-6" / "complete").unlink()
    (parts / "llm").rename(tmp_path / "first")
    assert run(folder, tmp_path / "parts", *changes, "--resume") == 0
    weights = [load_file(run / "llm" / "model.safetensors") for run in (whole, parts)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    steps = [row["step"] for row in read_log(parts) if "loss" in row]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_nothing_that_must_be_unpickled_is_left(folder: Path, tmp_path: Path) -> None:
    assert run(folder, tmp_path) == 0
    assert not list((tmp_path / "run").rglob("training_args.bin"))
    assert not list((tmp_path / "run" / "llm").glob("*.pt"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.lora.scope=speech", "expected none or all, found speech"),
        ("training.max_tokens=2", "found none among 8; raise training.max_tokens"),
        ("training.epochs=1", "expected either steps or epochs"),
        ("model.llm=nowhere/at/all", "expected a language model folder or hub id"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    change: str, message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, tmp_path, change) == 2
    assert message in refusal(capsys)


def test_an_earlier_run_is_not_written_over(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, tmp_path) == 0
    assert run(folder, tmp_path) == 2
    assert "expected no earlier run, found one; go on with --resume" in refusal(capsys)


# --- speech ---------------------------------------------------------------------------------------


def train_with_trl(folder: Path, output: Path, steps: int) -> list[float]:
    """trl's own trainer on the speech model, with a collator that leaves out the teacher."""
    model, processor = build_model(folder)
    dataset = build_dataset(folder / "speech" / "conversations.jsonl", processor)
    collate = Collator(processor.tokenizer.pad_token_id)  # type: ignore[arg-type]
    names = "input_ids", "attention_mask", "labels", "input_features", "input_features_mask"

    def pick(rows: list[dict[str, int]]) -> dict[str, Any]:
        batch = collate([dataset[row["index"]] for row in rows])
        return {name: batch[name] for name in names}

    arguments = SFTConfig(
        output_dir=str(output),
        per_device_train_batch_size=len(dataset),
        max_steps=steps,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        logging_steps=1,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        activation_checkpointing=False,
        bf16=False,
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        report_to=[],
    )
    rows = Dataset.from_dict({"index": list(range(len(dataset))), "labels": [[0]] * len(dataset)})
    trainer = SFTTrainer(
        model,
        arguments,
        train_dataset=rows,
        data_collator=pick,
        processing_class=processor.tokenizer,
    )
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def train_with_ours(folder: Path, output: Path, steps: int) -> list[float]:
    model, processor = build_model(folder)
    config = TrainingConfig(
        output=output,
        learning_rate=1e-2,
        steps=steps,
        warmup_steps=0,
        max_grad_norm=0.0,
        eval_steps=100,
        log_steps=1,
        dtype="fp32",
    )
    data = build_dataset(folder / "speech" / "conversations.jsonl", processor)
    loss = LossConfig(response_kl=0.0, response_ce=1.0)
    trainer = AlignmentTrainer(model, processor, config=config, loss=loss, train=data)
    constant: Any = torch.optim.lr_scheduler.ConstantLR
    trainer.create_optimizer()
    trainer.lr_scheduler = constant(trainer.optimizer, factor=1.0)
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def test_supervised_speech_is_what_trl_would_train(folder: Path, tmp_path: Path) -> None:
    """Stages on speech take our trainer, which has the sampler, the resume and the guards."""
    theirs = train_with_trl(folder, tmp_path / "trl", steps=3)
    ours = train_with_ours(folder, tmp_path / "ours", steps=3)
    assert theirs[0] > theirs[2]
    assert ours == pytest.approx(theirs, rel=1e-5)
