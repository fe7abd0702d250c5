"""The comparison as a page: `docs/results/family.md`.

Every number is taken from the result files of the runs; what is still to come is a dash, so the
page can be written at any time. A `Plan` with its results enters; Markdown and a picture leave.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from textwrap import fill

from blsp.metrics import Estimate
from blsp.results import CASCADE, SHUFFLED_AUDIO, SHUFFLED_TEXT, TEXT_BOUND
from blsp.tiny.family.data import Sizes
from blsp.tiny.family.entrants import CLAIMS, Claim, stages_of
from blsp.tiny.family.runs import Run
from blsp.tiny.family.schedule import RATE_FACTORS, Job, Plan
from blsp.tiny.family.scoring import Group, group_tasks
from blsp.tiny.family.standings import (
    CONDITIONS,
    LEVEL,
    Judged,
    Row,
    Told,
    build_row,
    compare_rows,
    emotion_scores,
    judge_claims,
)

FIGURE = "family.png"
COMMAND = "make ablation"
GROUPS: tuple[Group, ...] = ("aligned", "held_out", "sealed")
MARKS = {"aligned": "", "held_out": "\\*", "sealed": "\\*\\*"}


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Everything the page is written from."""

    plan: Plan
    sizes: Sizes
    recipes: dict[str, Row | None]
    variants: dict[str, Row | None]
    yardsticks: list[Row]
    default: Row | None
    claims: Sequence[Claim]

    @property
    def rows(self) -> dict[str, Row]:
        """Those that have results, by the name of their entrant."""
        every = self.recipes | self.variants
        return {name: row for name, row in every.items() if row is not None}


def collect(plan: Plan, sizes: Sizes, default: str, claims: Sequence[Claim] = CLAIMS) -> Standing:
    """Join results into rows."""
    rows = {name: build_row(plan, name) for name in plan.entrants}
    recipes = {name: row for name, row in rows.items() if plan.entrants[name].is_recipe}
    result = plan.lookup(Job(what="yardsticks"))
    titles = (TEXT_BOUND, CASCADE, SHUFFLED_TEXT)
    yardsticks = [Row(title=one, tests=(result,), system=one) for one in titles if result]
    if (row := rows.get(default)) and SHUFFLED_AUDIO in row.tests[0]:
        title = f"{SHUFFLED_AUDIO}, {row.title}"
        yardsticks.append(Row(title=title, tests=row.tests[:1], system=SHUFFLED_AUDIO))
    return Standing(
        plan=plan,
        sizes=sizes,
        recipes=recipes,
        variants={name: row for name, row in rows.items() if name not in recipes},
        yardsticks=yardsticks,
        default=rows.get(default),
        claims=claims,
    )


# --- the page -------------------------------------------------------------------------------------


def format_page(standing: Standing) -> str:
    """The whole page."""
    sections = [
        _format_head(standing),
        _format_recipes(standing),
        _format_tasks(standing),
        _format_costs(standing),
        _format_variants(standing),
        _format_claims(standing),
        _format_search(standing),
    ]
    return "\n\n".join(section.strip() for section in sections if section) + "\n"


def _format_head(standing: Standing) -> str:
    lacking = [name for name, row in (standing.recipes | standing.variants).items() if row is None]
    paragraphs = [
        "# The family on the tiny spoken world",
        _describe_origin(standing),
        f"Still to come: {', '.join(lacking)}." if lacking else "",
        _describe_design(standing.plan, standing.sizes),
        _SCORES,
        f"![held-out scores by recipe]({FIGURE})",
    ]
    return "\n\n".join(_fill(one) for one in paragraphs if one)


def _describe_origin(standing: Standing) -> str:
    results = [one for row in standing.rows.values() for one in row.tests]
    versions = {
        ", ".join(f"{name} {number}" for name, number in one["versions"].items()) for one in results
    }
    hardware = {one["hardware"] for one in results}
    return (
        f"Written by `{COMMAND}` from the results of its runs, and by nothing else. "
        f"{'; '.join(sorted(versions))}; {'; '.join(sorted(hardware))}, one thread a run."
    )


def _describe_design(plan: Plan, sizes: Sizes) -> str:
    feelings = 2 * sizes.emotion_sentences
    return f"""**The world is tiny**: a household grammar, synthetic voices, a language model and a
        Whisper of a few million weights. Nothing here is claimed of real speech. All recipes have
        the same {sizes.train:,} utterances, the same number of optimiser steps (earlier stages
        counted) and the same search: {len(RATE_FACTORS)} learning rates (a third of the recipe's
        own, its own, three times it) with seed 0, the best on {sizes.dev} development utterances;
        a recipe of two stages searches in each. {_describe_stages(plan)}Then
        {_describe_seeds(plan)}. Nothing is chosen on the test: {sizes.test} sentences by voices,
        rates and pitches of no training, clean and at 5 dB, and {feelings} more sentences in five
        emotions each. Sealed questions (\\*\\*) are in no training, no search and no development
        table; sealed voices and noise are not used here."""


_SCORES = """Scores are exact answers in percent, means over seeds and over the questions of a
    group; in brackets 95 % intervals that draw seeds and utterances anew. *Aligned*: the ten kinds
    of question that training may hold; *held-out* (\\*): three that it never asks; *sealed*
    (\\*\\*): three more. *Emotion*: how the speaker feels, which the words do not tell; *in its
    mood*: continuations and replies that fit the feeling. *Text bound* is the language model
    reading the true words, *cascade* reading those that the same Whisper heard, *shuffled* given
    another utterance."""


def _describe_stages(plan: Plan) -> str:
    stages = [one.title for one in plan.entrants.values() if one.is_stage]
    if not stages:
        return ""
    return f"Rows of earlier stages ({', '.join(stages)}) have taken fewer steps than others. "


def _describe_seeds(plan: Plan) -> str:
    seeds = f"seeds {', '.join(map(str, plan.seeds))}"
    if not plan.more_seeds:
        return seeds
    more = ", ".join(map(str, plan.more_seeds))
    return f"{seeds}, and {more} of the two recipes that are best on development data"


def _format_recipes(standing: Standing) -> str:
    told: dict[tuple[str, str], Told] = {}
    if standing.default is not None:
        rows = [row for row in standing.recipes.values() if row is not None]
        told = compare_rows(rows, standing.default)
    base = standing.default.title if standing.default else "the default"
    head = [*_score_heads(), *(f"held-out against {base}, {one}" for one in CONDITIONS)]
    lines = [
        [*_score_cells(name, row), *(_told_cell(told, row, one) for one in CONDITIONS)]
        for name, row in standing.recipes.items()
    ]
    lines += [[*_score_cells(row.title, row), "", ""] for row in standing.yardsticks]
    note = f"""Differences are paired by utterance; p is corrected for the number of differences in
        this table (Holm), and below {LEVEL} two are told apart. † training held a question of this
        group."""
    return _section("Recipes", _table(["", "seeds", *head], lines), _fill(note))


def _score_heads() -> list[str]:
    heads = [
        f"{group.replace('_', '-')}{MARKS[group]}, {c}" for group in GROUPS for c in CONDITIONS
    ]
    return [*heads, "emotion", "in its mood"]


def _score_cells(name: str, row: Row | None) -> list[str]:
    count = len(GROUPS) * len(CONDITIONS) + 2
    if row is None:
        return [f"`{name}`", *["-"] * (count + 1)]
    cells = [
        _cell(row.measure(group, condition)) + ("†" if _knew(row, group) else "")
        for group in GROUPS
        for condition in CONDITIONS
    ]
    seeds = str(len(row.tests)) if row.entrant else ""
    return [row.title, seeds, *cells, *map(_cell, emotion_scores(row))]


def _knew(row: Row, group: Group) -> bool:
    return group != "aligned" and bool(row.fits) and bool(row.knew(group))


def _cell(found: Estimate) -> str:
    # Seeds that were spread may leave what a share can be.
    low, high = max(found.ci_low, 0.0), min(found.ci_high, 1.0)
    return f"{100 * found.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _told_cell(told: dict[tuple[str, str], Told], row: Row | None, condition: str) -> str:
    if row is None or (one := told.get((row.title, condition))) is None:
        return ""
    return _difference(one)


def _difference(one: Told) -> str:
    low, high = 100 * one.difference.ci_low, 100 * one.difference.ci_high
    return f"{100 * one.difference.value:+.1f} [{low:+.1f}, {high:+.1f}], p {_p(one.corrected)}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _format_tasks(standing: Standing) -> str:
    groups = group_tasks()
    names = [(task, MARKS[group]) for group in GROUPS for task in groups[group]]
    rows = [*standing.rows.values(), *standing.yardsticks]
    parts = ["Means over seeds."]
    for condition in CONDITIONS:
        lines = [
            [row.title, *(f"{100 * row.scores([t], condition).mean():.1f}" for t, _ in names)]
            for row in rows
        ]
        head = ["", *(f"{task}{mark}" for task, mark in names)]
        parts += [f"### {condition[0].upper()}{condition[1:]}", _table(head, lines)]
    return _section("Question by question", *parts)


def _format_costs(standing: Standing) -> str:
    head = ["", "learning rate", "steps", "recovered", "top-1 agreement", "similarity"]
    head += ["trained weights", "operations, 10^12", "minutes", "CPU minutes", "text changed"]
    lines = [_cost_cells(standing, row) for row in standing.rows.values()]
    return _section("Meters and costs", _table(head, lines), _fill(_COSTS))


_COSTS = """Meters are of the last evaluation of training, on development data that is the same for
    all: how much of the way from not hearing to reading is gone, how often the likeliest next token
    is that of the one who reads, and how similar the layers are. Operations are counted by torch in
    single steps of the run, encoder and teacher too, times the number of steps; minutes are of
    training on one thread beside another run, and both count earlier stages. *Text changed*:
    written questions that are answered otherwise than before training; where no LoRA acts on text
    nothing can change."""


def _cost_cells(standing: Standing, row: Row) -> list[str]:
    assert row.entrant is not None and row.rate is not None
    stages = stages_of(row.entrant, standing.plan.entrants)
    kept = row.text_kept()
    meters = [row.mean_of("meters", key) for key in ("recovered", "agreement", "similarity")]
    return [
        row.title,
        f"{row.rate:g}",
        " + ".join(str(one.steps) for one in stages),
        *(f"{value:.3f}" for value in meters),
        f"{row.trained_weights():,}",
        f"{row.mean_of('costs', 'operations') / 1e12:.1f}",
        f"{row.mean_of('costs', 'seconds') / 60:.1f}",
        f"{row.mean_of('costs', 'cpu_seconds') / 60:.1f}",
        "nothing" if kept is None else f"{100 - 100 * kept.mean():.1f} %",
    ]


def _format_variants(standing: Standing) -> str:
    if not standing.variants:
        return ""
    lines = []
    for name, row in standing.variants.items():
        one = standing.plan.entrants[name]
        changed = "; ".join(f"`{change}`" for change in one.changes)
        lines.append([*_score_cells(name, row), f"`{one.recipe.stem}` with {changed}"])
    note = "Recipes with values changed, for the claims below, at the rate of their recipe."
    head = ["", "seeds", *_score_heads(), "what it is"]
    return _section("Variants", note, _table(head, lines))


def _format_claims(standing: Standing) -> str:
    judged = judge_claims(standing.rows, standing.claims)
    head = ["claimed", "by", "compared", "in", "difference", "seen"]
    note = """The difference is the first minus the second, clean and 5 dB together, its p corrected
        for the number of comparisons in this table. What others saw on real speech and large models
        need not hold here, nor the other way round."""
    table = _table(head, [_claim_cells(one) for one in judged])
    return _section("What is claimed, and what is seen", table, _fill(note))


_MEASURES = {
    "held_out": "held-out questions",
    "held_out_in_any_manner": "held-out questions; opening, capitals and full stop pass",
    "text_kept": "text answers as before training",
}


def _claim_cells(one: Judged) -> list[str]:
    pair = f"`{one.claim.better}`, `{one.claim.worse}`"
    told = "-" if one.told is None else _difference(one.told)
    measure = _MEASURES[one.claim.measure]
    return [one.claim.text, one.claim.source, pair, measure, told, f"**{one.verdict}**"]


def _format_search(standing: Standing) -> str:
    plan, lines = standing.plan, []
    for name, one in plan.entrants.items():
        if not one.is_recipe:
            continue
        runs, best = plan.search_runs(name), plan.best_rate(name)
        cells = [_search_cell(plan, run, chosen=run.rate == best) for run in runs]
        lines.append([one.title, *cells])
    head = ["", *(f"own rate x {factor:.2g}" for factor in RATE_FACTORS)]
    note = "Right answers to all development questions, in percent, seed 0; the chosen one is bold."
    return _section("The search", note, _table(head, lines))


def _search_cell(plan: Plan, run: Run, *, chosen: bool) -> str:
    score = plan.dev_score(run)
    if score is None:
        return "-"
    shown = f"{run.rate:g}: " + ("stopped" if score < 0 else f"{100 * score:.1f}")
    return f"**{shown}**" if chosen else shown


def _section(title: str, *parts: str) -> str:
    """A heading and what stands under it."""
    return "\n\n".join([f"## {title}", *(part.rstrip() for part in parts)])


def _fill(text: str) -> str:
    """Lines of 100 signs; a word broken at its hyphen would be shown as two."""
    return fill(" ".join(text.split()), 100, break_on_hyphens=False, break_long_words=False)


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
