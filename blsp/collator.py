"""Examples become a batch: two right-padded encodings and the padded features of all recordings.

Padding is on the right because a label must never be predicted from padding. Student and teacher
must carry the same labels, or a divergence between them would compare different words. Nothing is
said of audio in a batch that has none. `Example`s enter; a dictionary of tensors leaves.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from blsp.dataset import Example
from blsp.model.processing import pad_features
from blsp.rendering import IGNORED


class Collator:
    """Builds batches of B examples with N recordings in all.

    The keys are `input_ids`, `attention_mask`, `labels` (B, T); the same with `teacher_` before
    them (B, U); `ids`, the ids of the rows; `left_out`, why examples were; and where there is
    audio `input_features` (N, M, F) with `input_features_mask` (N, F), in the order of the
    placeholders, row by row, how many placeholders each has in `speech_lengths` (N,) and which
    emotion in `emotion_labels` (N,), and `transcript_ids`, what they say one after the other, with
    `transcript_lengths` (N,) and `teacher_transcript_mask` (B, U), where the teacher reads it.

    A batch whose audio is all unreadable is one row that trains nothing, because the other
    processes wait for this one's step.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Collate.

        Raises:
            ValueError: the two views of an example train different tokens.
        """
        rows = [example for example in examples if example.unreadable is None]
        left_out = [f"{e.id}: {e.unreadable}" for e in examples if e.unreadable is not None]
        for example in rows:
            _check_labels(example)
        rows = rows or [self._untrained()]
        batch = self._pad([e.input_ids for e in rows], [e.labels for e in rows], prefix="")
        batch |= self._pad(
            [e.teacher_input_ids for e in rows], [e.teacher_labels for e in rows], prefix="teacher_"
        )
        features = [each for example in rows for each in example.features]
        batch |= pad_features(features) | _find_transcripts(rows, batch["teacher_input_ids"])
        if features:
            of_each = {"speech_lengths": [n for e in rows for n in e.speech_lengths]}
            of_each["emotion_labels"] = [label for e in rows for label in e.emotions]
            batch |= {name: torch.tensor(numbers) for name, numbers in of_each.items()}
        return batch | {"ids": [e.id for e in rows], "left_out": left_out}

    def _pad(self, ids: list[Tensor], labels: list[Tensor], *, prefix: str) -> dict[str, Tensor]:
        ones = [torch.ones_like(row) for row in ids]
        return {
            f"{prefix}input_ids": pad_sequence(ids, True, self.pad_token_id),
            f"{prefix}attention_mask": pad_sequence(ones, True),
            f"{prefix}labels": pad_sequence(labels, True, IGNORED),
        }

    def _untrained(self) -> Example:
        ids, labels = torch.tensor([self.pad_token_id]), torch.tensor([IGNORED])
        return Example(
            id="", input_ids=ids, labels=labels, teacher_input_ids=ids, teacher_labels=labels
        )


def _find_transcripts(rows: Sequence[Example], teacher_ids: Tensor) -> dict[str, Tensor]:
    spans = [(row, *span) for row, example in enumerate(rows) for span in example.transcripts]
    if not spans:
        return {}
    mask = torch.zeros_like(teacher_ids, dtype=torch.bool)
    for row, start, end in spans:
        mask[row, start:end] = True
    return {
        "teacher_transcript_mask": mask,
        "transcript_ids": teacher_ids[mask],
        "transcript_lengths": torch.tensor([end - start for _, start, end in spans]),
    }


def _check_labels(example: Example) -> None:
    student = example.labels[example.labels != IGNORED]
    teacher = example.teacher_labels[example.teacher_labels != IGNORED]
    if not torch.equal(student, teacher):
        raise ValueError(
            f"{example.id}: expected both views to train the same tokens, found {len(student)} "
            f"in the student's and {len(teacher)} in the teacher's; render both from one "
            "conversation"
        )
