"""How the entrants stand: scores of all seeds with intervals, differences, and claims put to them.

A score is the share of right answers to a group of questions; its interval draws seeds and
utterances, a difference is paired by utterance, and the p values of one question asked many times
are corrected for their number. Results enter; numbers leave, for the report to write.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from blsp.metrics import Difference, Estimate, compare_seeds, holm, measure_seeds
from blsp.results import SPEECH
from blsp.tiny.family.data import CLEAN, EMOTIONS, NOISY
from blsp.tiny.family.entrants import Claim, Entrant, Measure, choose_claims, stages_of
from blsp.tiny.family.runs import Result, Run
from blsp.tiny.family.schedule import Job, Plan
from blsp.tiny.family.scoring import Group, group_tasks

CONDITIONS = (CLEAN, NOISY)
Rule = Literal["exact", "in_any_manner"]
LEVEL = 0.05
"""Of the corrected p value below which two are told apart."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """An entrant with the results of its seeds, or a yardstick, which has one."""

    title: str
    tests: tuple[Result, ...]
    """Of each seed."""
    system: str = SPEECH
    entrant: Entrant | None = None
    rate: float | None = None
    fits: tuple[tuple[Result, ...], ...] = ()
    """Of each seed, its stages."""

    def scores(self, tasks: Sequence[str], condition: str, rule: Rule = "exact") -> np.ndarray:
        """(S, n) shares of the tasks that each utterance was right in."""
        return np.stack([_share(one[self.system][rule][condition], tasks) for one in self.tests])

    def measure(self, group: Group, condition: str) -> Estimate:
        """The score of a group of tasks."""
        return measure_seeds(self.scores(group_tasks()[group], condition))

    def text_kept(self) -> np.ndarray | None:
        """(S, n) shares of text answers that are as before; None where nothing can change them."""
        kept = [one["text_kept"] for one in self.tests if "text_kept" in one]
        return np.stack([_share(one, list(one)) for one in kept]) if kept else None

    def mean_of(self, part: Literal["meters", "costs"], key: str) -> float:
        """The mean over seeds of a meter of the last stage, or of the cost of all."""
        values = [
            sum(fit[part][key] for fit in (stages if part == "costs" else stages[-1:]))
            for stages in self.fits
        ]
        return float(np.mean(values))

    def trained_weights(self) -> int:
        """Of the last stage."""
        return int(self.fits[0][-1]["costs"]["trained_weights"])

    def knew(self, group: Group) -> set[str]:
        """The tasks of a group that training held nevertheless."""
        kinds = {kind for stages in self.fits for kind in stages[-1]["trained_kinds"]}
        return kinds & set(group_tasks()[group])


def _share(marks: dict[str, str], tasks: Sequence[str]) -> np.ndarray:
    """Task -> digits; (n,) mean over tasks."""
    return np.mean([[digit == "1" for digit in marks[task]] for task in tasks], axis=0)


def build_row(plan: Plan, name: str) -> Row | None:
    """The row of an entrant over the seeds that are scored; None where none is."""
    one, tests, fits = plan.entrants[name], [], []
    for seed in dict.fromkeys((*plan.seeds, *plan.more_seeds)):
        run = plan.final_run(name, seed)
        test = plan.lookup(Job(what="test", run=run)) if run else None
        if run is None or test is None:
            continue
        tests.append(test)
        fits.append(tuple(_fits_of(plan, run)))
    if not tests:
        return None
    rate = plan.best_rate(name)
    return Row(title=one.title, tests=tuple(tests), entrant=one, rate=rate, fits=tuple(fits))


def _fits_of(plan: Plan, run: Run) -> list[Result]:
    """The training results of a run's stages."""
    found = []
    for stage in stages_of(plan.entrants[run.entrant], plan.entrants):
        stage_run = plan.final_run(stage.name, run.seed)
        fit = plan.lookup(Job(what="fit", run=stage_run)) if stage_run else None
        assert fit is not None  # it was scored on the test, so it was trained
        found.append(fit)
    return found


# --- differences ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Told:
    """A difference and its p value among the others of its kind."""

    difference: Difference
    corrected: float


def compare_rows(rows: Sequence[Row], default: Row) -> dict[tuple[str, str], Told]:
    """(title, condition) -> held-out score minus the default's; all are one family of tests."""
    tasks, found = group_tasks()["held_out"], {}
    for row in rows:
        for condition in CONDITIONS:
            if row is not default:
                pair = row.scores(tasks, condition), default.scores(tasks, condition)
                found[row.title, condition] = compare_seeds(*pair)
    return _correct(found)


def _correct(found: dict[Any, Difference]) -> dict[Any, Told]:
    corrected = holm([one.p_value for one in found.values()])
    pairs = zip(found.items(), corrected, strict=True)
    return {key: Told(difference=one, corrected=p) for (key, one), p in pairs}


# --- claims ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A claim and what is seen; None where its runs are to come."""

    claim: Claim
    told: Told | None

    @property
    def verdict(self) -> str:
        """In words."""
        if self.told is None:
            return "not run yet"
        if self.told.corrected >= LEVEL:
            return "not told apart"
        return "agrees" if self.told.difference.value > 0 else "disagrees"


def judge_claims(rows: dict[str, Row], claims: Sequence[Claim]) -> list[Judged]:
    """Put claims to the rows, by name; each is of a difference that should be above 0.

    A pair that two claims read in opposite ways is tested once.
    """
    present = choose_claims(rows, claims)
    found: dict[tuple[str, str, str], Difference] = {}
    for one in present:
        if (one.worse, one.better, one.measure) not in found:
            key = one.better, one.worse, one.measure
            found[key] = compare_seeds(
                *(scores_for(rows[name], one.measure) for name in (one.better, one.worse))
            )
    told = _correct(found)
    return [Judged(claim=one, told=_find_told(one, told)) for one in claims]


def _find_told(claim: Claim, told: dict[tuple[str, str, str], Told]) -> Told | None:
    if (key := (claim.better, claim.worse, claim.measure)) in told:
        return told[key]
    opposite = told.get((claim.worse, claim.better, claim.measure))
    return opposite and Told(difference=_turn(opposite.difference), corrected=opposite.corrected)


def _turn(one: Difference) -> Difference:
    return Difference(
        value=-one.value, ci_low=-one.ci_high, ci_high=-one.ci_low, p_value=one.p_value
    )


def scores_for(row: Row, measure: Measure) -> np.ndarray:
    """(S, n) scores of a row in what a claim is about; clean and noisy together are their mean."""
    if measure == "text_kept":
        kept = row.text_kept()
        return np.ones((1, len(_digits(row)))) if kept is None else kept
    rule: Rule = "in_any_manner" if measure == "held_out_in_any_manner" else "exact"
    tasks = group_tasks()["held_out"]
    each = [row.scores(tasks, condition, rule) for condition in CONDITIONS]
    return np.mean(each, axis=0)


def _digits(row: Row) -> str:
    return next(iter(row.tests[0][row.system]["exact"][CLEAN].values()))


def emotion_scores(row: Row) -> tuple[Estimate, Estimate]:
    """The emotion named, and answers in its mood."""
    return row.measure("emotion", EMOTIONS), row.measure("emotional_answers", EMOTIONS)
