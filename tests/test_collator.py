"""Batches: two right-padded encodings and features, drawn out."""

import pytest
import torch

from blsp.collator import Collator
from blsp.dataset import Example
from blsp.rendering import IGNORED

COLLATE = Collator(pad_token_id=0)
X = IGNORED


def example(
    name: str,
    ids: list[int],
    labels: list[int],
    *frames: int,
    teacher: list[int] | None = None,
    transcripts: tuple[tuple[int, int], ...] = (),
) -> Example:
    """The teacher's prompt is one token, 7; features count up from the number of frames."""
    answer = [label for label in (labels if teacher is None else teacher) if label != X]
    return Example(
        id=name,
        input_ids=torch.tensor(ids),
        labels=torch.tensor(labels),
        teacher_input_ids=torch.tensor([7, *answer]),
        teacher_labels=torch.tensor([X, *answer]),
        transcripts=transcripts,
        features=tuple((torch.arange(n * 2.0).reshape(n, 2).T + 1, n) for n in frames),
    )


SHORT = example("short", [9, 4], [X, 4], 1)
LONG = example("long", [1, 9, 9, 5, 6], [X, X, X, 5, 6], 3)
TEXT = example("text", [1, 3], [X, 3])


def left_out(name: str) -> Example:
    none = torch.empty(0, dtype=torch.long)
    return Example(
        id=name,
        input_ids=none,
        labels=none,
        teacher_input_ids=none,
        teacher_labels=none,
        unreadable="cut short",
    )


def test_both_views_are_padded_on_the_right() -> None:
    batch = COLLATE([SHORT, LONG])
    assert batch["input_ids"].tolist() == [[9, 4, 0, 0, 0], [1, 9, 9, 5, 6]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[X, 4, X, X, X], [X, X, X, 5, 6]]
    assert batch["teacher_input_ids"].tolist() == [[7, 4, 0], [7, 5, 6]]
    assert batch["teacher_attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["teacher_labels"].tolist() == [[X, 4, X], [X, 5, 6]]
    assert batch["ids"] == ["short", "long"]


def test_features_are_padded_with_zeros_and_masked() -> None:
    batch = COLLATE([SHORT, LONG])
    assert batch["input_features"].tolist() == [
        [[1, 0, 0], [2, 0, 0]],
        [[1, 3, 5], [2, 4, 6]],
    ]
    assert batch["input_features_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]


def test_recordings_follow_one_another_row_by_row() -> None:
    batch = COLLATE([example("two", [9, 9, 4], [X, X, 4], 2, 1), TEXT, LONG])
    assert batch["input_features_mask"].sum(1).tolist() == [2, 1, 3]


def test_what_the_recordings_say_is_taken_from_the_teachers_view() -> None:
    two = example("two", [9, 9, 4], [X, 3, 4], 2, 1, transcripts=((0, 1), (1, 3)))
    one = example("one", [9, 5], [X, 5], 1, transcripts=((0, 1),))
    batch = COLLATE([two, TEXT, one])
    assert batch["teacher_transcript_mask"].tolist() == [[1, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert batch["transcript_ids"].tolist() == [7, 3, 4, 7]
    assert batch["transcript_lengths"].tolist() == [1, 2, 1]


def test_a_batch_of_text_has_no_features() -> None:
    batch = COLLATE([TEXT])
    assert {key for key in batch if "features" in key} == set()
    assert batch["input_ids"].tolist() == [[1, 3]]


def test_views_that_train_different_tokens_are_refused_by_name() -> None:
    for teacher in ([5], [5, 7]):
        with pytest.raises(ValueError, match="odd: expected both views to train the same tokens"):
            COLLATE([example("odd", [1, 5, 6], [X, 5, 6], teacher=teacher)])


def test_an_unreadable_example_is_left_out_and_named() -> None:
    batch = COLLATE([SHORT, left_out("bad")])
    assert batch["ids"] == ["short"]
    assert batch["left_out"] == ["bad: cut short"]
    assert batch["input_ids"].shape == (1, 2)


def test_a_batch_with_nothing_readable_trains_nothing() -> None:
    batch = COLLATE([left_out("bad")])
    assert batch["labels"].tolist() == batch["teacher_labels"].tolist() == [[X]]
    assert batch["attention_mask"].tolist() == [[1]]
    assert batch["left_out"] == ["bad: cut short"]
