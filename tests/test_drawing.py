"""Draws that depend on the row's own seed alone, and follow the distribution."""

from pathlib import Path
from typing import Any

import pytest
import torch

from blsp.drawing import SeededDraw, build_sampler, derive_seed
from blsp.generation import GenerationConfig, answer_texts
from blsp.model.foundations import load_llm
from blsp.model.loading import load_tokenizer
from tests.model.conftest import save_llm

NOTHING = torch.zeros(1, 1, dtype=torch.long)


def draw(scores: torch.Tensor, seeds: list[int]) -> torch.Tensor:
    return SeededDraw(seeds)(NOTHING, scores).argmax(-1)


def test_draws_follow_the_distribution() -> None:
    """100,000 draws of 0.1, 0.2, 0.3 and 0.4: within four standard deviations."""
    shares = torch.tensor([0.1, 0.2, 0.3, 0.4])
    draws = torch.stack(
        [
            draw(shares.log().expand(1000, 4), list(range(k, k + 1000)))
            for k in range(0, 10**5, 1000)
        ]
    )
    counts = draws.flatten().bincount(minlength=4) / 1e5
    assert torch.all((counts - shares).abs() < 4 * (shares * (1 - shares) / 1e5).sqrt())


def test_what_cannot_be_is_never_drawn() -> None:
    scores = torch.full((500, 6), -torch.inf)
    scores[:, [1, 4]] = torch.tensor([0.0, -3.0])
    assert set(draw(scores, list(range(500))).tolist()) == {1, 4}
    assert draw(torch.tensor([[0.0, -torch.inf]]).expand(500, 2), list(range(500))).sum() == 0


def test_the_sum_is_never_reached_however_it_is_rounded() -> None:
    """Of 150,000 tokens of one probability, in 16 bits, some number is always passed."""
    scores = torch.zeros(64, 150_000, dtype=torch.bfloat16)
    drawn = draw(scores, list(range(64)))
    assert drawn.max() < 150_000 and len(drawn.unique()) > 60


def test_a_row_is_drawn_by_its_seed_and_not_by_its_neighbours() -> None:
    scores = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    together = build_sampler([7, 8, 9], temperature=2.0, top_p=0.9)
    alone = build_sampler([9], temperature=2.0, top_p=0.9)
    for _ in range(5):
        both = together(NOTHING.expand(3, 1), scores), alone(NOTHING, scores[2:])  # type: ignore[arg-type]
        assert torch.equal(both[0][2:], both[1])


def test_a_seed_is_that_of_the_name() -> None:
    assert derive_seed(0, "a") == derive_seed(0, "a") != derive_seed(1, "a") != derive_seed(1, "b")
    assert 0 <= derive_seed(2**62, "x") < 2**63


@pytest.fixture(scope="module")
def author(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder: Path = save_llm(tmp_path_factory.mktemp("llm"), "qwen3", tie_word_embeddings=False)
    return load_llm(folder)[0].eval(), load_tokenizer(folder)


def test_answers_do_not_depend_on_the_batch_nor_on_who_was_asked_before(
    author: tuple[Any, Any],
) -> None:
    prompts, names = [[5, 6, 7], [8, 9], [3] * 6, [4]], ["a", "b", "c", "d"]
    config = {"do_sample": True, "max_new_tokens": 12}
    together = answer_texts(*author, prompts, GenerationConfig(**config, batch_size=4), names=names)
    by_two = GenerationConfig(**config, batch_size=2)
    assert answer_texts(*author, prompts[::-1], by_two, names=names[::-1]) == together[::-1]
    assert answer_texts(*author, prompts[2:3], by_two, names=["c"]) == together[2:3]
    assert answer_texts(*author, prompts[2:3], by_two, names=["x"]) != together[2:3]


def test_the_state_of_others_is_left_alone(author: tuple[Any, Any]) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    answer_texts(*author, [[5, 6]], GenerationConfig(do_sample=True, max_new_tokens=3))
    assert torch.equal(torch.rand(1), expected)
