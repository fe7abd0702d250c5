"""Alignment meters: worked-out numbers, sums over batches and processes, and the bounds."""

import math

import pytest
import torch
from torch import Tensor

from blsp.losses import Head, ResponseLoss, response_kl
from blsp.meters import (
    AlignmentMeter,
    LayerMeter,
    TokenMeter,
    similarity_map,
    span_similarity,
)


def tokens(kl: list[float], agree: list[int]) -> ResponseLoss:
    values = torch.tensor(kl)
    return ResponseLoss(values.sum(), values, torch.tensor(agree, dtype=torch.bool))


POSITIONS = torch.tensor([0, 1, 2, 3, 0])
SPEECH = tokens([0.5, 0.1, 0.2, 0.0, 0.2], [0, 1, 1, 1, 1])  # KL 0.2, agreement 4 / 5
FLOOR = tokens([2.0, 1.0, 0.5, 0.5, 1.0], [0, 0, 1, 1, 0])  # KL 1.0, agreement 2 / 5
CEILING = tokens([0.0, 0.0, 0.0, 0.0, 0.0], [1, 1, 1, 1, 1])


def measured() -> AlignmentMeter:
    meter = AlignmentMeter()
    meter.update(positions=POSITIONS, speech=SPEECH, floor=FLOOR, ceiling=CEILING)
    return meter


def test_the_numbers_of_a_batch() -> None:
    assert measured().numbers() == pytest.approx(
        {
            "recovered": 0.8,
            "kl": 0.2,
            "kl_floor": 1.0,
            "kl_ceiling": 0.0,
            "agreement": 0.8,
            "agreement_floor": 0.4,
            "agreement_ceiling": 1.0,
        }
    )


def test_the_progress_line() -> None:
    assert measured().line() == (
        "recovered 80.0% | KL 0.200 (floor 1.000, transcript 0.000) | "
        "top-1 80.0% (floor 40.0%, transcript 100.0%)"
    )


def test_between_evaluations_only_the_speech_is_known() -> None:
    meter = AlignmentMeter()
    meter.update(positions=POSITIONS, speech=SPEECH)
    assert meter.line() == "KL 0.200 | top-1 80.0%"
    assert set(meter.numbers()) == {"kl", "agreement"}
    assert math.isnan(meter.recovered)


def test_a_student_that_hears_nothing_has_recovered_nothing_and_one_that_reads_all() -> None:
    deaf, perfect = AlignmentMeter(), AlignmentMeter()
    deaf.update(positions=POSITIONS, speech=FLOOR, floor=FLOOR)
    perfect.update(positions=POSITIONS, speech=CEILING, floor=FLOOR)
    assert (deaf.recovered, perfect.recovered) == (0.0, 1.0)


def test_the_curve_bins_positions_by_powers_of_two() -> None:
    meter = TokenMeter()
    meter.update(SPEECH, POSITIONS)
    late = tokens([0.4, 0.4, 0.9], [1, 0, 1])
    meter.update(late, torch.tensor([63, 64, 5000]))
    assert [(row["positions"], row["tokens"]) for row in meter.curve()] == [
        ("0", 2),
        ("1", 1),
        ("2-3", 2),
        ("32-63", 1),
        ("64-", 2),
    ]
    assert [row["kl"] for row in meter.curve()] == pytest.approx([0.35, 0.1, 0.1, 0.4, 0.65])
    assert [row["agreement"] for row in meter.curve()] == [0.5, 1.0, 1.0, 1.0, 0.5]


@pytest.mark.parametrize("cut", [0, 2, 5])
def test_batches_add_up_whatever_their_sizes(cut: int) -> None:
    meter = TokenMeter()
    for rows in (slice(0, cut), slice(cut, None)):
        part = ResponseLoss(SPEECH.loss, SPEECH.per_token[rows], SPEECH.agree[rows])
        meter.update(part, POSITIONS[rows])
    assert (meter.tokens, meter.agreement) == (5, 0.8)
    assert meter.kl == pytest.approx(0.2)


def test_processes_add_up() -> None:
    meter = measured()
    meter.reduce(lambda sums: 2 * sums)  # as if another process had seen the same
    assert meter.tokens["floor"].tokens == 10
    assert meter.numbers() == pytest.approx(measured().numbers())


def test_a_process_that_saw_nothing_adds_nothing() -> None:
    seen, blank = measured().tokens["speech"].sums, AlignmentMeter().tokens["speech"].sums
    assert torch.equal(seen + blank, seen)


def test_a_position_for_every_token_is_asked_for() -> None:
    with pytest.raises(ValueError, match=r"expected 5 positions, one a token, found \(4,\)"):
        TokenMeter().update(SPEECH, POSITIONS[:4])


def test_the_loss_feeds_the_meter() -> None:
    torch.manual_seed(0)
    head = Head(torch.randn(30, 6))
    teacher, student = torch.randn(2, 5, 6)
    meter = AlignmentMeter()
    meter.update(
        positions=POSITIONS,
        speech=response_kl(teacher + 0.01 * student, head, teacher, head),
        floor=response_kl(student, head, teacher, head),
        ceiling=response_kl(teacher, head, teacher, head),
    )
    assert meter.tokens["ceiling"].kl == 0.0
    assert meter.recovered > 0.99


def states() -> tuple[Tensor, Tensor]:
    """(B=2, T=3, D=2) heard and (B=2, T=2, D=2) read."""
    heard = torch.tensor([[[1.0, 0], [3, 0], [9, 9]], [[9.0, 9], [0, 1], [0, 3]]])
    read = torch.tensor([[[2.0, 0], [7, 7]], [[5.0, 0], [5, 0]]])
    return heard, read


def test_similarity_is_the_cosine_of_the_spans_means() -> None:
    heard, read = states()
    speech_span = torch.tensor([[1, 1, 0], [0, 1, 1]], dtype=torch.bool)
    text_span = torch.tensor([[1, 0], [1, 1]], dtype=torch.bool)
    # utterance 0: (2, 0) with (2, 0); utterance 1: (0, 2) with (5, 0)
    found = span_similarity([heard, -heard], speech_span, [read, read], text_span)
    assert found.tolist() == [[1.0, 0.0], [-1.0, 0.0]]


def test_rows_without_audio_do_not_count() -> None:
    heard, read = states()
    none = torch.tensor([[1, 1, 0], [0, 0, 0]], dtype=torch.bool)
    found = span_similarity([heard], none, [read], torch.tensor([[1, 0], [1, 1]]))
    meter = LayerMeter(layers=1)
    meter.update(found)
    assert meter.similarity() == [1.0]


def test_layers_are_averaged_over_utterances() -> None:
    meter = LayerMeter(layers=2)
    meter.update(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    meter.update(torch.tensor([[0.5], [0.4]]))
    assert meter.similarity() == pytest.approx([0.5, -0.2])


def test_similarity_is_logged_a_layer_in_every_condition_measured() -> None:
    meter = AlignmentMeter(layers=2)
    meter.update_layers(speech=torch.tensor([[0.9], [0.8]]), floor=torch.tensor([[0.5], [0.1]]))
    assert meter.numbers() == pytest.approx(
        {
            "similarity/layer_0": 0.9,
            "similarity/layer_1": 0.8,
            "similarity_floor/layer_0": 0.5,
            "similarity_floor/layer_1": 0.1,
        }
    )


def test_the_map_has_a_row_for_each_speech_position() -> None:
    speech = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, -1.0]])
    text = torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    half = math.sqrt(0.5)
    expected = torch.tensor([[1.0, 0.0], [half, half], [0.0, -1.0]])
    torch.testing.assert_close(similarity_map(speech, text), expected)
