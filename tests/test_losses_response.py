"""Objectives on predictions: the shift between logits and labels, chunked losses against plain."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div
from torch.profiler import ProfilerActivity, profile
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from blsp.losses import (
    IGNORED,
    Head,
    gather_response,
    gather_spans,
    input_kl,
    response_ce,
    response_kl,
    response_positions,
    response_targets,
)

PAD, END = IGNORED, 9

# position   0    1    2    3    4    5    6
LABELS = torch.tensor(
    [
        [PAD, PAD, 4, 5, END, PAD, PAD],
        [PAD, 7, END, PAD, 8, 6, END],  # two turns
    ]
)


def test_a_row_predicts_the_token_after_it_and_the_end_of_turn_is_one_of_them() -> None:
    where = torch.arange(14.0).view(2, 7, 1)  # 0..6 in the first row of the batch, 7..13 after
    rows = gather_response(where, LABELS)[:, 0].tolist()
    assert rows == [1, 2, 3, 7, 8, 10, 11, 12]
    assert response_targets(LABELS).tolist() == [4, 5, END, 7, END, 8, 6, END]


def test_positions_count_from_the_start_of_each_turn() -> None:
    assert response_positions(LABELS).tolist() == [0, 1, 2, 0, 1, 0, 1, 2]


def test_the_position_after_the_end_of_turn_is_not_trained() -> None:
    hidden = torch.randn(2, 7, 3, requires_grad=True)
    gather_response(hidden, LABELS).sum().backward()
    trained = hidden.grad[:, :, 0] != 0  # type: ignore[index]
    assert trained[0].tolist() == [False, True, True, True, False, False, False]


def test_labels_of_another_batch_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 8\) like the hidden states, found \(2, 7\)"):
        gather_response(torch.zeros(2, 8, 3), LABELS)


def test_the_row_before_each_turn_predicts_its_first_token() -> None:
    where = torch.arange(14.0).view(2, 7, 1)
    rows = gather_response(where, LABELS)[response_positions(LABELS) == 0]
    assert rows[:, 0].tolist() == [1, 7, 10]


def test_a_span_is_gathered_where_it_stands() -> None:
    where = torch.arange(14.0).view(2, 7, 1)
    mask = torch.zeros(2, 7, dtype=torch.long)
    mask[0, 2:4] = mask[1, 0] = mask[1, 5:] = 1  # as an attention mask, or as bool
    assert gather_spans(where, mask)[:, 0].tolist() == [2, 3, 7, 12, 13]
    assert gather_spans(where, mask.bool())[:, 0].tolist() == [2, 3, 7, 12, 13]
    with pytest.raises(ValueError, match=r"\(2, 7\) like the hidden states, found \(2, 6\)"):
        gather_spans(where, mask[:, 1:])


TINY = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
}
LLMS = [
    (Qwen3Config, {"head_dim": 8}, {}),
    (Gemma2Config, {"head_dim": 8, "final_logit_softcapping": 0.2}, {"softcap": 0.2}),
    (CohereConfig, {"logit_scale": 0.25}, {"scale": 0.25}),
    (GraniteConfig, {"logits_scaling": 8.0}, {"scale": 1 / 8}),
]


@pytest.mark.parametrize(("kind", "options", "head_options"), LLMS)
def test_the_loss_is_the_one_the_language_model_computes_from_its_labels(
    kind: type[PreTrainedConfig], options: dict[str, Any], head_options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    llm = AutoModelForCausalLM.from_config(kind(**TINY, **options)).eval()
    ids = torch.randint(1, 40, LABELS.shape)
    labels = ids.where(LABELS != IGNORED, IGNORED)
    with torch.no_grad():
        theirs = llm(input_ids=ids, labels=labels)
        hidden = llm.get_decoder()(input_ids=ids).last_hidden_state
        head = Head(llm.get_output_embeddings().weight, **head_options)
        rows = gather_response(hidden, labels)
        ours = response_ce(rows, head, response_targets(labels), chunk=3)
    torch.testing.assert_close(head.logits(hidden[0]), theirs.logits[0])
    torch.testing.assert_close(ours.loss, theirs.loss)


def draw(rows: int, *, vocabulary: int = 23, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Student and teacher states, a head's weight and bias, and targets."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, rows, 5, dtype=dtype)
    weight, bias = torch.randn(vocabulary, 5, dtype=dtype), torch.randn(vocabulary, dtype=dtype)
    return [student, teacher, weight, bias, torch.randint(vocabulary, (rows,))]


def plain_logits(hidden: Tensor, head: Head) -> Tensor:
    logits = nn.functional.linear(hidden, head.weight, head.bias) * head.scale
    return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)


def plain_kl(
    student: Tensor, student_head: Head, teacher: Tensor, teacher_head: Head, temperature: float
) -> Tensor:
    log_s = (plain_logits(student, student_head) / temperature).log_softmax(-1)
    log_t = (plain_logits(teacher, teacher_head) / temperature).log_softmax(-1)
    return temperature**2 * kl_div(log_s, log_t, reduction="none", log_target=True).sum(-1)


def gradients(loss: Callable[[], Tensor], *leaves: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss(), leaves))


@pytest.mark.parametrize("chunk", [1, 3, 7, 64])
@pytest.mark.parametrize(("temperature", "softcap"), [(1.0, None), (2.0, None), (1.5, 3.0)])
def test_kl_and_its_gradients_equal_the_plain_ones(
    chunk: int, temperature: float, softcap: float | None
) -> None:
    student, teacher, matrix, bias, _ = draw(7)
    weight = torch.tensor([1.0, 0.0, 2.0, 0.5, 1.0, 1.0, 3.0])
    leaves = [tensor.requires_grad_() for tensor in (student, matrix, bias)]
    head = Head(matrix, bias, scale=0.7, softcap=softcap)
    fixed = Head(matrix.detach(), bias.detach(), scale=0.7, softcap=softcap)

    def chunked() -> Tensor:
        return response_kl(
            student, head, teacher, head, temperature=temperature, weight=weight, chunk=chunk
        ).loss

    def plain() -> Tensor:
        return plain_kl(student, head, teacher, fixed, temperature) @ weight / 7

    torch.testing.assert_close(chunked(), plain(), atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(gradients(chunked, *leaves), gradients(plain, *leaves), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 3, 64])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_ce_and_its_gradients_equal_the_plain_ones(chunk: int, softcap: float | None) -> None:
    hidden, _, matrix, bias, targets = draw(7)
    leaves = [tensor.requires_grad_() for tensor in (hidden, matrix, bias)]
    head = Head(matrix, bias, scale=0.7, softcap=softcap)

    def chunked() -> Tensor:
        return response_ce(hidden, head, targets, chunk=chunk).loss

    def plain() -> Tensor:
        return cross_entropy(plain_logits(hidden, head), targets)

    torch.testing.assert_close(chunked(), plain(), atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(gradients(chunked, *leaves), gradients(plain, *leaves), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("rows", [0, 5])
def test_kl_passes_gradcheck(temperature: float, softcap: float | None, rows: int) -> None:
    student, teacher, matrix, bias, _ = draw(rows, vocabulary=7, dtype=torch.float64)
    weight = torch.linspace(0.5, 2, rows, dtype=torch.float64)
    fixed = Head(matrix.clone(), bias.clone())

    def loss(hidden: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
        head = Head(matrix, bias, scale=1.3, softcap=softcap)
        return response_kl(
            hidden, head, teacher, fixed, temperature=temperature, weight=weight, chunk=2
        ).loss

    leaves = [tensor.requires_grad_() for tensor in (student, matrix, bias)]
    assert torch.autograd.gradcheck(loss, leaves)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("rows", [0, 5])
def test_ce_passes_gradcheck(softcap: float | None, rows: int) -> None:
    hidden, _, matrix, bias, targets = draw(rows, vocabulary=7, dtype=torch.float64)

    def loss(hidden: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
        return response_ce(hidden, Head(matrix, bias, softcap=softcap), targets, chunk=2).loss

    leaves = [tensor.requires_grad_() for tensor in (hidden, matrix, bias)]
    assert torch.autograd.gradcheck(loss, leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kl_of_a_model_to_itself_is_exactly_zero(dtype: torch.dtype) -> None:
    student, _, matrix, bias, _ = draw(50, vocabulary=999, dtype=dtype)
    head = Head(matrix, bias, softcap=30.0)
    found = response_kl(student, head, student.clone(), head, temperature=2.0, chunk=16)
    assert found.loss.item() == 0.0
    assert found.per_token.tolist() == [0.0] * 50
    assert found.agree.all()


def test_values_worked_out_by_hand() -> None:
    # Two tokens with logits (h, -h) / 2: p = sigmoid(h). Teacher 3/4, student 1/2.
    head = Head(torch.tensor([[0.5], [-0.5]]))
    student = torch.zeros(1, 1)
    teacher = torch.tensor([[3.0]]).log()
    kl = response_kl(student, head, teacher, head)
    assert kl.loss.item() == pytest.approx(0.75 * 0.4054651081 + 0.25 * -0.6931471806)
    ce = response_ce(teacher, head, torch.tensor([1]))
    assert ce.per_token.tolist() == pytest.approx([1.3862943611])  # -ln(1/4)
    assert ce.agree.tolist() == [False]
    assert response_ce(teacher, head, torch.tensor([0])).agree.tolist() == [True]


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher, matrix, _, _ = draw(4)
    other = matrix.clone().requires_grad_()
    leaves = [tensor.requires_grad_() for tensor in (student, teacher, matrix)]
    response_kl(student, Head(matrix), teacher, Head(other)).loss.backward()
    assert [leaf.grad is not None for leaf in leaves] == [True, False, True]
    assert other.grad is None


def test_a_frozen_head_costs_no_gradient() -> None:
    student, teacher, matrix, _, _ = draw(4)
    loss = response_kl(student.requires_grad_(), Head(matrix), teacher, Head(matrix)).loss
    loss.backward()
    assert matrix.grad is None


def test_no_response_token_gives_a_zero_loss_that_still_reaches_every_tensor() -> None:
    student, teacher, matrix, _, targets = draw(0)
    leaves = [student.requires_grad_(), matrix.requires_grad_()]
    head = Head(matrix)
    loss = response_kl(student, head, teacher, head).loss
    loss = loss + response_ce(student, head, targets).loss
    loss.backward()
    assert loss.item() == 0.0
    assert [leaf.grad is not None for leaf in leaves] == [True, True]
    assert not matrix.grad.any()  # type: ignore[union-attr]


@pytest.mark.parametrize("cut", [1, 4, 6])
def test_accumulating_over_parts_equals_one_batch(cut: int) -> None:
    student, teacher, matrix, _, targets = draw(7)
    head, items = Head(matrix), torch.tensor(7)
    student.requires_grad_()

    def part(rows: slice) -> Tensor:
        kl = response_kl(student[rows], head, teacher[rows], head, num_items=items)
        return kl.loss + response_ce(student[rows], head, targets[rows], num_items=items).loss

    whole = part(slice(None))
    parts = part(slice(0, cut)) + part(slice(cut, None))
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, student)[0] for loss in (parts, whole)), atol=1e-6, rtol=1e-5
    )


def test_the_values_do_not_depend_on_whether_a_gradient_is_formed() -> None:
    student, teacher, matrix, _, _ = draw(7)
    head = Head(matrix.requires_grad_())
    formed = response_kl(student, head, teacher, head)
    with torch.no_grad():
        bare = response_kl(student, head, teacher, head)
    assert torch.equal(formed.per_token, bare.per_token)
    assert not formed.per_token.requires_grad and not bare.loss.requires_grad


@pytest.mark.parametrize("fp32", [True, False])
def test_sixteen_bits_stay_near_float32(fp32: bool) -> None:
    student, teacher, matrix, bias, _ = draw(9, vocabulary=300)
    low = [tensor.bfloat16() for tensor in (student, teacher, matrix, bias)]
    wide = [tensor.float() for tensor in low]
    low[0].requires_grad_()
    wide[0].requires_grad_()
    head = Head(low[2], low[3], logits_fp32=fp32)
    ours = response_kl(low[0], head, low[1], head)
    exact = response_kl(wide[0], Head(wide[2], wide[3]), wide[1], Head(wide[2], wide[3]))
    torch.testing.assert_close(ours.loss, exact.loss, rtol=1e-5 if fp32 else 2e-2, atol=0)
    slopes = [
        torch.autograd.grad(found.loss, x)[0] for found, x in ((ours, low[0]), (exact, wide[0]))
    ]
    assert slopes[0].dtype == torch.bfloat16
    torch.testing.assert_close(slopes[0].float(), slopes[1], rtol=2e-2, atol=5e-3)


def test_autocast_does_not_round_the_logits() -> None:
    student, teacher, matrix, _, _ = draw(9, vocabulary=300)
    head = Head(matrix)
    plain = response_kl(student, head, teacher, head).loss
    with torch.autocast("cpu", torch.bfloat16):
        assert response_kl(student, head, teacher, head).loss.item() == plain.item()


def test_views_with_different_responses_are_refused() -> None:
    head = Head(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"\(4, 3\), found \(5, 3\)"):
        response_kl(torch.zeros(4, 2), head, torch.zeros(5, 2), head)
    with pytest.raises(ValueError, match="expected 4 targets"):
        response_ce(torch.zeros(4, 2), head, torch.zeros(5, dtype=torch.long))


def test_kl_at_the_input_is_the_published_one_times_the_squared_temperature() -> None:
    student, teacher, matrix, _, _ = draw(7)
    head = Head(matrix)
    found = input_kl(student.requires_grad_(), head, teacher, head, temperature=2.0, chunk=3)
    log_s = (student @ matrix.T / 2).log_softmax(-1)
    published = kl_div(log_s, (teacher @ matrix.T / 2).softmax(-1), reduction="batchmean")
    torch.testing.assert_close(0.25 * found.loss, published, atol=1e-6, rtol=1e-5)
    ours, theirs = gradients(lambda: found.loss, student), gradients(lambda: published, student)
    torch.testing.assert_close(ours[0] * 0.25, theirs[0], atol=1e-6, rtol=1e-5)
    assert input_kl(teacher, head, teacher.clone(), head).loss.item() == 0.0


def test_kl_at_the_input_needs_one_embedding_a_token() -> None:
    head = Head(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"each of 4 transcript tokens, found 9; .*`cformer`"):
        input_kl(torch.zeros(9, 2), head, torch.zeros(4, 2), head)


def peak_bytes(run: Callable[[], Tensor]) -> int:
    """The most bytes alive at once beyond what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        run().backward()
    profiler: Any = trace.profiler
    events = profiler.kineto_results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    return max(itertools.accumulate(size for _, size in sorted(changes)))


def test_memory_does_not_grow_with_the_response() -> None:
    vocabulary, tile = 150_000, 8 * 150_000 * 4
    matrix = torch.randn(vocabulary, 4)
    head = Head(matrix)

    def kl(rows: int) -> Callable[[], Tensor]:
        states = torch.randn(2, rows, 4)
        student = states[0].requires_grad_()
        return lambda: response_kl(student, head, states[1].detach(), head, chunk=8).loss

    def naive() -> Tensor:
        states = torch.randn(2, 64, 4).requires_grad_()
        return plain_kl(states[0], head, states[1].detach(), head, 1.0).mean()

    short, long, plain = peak_bytes(kl(16)), peak_bytes(kl(64)), peak_bytes(naive)
    assert long < 1.01 * short < 1.01 * 4.5 * tile
    assert long < plain / 3
