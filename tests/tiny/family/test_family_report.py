"""The page: every row and claim, its numbers from results alone, dashes where they lack."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from field import load_field, make_marks, make_result, write_result

from blsp.errors import InputError
from blsp.results import SPEECH
from blsp.tiny.family.data import CLEAN
from blsp.tiny.family.entrants import Claim
from blsp.tiny.family.report import collect, format_page
from blsp.tiny.family.runs import Comparison, Run
from blsp.tiny.family.schedule import Job, Plan, Results
from blsp.tiny.family.scoring import compute_dev_score
from blsp.tiny.family.stages import write_report
from blsp.tiny.family.standings import Row, compare_rows, judge_claims

CLAIMS = (
    Claim(text="chains help", source="one", better="second", worse="alone"),
    Claim(text="chains hurt", source="another", better="alone", worse="second"),
    Claim(text="stages are enough", source="a third", better="first", worse="missing"),
    Claim(text="nothing matters", source="a fourth", better="alone", worse="changed"),
)
SHARES = {"alone": 0.2, "first": 0.5, "second": 0.9, "changed": 0.2}


@pytest.fixture
def shared(tmp_path: Path) -> Comparison:
    return Comparison(entrants=load_field(tmp_path / "recipes"), out=tmp_path / "out")


def fill(shared: Comparison, names: Any = SHARES) -> Plan:
    """Results of everything that some entrants need."""
    plan = Plan(entrants=shared.entrants, lookup=Results(shared), more_seeds=())
    write_result(shared, job := Job(what="yardsticks"), make_result(job, 0.0))
    for name in names:
        for rate in (1e-3, 3e-3, 9e-3):
            for seed in (0, 1, 2) if rate == 3e-3 else (0,):
                run = Run(entrant=name, rate=rate, seed=seed)
                share = SHARES[name] if rate == 3e-3 else 0.0
                whats: Any = ("fit", "test") if rate == 3e-3 else ("fit",)
                for what in whats:
                    write_result(shared, job := Job(what=what, run=run), make_result(job, share))
    return plan


def section(page: str, title: str) -> list[list[str]]:
    """The cells of the table under a heading, by line."""
    text = page.partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_entrant_has_its_row_and_every_table_its_columns(shared: Comparison) -> None:
    page = format_page(collect(fill(shared), shared.sizes, "alone", CLAIMS))
    yardsticks = ["text bound", "cascade", "shuffled_text"]
    recipes = ["`alone`", "`first`", "`second`"]
    assert [row[0] for row in section(page, "Recipes")] == recipes + yardsticks
    assert [row[0] for row in section(page, "Variants")] == ["`changed`"]
    assert [row[0] for row in section(page, "Meters and costs")] == [*recipes, "`changed`"]
    assert [row[0] for row in section(page, "The search")] == recipes
    assert "\n\n\n" not in page
    assert "earlier stages (`first`) have taken fewer steps" in " ".join(page.split())
    for table in page.split("\n\n"):
        lines = [line for line in table.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1
    prose = [line for line in page.splitlines() if not line.startswith("|")]
    assert max(map(len, prose)) <= 100 and not [line for line in prose if "  " in line]


def test_scores_and_costs_are_those_of_the_results(shared: Comparison) -> None:
    plan = fill(shared)
    page = format_page(collect(plan, shared.sizes, "alone", CLAIMS))
    marks = [make_marks("test", 0.9, seed=seed)["exact"][CLEAN] for seed in (0, 1, 2)]
    held_out = ("translate_de", "intent", "reply")
    right = np.mean([[m[kind].count("1") / 20 for kind in held_out] for m in marks])
    (second,) = [row for row in section(page, "Recipes") if row[0] == "`second`"]
    assert second[1] == "3" and second[4].startswith(f"{100 * right:.1f} [")
    (costs,) = [row for row in section(page, "Meters and costs") if row[0] == "`second`"]
    assert costs[1:6] == ["0.003", "2 + 4", "0.900", "0.800", "0.700"]
    assert costs[6:] == ["7", "2.0", "2.0", "1.0", "nothing"]  # both stages' costs


def test_claims_are_put_to_the_rows(shared: Comparison) -> None:
    page = format_page(collect(fill(shared), shared.sizes, "alone", CLAIMS))
    table = section(page, "What is claimed, and what is seen")
    assert [row[0] for row in table] == [one.text for one in CLAIMS]
    assert [row[-1].strip("*") for row in table] == [
        "agrees",
        "disagrees",
        "not run yet",
        "not told apart",
    ]
    assert table[0][4].startswith("+") and table[1][4].startswith("-") and table[2][4] == "-"
    assert table[0][4].rpartition("p ")[2] == table[1][4].rpartition("p ")[2]


def test_a_page_can_be_written_before_all_is_run(shared: Comparison) -> None:
    plan = fill(shared, ["alone"])
    page = format_page(collect(plan, shared.sizes, "alone", CLAIMS))
    assert "Still to come: first, second, changed." in page
    rows = {row[0]: row for row in section(page, "Recipes")}
    assert set(rows["`second`"][1:10]) == {"-"} and rows["`alone`"][1] == "3"


def test_page_and_figure_are_written_and_without_results_refused(
    shared: Comparison, tmp_path: Path
) -> None:
    empty = Plan(entrants=shared.entrants, lookup=Results(shared))
    with pytest.raises(InputError, match="expected runs that are scored on the test"):
        write_report(empty, shared, tmp_path, "alone")
    page = write_report(fill(shared), shared, tmp_path / "docs", "alone")
    assert "# The family" in page.read_text(encoding="utf-8")
    assert (tmp_path / "docs" / "family.png").read_bytes().startswith(b"\x89PNG")


# --- numbers --------------------------------------------------------------------------------------


def make_row(title: str, share: float, **more: Any) -> Row:
    tests = tuple({SPEECH: make_marks("test", share, n=100, seed=s), **more} for s in range(3))
    return Row(title=title, tests=tests)


def test_differences_are_corrected_for_their_number() -> None:
    default, other, far = (
        make_row(name, share) for name, share in zip("abc", (0.5, 0.52, 0.9), strict=True)
    )
    told = compare_rows([default, other, far], default)
    assert set(told) == {(title, condition) for title in "bc" for condition in ("clean", "5 dB")}
    assert told["c", CLEAN].corrected < 0.01 < told["b", CLEAN].corrected
    assert told["c", CLEAN].corrected >= told["c", CLEAN].difference.p_value


def test_text_that_nothing_can_change_is_kept() -> None:
    kept = {"who": "1" * 100, "intent": "1" * 50 + "0" * 50}
    claim = Claim(text="", source="", better="frozen", worse="moved", measure="text_kept")
    rows = {"frozen": make_row("f", 0.5), "moved": make_row("m", 0.5, text_kept=kept)}
    (judged,) = judge_claims(rows, [claim])
    assert judged.told is not None
    assert judged.told.difference.value == pytest.approx(0.25)
    assert judged.verdict == "agrees"


def test_the_development_score_is_the_share_of_right_answers() -> None:
    result = {SPEECH: {"exact": {CLEAN: {"who": "1100", "when": "1000"}, "emotions": {"e": "1"}}}}
    assert compute_dev_score(result) == 4 / 9
