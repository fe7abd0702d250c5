"""Where speech fails: beside what recognition gets wrong, and which answers are the worst.

A model that hears may fail where the words are hard to recognise, or where they are not; the first
is the ear's matter and the second is not. Predictions of a run folder enter; errors and losses of
single utterances leave.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np

from blsp.metrics import Statistics
from blsp.prediction_log import PredictionLog
from blsp.results import (
    MAIN,
    SPEECH,
    TEXT_BOUND,
    TRANSCRIPT,
    WHISPER,
    asked,
    compute_scores,
    predictions_of,
    references_of,
)
from blsp.tasks import LOWER_IS_BETTER, Task

WORST = 8
"""Examples shown of each task."""
_ENDS = (0.0, 0.1, 0.25, 0.5)
"""Of error rates that are averaged together; the last group has no end."""


class Loss(NamedTuple):
    """One utterance: how much of it Whisper misheard, and how much of the score speech lost."""

    id: str
    error_rate: float
    """Of words, or of characters where words are not spaced; it may exceed 1."""
    loss: float
    """0 where the answer is as good as can be, 1 where nothing of it is right."""


def find_losses(
    log: PredictionLog, run: Mapping[str, Any], task: Task, condition: str, folder: Path
) -> list[Loss]:
    """Return the utterances that both Whisper transcribed and speech answered, sorted by id.

    None where there is no cascade, or where the task's metric is not one of single utterances.
    """
    answers = predictions_of(log, task.name, condition)
    heard = predictions_of(log, TRANSCRIPT, condition)
    written = [one for one, where in asked(run) if (one.name, where) == (TRANSCRIPT, condition)]
    if SPEECH not in answers or not written or not any(references_of(heard).values()):
        return []
    recognised = compute_scores(written[0], heard, folder)[written[0].metrics[0]][WHISPER]
    errors = dict(zip(recognised.ids, _each(recognised).tolist(), strict=True))
    metric = task.metrics[0]
    scored = compute_scores(task, {SPEECH: answers[SPEECH]}, folder)[metric][SPEECH]
    values = np.clip(_each(scored), 0.0, 1.0)
    losses = values if metric in LOWER_IS_BETTER else 1.0 - values
    pairs = zip(scored.ids, losses.tolist(), strict=True)
    return [Loss(one, errors[one], loss) for one, loss in sorted(pairs) if one in errors]


def describe_losses(losses: Sequence[Loss]) -> str:
    """Say how much is lost where Whisper makes no error, and where it makes one."""
    parts = []
    for what, found in (
        ("is right", [one.loss for one in losses if one.error_rate == 0]),
        ("has an error", [one.loss for one in losses if one.error_rate > 0]),
    ):
        if found:
            parts.append(
                f"where Whisper's transcript {what} ({len(found):,} utterances), speech loses "
                f"{mean(found):.1%}"
            )
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def average_losses(losses: Sequence[Loss]) -> list[tuple[float, float]]:
    """Return (mean error rate, mean loss) of utterances with about the same error rate."""
    groups: dict[int, list[Loss]] = {}
    for one in losses:
        groups.setdefault(bisect_left(_ENDS, one.error_rate), []).append(one)
    return [
        (mean(min(one.error_rate, 1.0) for one in group), mean(one.loss for one in group))
        for _, group in sorted(groups.items())
    ]


def _each(statistics: Statistics) -> np.ndarray:
    """(n,) the metric of every utterance alone."""
    return statistics.compute(statistics.counts)


def find_worst(
    log: PredictionLog, task: Task, condition: str, folder: Path
) -> list[dict[str, str]]:
    """Return the utterances that speech gets most wrong: id, reference, answers; at most WORST.

    What the text bound gets wrong too comes last: the language model, not hearing, is its cause.
    """
    answers = predictions_of(log, task.name, condition)
    if SPEECH not in answers:
        return []
    metric = task.metrics[0]
    main = {name: answers[name] for name in MAIN if name in answers}
    scores = compute_scores(task, main, folder)[metric]
    sign = -1 if metric in LOWER_IS_BETTER else 1
    each = {name: sign * _each(one) for name, one in scores.items()}
    perfect = 0.0 if sign < 0 else 1.0 - 1e-9
    bound = each.get(TEXT_BOUND, each[SPEECH] * 0)
    gaps = each[SPEECH] - bound
    ids = scores[SPEECH].ids
    order = sorted(range(len(ids)), key=lambda i: (gaps[i], each[SPEECH][i], ids[i]))
    wrong = [i for i in order if each[SPEECH][i] < perfect][:WORST]
    return [
        {
            "id": ids[i],
            "expected": main[SPEECH][ids[i]].reference if ids[i] in main[SPEECH] else "",
            **{name: row[ids[i]].prediction for name, row in main.items() if ids[i] in row},
        }
        for i in wrong
    ]
