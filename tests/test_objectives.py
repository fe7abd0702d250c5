"""Objectives on a tiny random model: which tensors they get, and what their weights mean."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training import (
    ADAPTER,
    CFORMER,
    EMOTIONS,
    build_dataset,
    build_model,
    demands_of,
    save_models,
    write_conversations,
)

from blsp.alignment import Batch
from blsp.collator import Collator
from blsp.errors import InputError
from blsp.model import BlspForConditionalGeneration, LlmOptions, LoraConfig
from blsp.model.configuration import AdapterConfig
from blsp.objectives import (
    BY_TOKEN,
    OBJECTIVES,
    OF_SPEECH,
    Items,
    LossConfig,
    _Views,
    compute_loss,
    count_items,
)
from blsp.trainer import check_gradients

QFORMER = AdapterConfig(kind="qformer", length="tokens", layers=1)
ALL = tuple(name for name in OBJECTIVES if name != "ctc")
"""Of one embedding a token, which CTC is not for."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and conversations on disk."""
    folder = tmp_path_factory.mktemp("objectives")
    save_models(folder)
    write_conversations(folder / "data")
    return folder


def weigh(**weights: float) -> LossConfig:
    return LossConfig(**({"response_kl": 0.0} | weights))  # type: ignore[arg-type]


def build(
    folder: Path, *names: str, adapter: AdapterConfig | None = None, **options: Any
) -> tuple[BlspForConditionalGeneration, Any]:
    """A model that some objectives can teach, and its data."""
    fits = CFORMER if set(names) & set(BY_TOKEN) else ADAPTER
    if "emotion_ce" in names:
        options["emotions"] = EMOTIONS
    model, processor = build_model(folder, adapter or fits, **options)
    path = folder / "data" / "conversations.jsonl"
    return model.train(), build_dataset(path, processor, demands_of(model))


def collate(dataset: Any, *rows: int) -> Batch:
    return Collator(0)([dataset[row] for row in rows])


def text_alone(batch: Batch) -> Batch:
    """What is read, as both views."""
    names = ("input_ids", "attention_mask", "labels")
    return {f"{view}{n}": batch[f"teacher_{n}"] for view in ("", "teacher_") for n in names}


# --- each alone -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_objective_reaches_the_adapter_and_leaves_no_trained_weight_out(
    name: str, folder: Path
) -> None:
    scope: Any = "none" if name in OF_SPEECH else "speech"
    model, dataset = build(folder, name, lora=LoraConfig(scope=scope, rank=4))
    loss = compute_loss(model, model, collate(dataset, 0, 1, 2), weigh(**{name: 1.0}))
    assert loss.item() > 0
    loss.backward()
    check_gradients(model)
    assert any(bool(p.grad.any()) for p in model.model.adapter.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_text_alone_gives_every_trained_weight_a_gradient_and_the_adapter_none_to_follow(
    name: str, folder: Path
) -> None:
    """Other processes may have audio, and wait."""
    model, dataset = build(folder, name, lora=LoraConfig(scope="all", rank=4))
    batch = text_alone(collate(dataset, 0, 1, 2))
    loss = compute_loss(model, model, batch, weigh(**{name: 1.0}))
    assert loss.item() == pytest.approx(0.0, abs=1e-6) or name == "response_ce"
    loss.backward()
    check_gradients(model)
    for part in (model.model.adapter, model.model.emotion_head or nn.Identity()):
        assert not any(bool(p.grad.any()) for p in part.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"contrastive"}))
def test_parts_of_a_step_add_up(name: str, folder: Path) -> None:
    """A batch of six is a batch of two and one of four, with what is counted in all six."""
    model, dataset = build(folder, name)
    whole = collate(dataset, *range(6))
    parts = [collate(dataset, 0, 1), collate(dataset, 2, 3, 4, 5)]
    counts = torch.stack([count_items(part) for part in parts]).sum(0)
    assert torch.equal(counts, count_items(whole))
    config = weigh(**{name: 1.0})
    found = sum(compute_loss(model, model, part, config, counts).item() for part in parts)
    assert found == pytest.approx(compute_loss(model, model, whole, config).item(), rel=1e-4)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_multiplications_in_16_bits_give_finite_numbers(name: str, folder: Path) -> None:
    options = LlmOptions(dtype=torch.bfloat16)
    model, dataset = build(folder, name, options=options, encoder_dtype=torch.bfloat16)
    batch = collate(dataset, 0, 1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        loss = compute_loss(model, model, batch, weigh(**{name: 1.0}))
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert loss.dtype == torch.float32 and torch.isfinite(loss)
    assert all(bool(torch.isfinite(one).all()) for one in gradients)  # type: ignore[arg-type]


# --- together -------------------------------------------------------------------------------------


def test_the_loss_is_the_weighted_sum_of_its_objectives(folder: Path) -> None:
    model, dataset = build(folder, *ALL)
    batch = collate(dataset, 0, 1, 2)
    weights = {name: 0.1 * number for number, name in enumerate(ALL, start=1)}
    alone = {n: compute_loss(model, model, batch, weigh(**{n: 1.0})).item() for n in ALL}
    expected = sum(weight * alone[name] for name, weight in weights.items())
    found = compute_loss(model, model, batch, weigh(**weights))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_both_views_run_once_for_all_objectives_together(folder: Path) -> None:
    model, dataset = build(folder, *ALL)
    asked = spy(model)
    compute_loss(model, model, collate(dataset, 0, 1), weigh(**dict.fromkeys(ALL, 1.0)))
    assert len(asked) == 2


@pytest.mark.parametrize("name", sorted(OF_SPEECH))
def test_what_looks_at_speech_alone_asks_no_language_model(name: str, folder: Path) -> None:
    model, dataset = build(folder, name)
    asked = spy(model)
    config = LossConfig(**{name: 1.0, "pretraining": [name], "pretraining_steps": 1})  # type: ignore[arg-type]
    compute_loss(model, model, collate(dataset, 0, 1), config.at(0))
    assert asked == []
    compute_loss(model, model, collate(dataset, 0, 1), config.at(1))
    assert len(asked) == 2


def spy(model: BlspForConditionalGeneration) -> list[int]:
    asked: list[int] = []
    model.model.language_model.base_model.register_forward_hook(lambda *_: asked.append(1))
    return asked


@pytest.mark.parametrize("adapter", [CFORMER, QFORMER])
def test_what_the_first_steps_do_not_teach_has_a_gradient_of_zero(
    adapter: AdapterConfig, folder: Path
) -> None:
    """The number of embeddings and the emotions, while the response alone is learnt from."""
    model, dataset = build(folder, "emotion_ce", "cif_quantity", adapter=adapter)
    config = LossConfig(
        emotion_ce=1.0, cif_quantity=1.0, pretraining=("response_kl",), pretraining_steps=1
    )
    compute_loss(model, model, collate(dataset, 0, 1), config.at(0)).backward()
    check_gradients(model)
    assert not model.model.emotion_head.weight.grad.any()  # type: ignore[union-attr]


# --- what is counted ------------------------------------------------------------------------------


def test_the_items_of_a_batch_are_counted(folder: Path) -> None:
    """red, green and blue, a token a letter; the answers are as long and end their turn. The first
    is happy, the second sad."""
    _, dataset = build(folder, "emotion_ce")
    batch = collate(dataset, 0, 1, 2)
    assert count_items(batch).tolist() == [4 + 6 + 5, 3 + 5 + 4, 3, 2, 3]
    assert count_items(text_alone(batch)).tolist() == [15, 0, 0, 0, 3]
    assert Items.of(count_items(text_alone(batch))) == (15, 1, 1, 1, 3)


# --- the view that reads, heard -------------------------------------------------------------------


class Reader(nn.Module):
    """Stands for an adapter that has learnt everything: embeds the very words."""

    def __init__(self, table: Tensor, batch: Batch) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.lengths = batch["transcript_lengths"]
        self.words = table[batch["transcript_ids"]].split(self.lengths.tolist())

    def forward(self, rows: Tensor, lengths: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        assert torch.equal(targets, self.lengths)
        embeds = nn.utils.rnn.pad_sequence(list(self.words), batch_first=True)
        return self.scale * embeds, targets, self.scale * targets.float()


@pytest.mark.parametrize(
    "name",
    [
        "response_kl",
        "input_kl",
        "hidden_cosine",
        "first_state",
        "embedding_l2",
        "cif_quantity",
    ],
)
def test_speech_that_is_the_transcript_is_at_no_distance(name: str, folder: Path) -> None:
    model, dataset = build(folder, adapter=CFORMER)
    batch = collate(dataset, 0, 1, 2)
    config = weigh(**{name: 1.0})
    before = compute_loss(model, model, batch, config).item()
    table: Any = model.get_input_embeddings().weight
    model.model.adapter = Reader(table, batch)
    assert compute_loss(model, model, batch, config).item() == pytest.approx(0.0, abs=1e-5)
    assert before > 1e-3


# --- schedules and refusals -----------------------------------------------------------------------


def test_the_first_steps_learn_from_what_they_are_to_alone() -> None:
    config = LossConfig(
        response_kl=0.7,
        ctc=0.2,
        optimal_transport=0.1,
        contrastive=0.3,
        pretraining_steps=2,
        pretraining=("ctc", "optimal_transport"),
        others={"some.loss": 1.0},
    )
    for step in (0, 1):
        assert config.at(step).weights() == {"ctc": 0.2, "optimal_transport": 0.1}
        assert config.at(step).others == {}
    assert config.at(2) == config


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"response_kl": 0.0}, "one above 0, found 0 everywhere"),
        ({"ctc": -1.0}, "found ctc -1"),
        ({"pretraining": ["ctd"]}, "did you mean 'ctc'"),
        ({"pretraining_steps": 3}, "an objective of pretraining with a weight above 0"),
        ({"temperature": 0.0}, "temperatures above 0"),
        ({"hidden_cosine_layers": [0.0, 2.0]}, r"shares of the depth from 0 to 1, found \[0.0, 2"),
        ({"hidden_cosine_layers": []}, r"one or more shares of the depth"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        LossConfig(**values)


def test_words_are_what_every_window_holds_beside_its_summary() -> None:
    """35 s are windows of 188 and 32 embeddings, each after a summary of 2; 1 s has 7 after 2."""
    config = SimpleNamespace(adapter=AdapterConfig(summary=2), window_frames=3000)
    views: Any = _Views(None, SimpleNamespace(config=config), {}, LossConfig(), None)  # type: ignore[arg-type]
    lengths = [2 + 188 + 2 + 32, 2 + 7]
    marks = [-1.0] * 2 + [1.0] * 188 + [-1.0] * 2 + [1.0] * 32 + [-1.0] * 2 + [1.0] * 7
    views.__dict__["heard"] = SimpleNamespace(
        speech_embeds=torch.tensor(marks)[:, None], speech_lengths=torch.tensor(lengths)
    )
    words, counts = views.words
    assert words.flatten().tolist() == [1.0] * (188 + 32 + 7)
    assert counts.tolist() == [188 + 32, 7]
