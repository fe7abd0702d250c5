"""Objectives between the states of two views, against values by hand and loops over recordings."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

from blsp.losses import Head, contrastive, first_state, hidden_cosine, response_kl

# --- one embedding to one token -------------------------------------------------------------------


def test_angles_are_averaged_over_layers_and_positions() -> None:
    heard = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    read = torch.tensor([[0.0, 2.0], [2.0, 2.0], [-3.0, 0.0]])  # 1 - cos is 1, 0 and 2
    assert hidden_cosine([heard], [read]).item() == pytest.approx(3 / 3)
    assert hidden_cosine([heard, 5 * read], [read, read]).item() == pytest.approx(3 / 3 / 2)


def test_states_that_do_not_pair_off_are_refused() -> None:
    states = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"shape \(2, 2\), found \(3, 2\); .*`cformer`"):
        hidden_cosine([states], [states[:2]])
    with pytest.raises(ValueError, match="at least one, found 1 of the student and 2"):
        hidden_cosine([states], [states, states])
    with pytest.raises(ValueError, match="at least one, found 0"):
        hidden_cosine([], [])


# --- contrast -------------------------------------------------------------------------------------

LENGTHS, TEXT_LENGTHS = torch.tensor([4, 2, 3, 1]), torch.tensor([2, 3, 1, 2])


def draw(layers: int = 2) -> tuple[list[Tensor], list[Tensor]]:
    torch.manual_seed(0)
    student = [torch.randn(10, 5).requires_grad_() for _ in range(layers)]
    return student, [torch.randn(8, 5) for _ in range(layers)]


def plain_contrast(heard: Tensor, read: Tensor, recordings: list[int], tau: float) -> list[Tensor]:
    """Of each recording, the cross-entropy of picking it among ``recordings`` by its transcript."""
    means = [rows.mean(0) for rows in heard.split(LENGTHS.tolist())]
    losses = []
    for right, n in enumerate(recordings):
        transcript = read.split(TEXT_LENGTHS.tolist())[n].mean(0)
        scores = [cosine_similarity(means[m], transcript, dim=0) / tau for m in recordings]
        losses.append(cross_entropy(torch.stack(scores), torch.tensor(right)))
    return losses


@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_a_transcript_picks_its_recording_in_every_layer(tau: float) -> None:
    student, teacher = draw()
    found = contrastive(student, LENGTHS, teacher, TEXT_LENGTHS, temperature=tau)
    layers = zip(student, teacher, strict=True)
    wanted = [loss for layer in layers for loss in plain_contrast(*layer, [0, 1, 2, 3], tau)]
    wanted = torch.stack(wanted).mean()
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found, student), torch.autograd.grad(wanted, student)
    )


def test_recordings_that_say_the_same_are_no_negatives_of_each_other() -> None:
    (heard,), (read,) = draw(1)
    groups = torch.tensor([7, 5, 7, 2])
    found = contrastive([heard], LENGTHS, [read], TEXT_LENGTHS, groups=groups)
    first = plain_contrast(heard, read, [0, 1, 3], 0.1)
    third = plain_contrast(heard, read, [1, 2, 3], 0.1)
    whole = plain_contrast(heard, read, [0, 1, 2, 3], 0.1)
    wanted = [first[0], whole[1], third[1], whole[3]]
    torch.testing.assert_close(found, torch.stack(wanted).mean())
    apart = contrastive([heard], LENGTHS, [read], TEXT_LENGTHS, groups=torch.arange(4))
    torch.testing.assert_close(apart, torch.stack(whole).mean())


def test_a_recording_without_speech_or_text_is_neither_asked_nor_a_negative() -> None:
    (heard,), (read,) = draw(1)
    lengths, text_lengths = torch.tensor([4, 0, 2, 3, 1]), torch.tensor([2, 1, 2, 0, 3])
    found = contrastive([heard], lengths, [read], text_lengths)
    kept = [0, 2, 4]
    heard_rows, read_rows = heard.split(lengths.tolist()), read.split(text_lengths.tolist())
    wanted = contrastive(
        [torch.cat([heard_rows[n] for n in kept])],
        lengths[kept],
        [torch.cat([read_rows[n] for n in kept])],
        text_lengths[kept],
    )
    torch.testing.assert_close(found, wanted)
    assert torch.autograd.grad(found, heard)[0].isfinite().all()


def test_one_recording_has_nothing_to_be_told_from() -> None:
    (heard,), (read,) = draw(1)
    found = contrastive([heard], torch.tensor([10]), [read], torch.tensor([8]))
    assert found.item() == 0.0
    assert not torch.autograd.grad(found, heard)[0].any()


def test_groups_of_other_recordings_are_refused() -> None:
    student, teacher = draw()
    with pytest.raises(ValueError, match=r"expected 4 groups, one a recording, found \(3,\)"):
        contrastive(student, LENGTHS, teacher, TEXT_LENGTHS, groups=torch.arange(3))
    with pytest.raises(ValueError, match="10 speech embeddings for 9"):
        contrastive(student, LENGTHS - torch.tensor([1, 0, 0, 0]), teacher, TEXT_LENGTHS)


# --- the first state of the response --------------------------------------------------------------


def test_the_distance_of_first_states_is_the_norm_of_their_difference() -> None:
    heard = torch.tensor([[3.0, 4.0], [1.0, 1.0]], requires_grad=True)
    read = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    found = first_state(heard, read)
    assert found.item() == 2.5  # 5 and 0, over two responses
    slope = torch.autograd.grad(found, heard)[0]
    assert slope.flatten().tolist() == pytest.approx([0.3, 0.4, 0.0, 0.0])


def test_no_distance_is_no_divergence() -> None:
    torch.manual_seed(0)
    states, head = torch.randn(6, 5), Head(torch.randn(30, 5))
    assert first_state(states, states.clone()).item() == 0.0
    assert response_kl(states, head, states.clone(), head).loss.item() == 0.0


def test_first_states_of_other_responses_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 2\) like the teacher's, found \(4, 2\)"):
        first_state(torch.zeros(4, 2), torch.zeros(3, 2))
