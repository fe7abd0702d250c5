"""Training on a tiny random model: what falls, what stays, what adds up, and what stops it."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.nn.functional import cosine_similarity
from training import (
    ADAPTER,
    CFORMER,
    EMOTIONS,
    WORDS,
    build_dataset,
    build_model,
    demands_of,
    read_log,
    save_models,
    write_conversations,
)
from transformers import TrainerCallback, WhisperModel

from blsp.alignment import (
    ShuffledPairs,
    head_of,
    hear,
    measure,
    read,
    replace_audio,
    response_states,
)
from blsp.collator import Collator
from blsp.dataset import Example
from blsp.errors import InputError
from blsp.losses import response_kl
from blsp.model import BlspForConditionalGeneration, compose, load_checkpoint
from blsp.objectives import LossConfig, compute_loss
from blsp.progress import Progress
from blsp.trainer import (
    AlignmentTrainer,
    TrainingConfig,
    check_gradients,
    choose_dtype,
    find_checkpoints,
    spread,
)

_HEARD_IN = ("input_ids", "attention_mask", "labels", "input_features", "input_features_mask")
CURVES = ("train/loss", "eval/recovered")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and conversations on disk."""
    folder = tmp_path_factory.mktemp("training")
    save_models(folder)
    write_conversations(folder / "data")
    return folder


def configure(output: Path, **changes: Any) -> TrainingConfig:
    config = TrainingConfig(
        output=output,
        learning_rate=3e-3,
        steps=4,
        warmup_steps=0,
        batch_examples=4,
        eval_steps=100,
        save_steps=100,
        log_steps=1,
        dtype="fp32",
    )
    return replace(config, **changes)


def build(
    folder: Path,
    config: TrainingConfig,
    loss: LossConfig | None = None,
    parts: dict[str, Any] | None = None,
    **options: Any,
) -> AlignmentTrainer:
    """A trainer; ``parts`` are of the model, other options the trainer's."""
    model, processor = build_model(folder, **parts or {})
    data = build_dataset(folder / "data" / "conversations.jsonl", processor, demands_of(model))
    progress = Progress(lambda line: None)
    trainer = AlignmentTrainer(
        model,
        processor,
        config=config,
        loss=loss or LossConfig(),
        train=data,
        callbacks=[progress],
        **{"dev": data, **options},
    )
    progress.trainer = trainer
    return trainer


def weights(trainer: AlignmentTrainer) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in trainer.bare_model.named_parameters()}


def text_logits(model: BlspForConditionalGeneration) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(20)[None]).logits


def test_the_loss_falls_and_nothing_frozen_moves(folder: Path, tmp_path: Path) -> None:
    trainer = build(folder, configure(tmp_path, steps=25))
    before, logits = weights(trainer), text_logits(trainer.bare_model)
    trainer.train()
    losses = [row["loss"] for row in read_log(tmp_path) if "loss" in row]
    assert len(losses) == 25
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
    for name, after in weights(trainer).items():
        trained = name.startswith("model.adapter.")
        assert torch.equal(after, before[name]) != trained, name
    assert torch.equal(text_logits(trainer.bare_model), logits)


def test_the_curves_of_a_run_can_be_seen_in_tensorboard(folder: Path, tmp_path: Path) -> None:
    build(folder, configure(tmp_path, steps=3, eval_steps=2)).train()
    (written,) = tmp_path.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(written)).Reload()
    steps = {name: [event.step for event in events.Scalars(name)] for name in CURVES}
    assert steps == {"train/loss": [1, 2, 3], "eval/recovered": [2, 3]}
    logged = [row["loss"] for row in read_log(tmp_path) if "loss" in row]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(logged)


@pytest.mark.parametrize("loss", [LossConfig(), LossConfig(response_kl=0.0, ctc=1.0)])
def test_a_batch_of_text_alone_is_a_step_like_any_other(
    loss: LossConfig, folder: Path, tmp_path: Path
) -> None:
    """Its gradients are zero and there, which other processes wait for."""
    trainer = build(folder, configure(tmp_path), loss)
    batch = next(iter(trainer.get_train_dataloader()))
    names = ("input_ids", "attention_mask", "labels")
    views = {f"{view}{n}": batch[f"teacher_{n}"] for view in ("", "teacher_") for n in names}
    trainer.bare_model.train()
    trainer.compute_loss(trainer.bare_model, {**views, "ids": ["text"], "left_out": []}).backward()
    check_gradients(trainer.bare_model)
    for parameter in trainer.bare_model.model.adapter.parameters():
        assert parameter.grad is not None and not parameter.grad.any()


def test_mixed_precision_trains_float32_weights(folder: Path, tmp_path: Path) -> None:
    trainer = build(folder, configure(tmp_path, steps=10, dtype="bf16"))
    before = trainer.evaluate()["eval_kl"]
    trainer.train()
    assert trainer.evaluate()["eval_kl"] < before
    assert {p.dtype for p in trainer.bare_model.model.adapter.parameters()} == {torch.float32}


# --- sums -----------------------------------------------------------------------------------------


def train_with_sgd(
    folder: Path, config: TrainingConfig, loss: LossConfig, parts: dict[str, Any] | None = None
) -> AlignmentTrainer:
    trainer = build(folder, config, loss, parts)
    trained = [p for p in trainer.bare_model.parameters() if p.requires_grad]
    trainer.optimizer = torch.optim.SGD(trained, lr=0.1)
    trainer.train()
    return trainer


BY_TOKEN = LossConfig(
    input_kl=0.5,
    cif_quantity=1.0,
    hidden_cosine=0.1,
    emotion_ce=0.1,
    pretraining=("cif_quantity", "emotion_ce"),
    pretraining_steps=2,
)
LOSSES = [
    (LossConfig(), {}),
    (LossConfig(response_kl=0.5, response_ce=0.5, ctc=0.2), {}),
    (LossConfig(ctc=1.0, pretraining_steps=2), {}),
    (replace(BY_TOKEN, pretraining_steps=1), {"adapter": CFORMER, "emotions": EMOTIONS}),
]


@pytest.mark.parametrize(("loss", "parts"), LOSSES)
def test_four_accumulated_batches_are_one_of_four(
    folder: Path, tmp_path: Path, loss: LossConfig, parts: dict[str, Any]
) -> None:
    """All eight examples make a step, as 8x1 and as one batch of eight."""
    one = configure(tmp_path / "one", batch_examples=8, batch_seconds=6.0, steps=3)
    many = configure(tmp_path / "many", batch_examples=1, accumulation=8, steps=3)
    trainers = [train_with_sgd(folder, config, loss, parts) for config in (one, many)]
    losses = [
        [row["loss"] for row in read_log(config.output) if "loss" in row] for config in (one, many)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    first, second = map(weights, trainers)
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)


def test_kept_encoder_output_trains_the_same(folder: Path, tmp_path: Path) -> None:
    plain = train_with_sgd(folder, configure(tmp_path / "a", steps=4), LossConfig())
    config = configure(tmp_path / "b", steps=4, encoder_cache_gb=0.1)
    kept = train_with_sgd(folder, config, LossConfig())
    first, second = weights(plain), weights(kept)
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)


def test_cross_entropy_alone_never_asks_the_teacher(folder: Path, tmp_path: Path) -> None:
    trainer = build(folder, configure(tmp_path, steps=1), LossConfig(response_kl=0, response_ce=1))
    batch = next(iter(trainer.get_train_dataloader()))
    for name in ("teacher_input_ids", "teacher_attention_mask", "teacher_labels"):
        del batch[name]
    assert trainer.compute_loss(trainer.bare_model, batch).item() > 0


def test_the_first_steps_ask_no_language_model_if_they_are_to_learn_from_ctc_alone(
    folder: Path, tmp_path: Path
) -> None:
    trainer = build(folder, configure(tmp_path, steps=4), LossConfig(ctc=1.0, pretraining_steps=3))
    llm: Any = trainer.bare_model.model.language_model
    asked: list[int] = []
    llm.base_model.register_forward_hook(lambda *_: asked.append(trainer.state.global_step))
    batch = next(iter(trainer.get_train_dataloader()))
    for step in (0, 2, 3):
        trainer.state.global_step = step
        trainer.compute_loss(trainer.bare_model, batch).backward()
    assert asked == [3, 3]  # the student and the teacher


@pytest.mark.parametrize(
    "options", [{"pretraining_steps": 3}, {"pretraining_steps": -1, "ctc": 1.0}]
)
def test_steps_of_ctc_alone_need_a_weight_and_a_number(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected pretraining_steps of 0 or more"):
        LossConfig(**options)


# --- the floor ------------------------------------------------------------------------------------


def test_other_audio_takes_as_many_placeholders_as_it_needs() -> None:
    """One embedding for every 10 frames: the runs of 2 and 1 become runs of 1 and 3."""
    ids = torch.tensor([5, 9, 9, 6, 9, 7])
    labels = torch.tensor([-100, -100, -100, -100, -100, 7])
    views: dict[str, Any] = {"input_ids": ids, "labels": labels}
    views |= {f"teacher_{name}": tensor for name, tensor in views.items()}
    example = Example(id="a", speech_lengths=(2, 1), **views)
    frames = ((torch.zeros(4, 10), 10), (torch.zeros(4, 30), 30))
    donor = Example(id="b", features=frames, speech_lengths=(1, 3), **views)
    other = replace_audio(example, donor, [0, 1], 9)
    assert other.input_ids.tolist() == [5, 9, 6, 9, 9, 9, 7]
    assert other.labels.tolist() == [-100] * 6 + [7]
    assert other.features == frames
    assert other.speech_lengths == (1, 3)


def test_the_floor_hears_other_words_than_its_own(folder: Path) -> None:
    _, processor = build_model(folder)
    data = build_dataset(folder / "data" / "conversations.jsonl", processor)
    pairs = ShuffledPairs(data, processor.audio_token_id)
    lengths = [
        (own.features[0][1], other.features[0][1])
        for own, other in map(pairs.__getitem__, range(8))
    ]
    assert all(own != other for own, other in lengths)
    assert sorted(own for own, _ in lengths) == sorted(other for _, other in lengths)


def test_no_floor_without_other_words(folder: Path, tmp_path: Path) -> None:
    path = write_conversations(tmp_path, ("red",))
    _, processor = build_model(folder)
    with pytest.raises(InputError, match="expected at least two recordings of different words"):
        ShuffledPairs(build_dataset(path, processor), processor.audio_token_id)[0]


# --- checkpoints ----------------------------------------------------------------------------------


def test_similarity_is_of_the_speech_and_its_transcript_at_every_layer(folder: Path) -> None:
    model, processor = build_model(folder)
    data = build_dataset(folder / "data" / "conversations.jsonl", processor)
    pair = ShuffledPairs(data, processor.audio_token_id)[0]
    batches = Collator(0)([pair[0]]), Collator(0)([pair[1]])
    found = measure(model.eval(), [batches]).numbers()
    [(start, end)] = data[0].transcripts
    assert processor.tokenizer.decode(data[0].teacher_input_ids[start:end]) == WORDS[0]
    read = _states(model, {"input_ids": batches[0]["teacher_input_ids"]})[:, 0, start:end].mean(1)
    for suffix, batch in zip(("", "_floor"), batches, strict=True):
        is_audio = batch["input_ids"][0] == processor.audio_token_id
        heard = _states(model, _heard_in(batch))[:, 0, is_audio].mean(1)
        wanted = cosine_similarity(heard, read).tolist()
        names = [f"similarity{suffix}/layer_{layer}" for layer in range(len(wanted))]
        assert [found[name] for name in names] == pytest.approx(wanted, abs=1e-5)


@torch.no_grad()
def test_an_adapter_that_decides_is_measured_with_its_own_number_of_embeddings(
    folder: Path,
) -> None:
    """As in use: answers to its own prompts, against the same teacher on the same tokens."""
    model, processor = build_model(folder, CFORMER)
    model.eval()
    data = build_dataset(folder / "data" / "conversations.jsonl", processor, demands_of(model))
    pairs = [ShuffledPairs(data, processor.audio_token_id)[row] for row in (1, 2)]
    batches = Collator(0)([own for own, _ in pairs]), Collator(0)([other for _, other in pairs])
    found = measure(model, [batches])
    numbers = found.numbers()
    assert numbers["kl_ceiling"] == pytest.approx(0.0, abs=1e-6)
    head = head_of(model)
    for condition, batch in zip(("speech", "floor"), batches, strict=True):
        total = torch.zeros(())
        for row in range(2):
            fitted = _fit(model, batch, row)
            assert fitted["input_ids"].shape != batch["input_ids"][row : row + 1].shape
            heard = hear(model, fitted)
            reading = read(model, {n: t[row : row + 1] for n, t in _read_in(batch).items()})
            total += response_kl(
                response_states(heard, fitted["labels"], head),
                head,
                response_states(reading, batch["teacher_labels"][row : row + 1], head),
                head,
            ).per_token.sum()
        tokens = int((batch["labels"] != -100).sum())
        assert found.tokens[condition].tokens == tokens  # type: ignore[index]
        assert found.tokens[condition].kl == pytest.approx(total.item() / tokens, rel=1e-4)  # type: ignore[index]
    layers = model.config.get_text_config(decoder=True).num_hidden_layers + 1
    assert sum(name.startswith("similarity_floor/") for name in numbers) == layers


def _fit(model: BlspForConditionalGeneration, batch: dict[str, Any], row: int) -> dict[str, Any]:
    one = {name: batch[name][row : row + 1] for name in (*_HEARD_IN, "speech_lengths")}
    lengths = one.pop("speech_lengths")
    fitted = model.fit_audio(**one, lengths=lengths, left=False)
    targets = [labels[labels != -100].tolist() for labels in (fitted["labels"], one["labels"])]
    assert targets[0] == targets[1]  # the same, in the same order
    return fitted


def _read_in(batch: dict[str, Any]) -> dict[str, Tensor]:
    return {name: batch[name] for name in ("teacher_input_ids", "teacher_attention_mask")}


def _heard_in(batch: dict[str, Any]) -> dict[str, Tensor]:
    return {name: batch[name] for name in _HEARD_IN}


@torch.no_grad()
def _states(model: BlspForConditionalGeneration, inputs: dict[str, Tensor]) -> Tensor:
    return torch.stack(model(**inputs, output_hidden_states=True).hidden_states)


def test_whole_windows_are_trained_on_as_whisper_hears_them(folder: Path) -> None:
    """Whisper's own encoder, on silence up to 30 s; the placeholders are of the true length."""
    model, processor = compose(
        llm=folder / "llm", encoder=folder / "whisper", adapter=ADAPTER, audio_padding="max"
    )
    data = build_dataset(folder / "data" / "conversations.jsonl", processor)
    examples = [data[row] for row in (0, 7)]
    batch = Collator(0)(examples)
    assert batch["input_features"].shape == (2, 80, 3000)
    assert batch["input_features_mask"].sum(-1).tolist() == [40, 75]
    loss = LossConfig(response_ce=0.5, ctc=0.5)
    one_each = torch.ones(5)
    both = compute_loss(model, model, batch, loss, one_each)
    alone = [compute_loss(model, model, Collator(0)([one]), loss, one_each) for one in examples]
    assert both.item() == pytest.approx(sum(one.item() for one in alone), rel=1e-5)
    whisper = WhisperModel.from_pretrained(folder / "whisper").encoder.eval()
    heard: list[Tensor] = []
    model.model.adapter.register_forward_pre_hook(lambda _, given: heard.append(given[0]))
    compute_loss(model, model, batch, loss)
    assert torch.allclose(heard[0], whisper(batch["input_features"]).last_hidden_state, atol=1e-5)


def test_what_is_saved_measures_as_it_did(folder: Path, tmp_path: Path) -> None:
    trainer = build(folder, configure(tmp_path, steps=3))
    trainer.train()
    before = trainer.evaluate()
    model, _ = load_checkpoint(trainer.save_final())
    after = measure(model.eval(), trainer.dev_batches()).numbers()
    assert after == {name.removeprefix("eval_"): value for name, value in before.items()}


@pytest.mark.parametrize(
    ("optimizer", "loss", "parts"),
    [
        ("adamw", LossConfig(), {}),
        ("muon", LossConfig(), {}),
        ("adamw", LossConfig(ctc=1.0, pretraining_steps=5), {}),
        ("adamw", BY_TOKEN, {"adapter": CFORMER, "emotions": EMOTIONS}),
    ],
)
def test_six_steps_are_four_and_two_more(
    optimizer: str, loss: LossConfig, parts: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    """Across an epoch's end, with evaluations between, to the bit."""
    wanted = {"steps": 6, "batch_examples": 3, "optimizer": optimizer}
    whole = build(folder, configure(tmp_path / "whole", **wanted), loss, parts)
    whole.train()
    config = configure(tmp_path / "parts", **wanted, save_steps=1, eval_steps=2)
    first = build(folder, config, loss, parts)
    first.add_callback(_StopAt(4))
    first.train()
    second = build(folder, config, loss, parts)
    second.train(resume_from_checkpoint=str(find_checkpoints(config.output)[-1]))
    expected, found = weights(whole), weights(second)
    assert second.state.global_step == 6
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert [row["step"] for row in read_log(config.output) if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in read_log(config.output) if "eval_kl" in row] == [2, 4, 6]


class _StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step == self.step


def test_sigterm_ends_the_step_and_saves(folder: Path, tmp_path: Path) -> None:
    class Scheduler(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    whole = build(folder, configure(tmp_path / "whole", steps=5))
    whole.train()
    stopped = build(folder, configure(tmp_path / "stopped", steps=5))
    stopped.add_callback(Scheduler())
    stopped.train()
    assert stopped.signal.stopped
    (saved,) = find_checkpoints(tmp_path / "stopped")
    assert saved.name == "checkpoint-3"
    rest = build(folder, configure(tmp_path / "stopped", steps=5))
    rest.train(resume_from_checkpoint=str(saved))
    first, second = weights(whole), weights(rest)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_checkpoint_holds_what_is_trained_and_loads_without_pickles(
    folder: Path, tmp_path: Path
) -> None:
    build(folder, configure(tmp_path, save_steps=1, keep_checkpoints=2)).train()
    kept = find_checkpoints(tmp_path)
    assert [path.name for path in kept] == ["checkpoint-3", "checkpoint-4"]
    names = {path.name for path in kept[-1].iterdir()}
    assert {"delta.safetensors", "complete", "trainer_state.json", "recipe.yaml"} <= names
    assert "training_args.bin" not in names and not list(tmp_path.glob(".checkpoint*"))
    torch.load(kept[-1] / "optimizer.pt", weights_only=True)
    torch.load(kept[-1] / "scheduler.pt", weights_only=True)


def test_a_folder_without_its_marker_is_not_resumed_from(folder: Path, tmp_path: Path) -> None:
    build(folder, configure(tmp_path, save_steps=2)).train()
    (tmp_path / "checkpoint-4" / "complete").unlink()
    assert [path.name for path in find_checkpoints(tmp_path)] == ["checkpoint-2"]


# --- what stops a run -----------------------------------------------------------------------------


def test_a_part_frozen_by_accident_stops_the_first_step(folder: Path, tmp_path: Path) -> None:
    trainer = build(folder, configure(tmp_path))
    name, parameter = next(iter(trainer.bare_model.model.adapter.named_parameters()))
    parameter.requires_grad_(False)
    with pytest.raises(InputError, match=rf"1 frozen in the adapter \(model.adapter.{name}\)"):
        trainer.train()


def test_a_trained_weight_that_the_loss_cannot_reach_stops_the_first_step(
    folder: Path, tmp_path: Path
) -> None:
    trainer = build(folder, configure(tmp_path))
    trainer.bare_model.get_output_embeddings().weight.requires_grad_(True)
    trainer.bare_model.model.audio_tower.conv1.weight.requires_grad_(True)
    model = trainer.bare_model.model
    model._encode = torch.no_grad()(model._encode)  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"1 trained without a gradient \(model.audio_tower.conv1"):
        trainer.train()


def test_a_gradient_of_a_frozen_weight_is_refused(folder: Path) -> None:
    model, _ = build_model(folder)
    for parameter in model.model.adapter.parameters():
        parameter.grad = torch.zeros_like(parameter)
    check_gradients(model)
    frozen = model.model.audio_tower.conv1.weight
    frozen.grad = torch.zeros_like(frozen)
    with pytest.raises(InputError, match="1 frozen with one"):
        check_gradients(model)


def test_a_loss_that_is_not_finite_stops_and_names_the_batch(folder: Path, tmp_path: Path) -> None:
    trainer = build(folder, configure(tmp_path))
    with torch.no_grad():
        next(trainer.bare_model.model.adapter.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match="found a loss of nan at step 1; the ids of the batch"):
        trainer.train()
    failed = json.loads((tmp_path / "failed_batch.json").read_text())
    assert failed["step"] == 1 and len(failed["ids"]) == 4


def test_unreadable_audio_is_left_out_and_named(folder: Path, tmp_path: Path) -> None:
    path = write_conversations(tmp_path / "data")
    (tmp_path / "data" / "blue.wav").write_bytes(b"no audio")
    model, processor = build_model(folder)
    data = build_dataset(path, processor, max_unreadable_share=0.5)
    config = configure(tmp_path / "run", batch_examples=1, steps=8)
    progress = Progress(lambda line: None)
    trainer = AlignmentTrainer(
        model, processor, config=config, loss=LossConfig(), train=data, callbacks=[progress]
    )
    progress.trainer = trainer
    trainer.train()
    assert list(trainer.left_out) == ["blue"]
    assert read_log(config.output)[-1]["left_out"] == 1


# --- choices --------------------------------------------------------------------------------------


def test_bf16_on_a_cpu_only_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("blsp.trainer.choose_cpu_dtype", lambda: torch.bfloat16)
    assert choose_dtype("auto") == torch.bfloat16
    monkeypatch.setattr("blsp.trainer.choose_cpu_dtype", lambda: torch.float32)
    assert choose_dtype("auto") == torch.float32
    assert choose_dtype("bf16") == torch.bfloat16


def test_some_of_many_are_spread_evenly() -> None:
    assert spread(10, 4) == [0, 2, 5, 7]
    assert spread(3, 200) == [0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 1.0}, "either steps or epochs, found steps 4 and epochs 1.0"),
        ({"steps": None}, "either steps or epochs"),
        ({"steps": 0}, "steps or epochs above 0"),
        ({"accumulation": 0}, "accumulation above 0, found 0"),
    ],
)
def test_a_run_that_cannot_be_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        configure(tmp_path, **changes)
