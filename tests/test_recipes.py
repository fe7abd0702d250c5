"""Every shipped recipe loads, claims nothing unfounded, and stands in the table."""

import re
from pathlib import Path

import pytest

from blsp.recipe import load_recipe
from blsp.shipped import list_recipes

ROOT = Path(__file__).resolve().parent.parent / "recipes"
RECIPES = [ROOT / f"{name}.yaml" for name in list_recipes()]


def name(recipe: Path) -> str:
    return recipe.relative_to(ROOT).with_suffix("").as_posix()


def header(recipe: Path) -> dict[str, str]:
    """Key -> text of the comment at the top, continuation lines joined."""
    comment = recipe.read_text(encoding="utf-8").partition("\n\n")[0]
    lines = [line.removeprefix("#") for line in comment.splitlines()]
    joined = re.sub(r"\n {2,}", " ", "\n".join(line.removeprefix(" ") for line in lines))
    pairs = (line.partition(": ") for line in joined.splitlines()[1:])
    return {key: text for key, _, text in pairs}


def table() -> dict[str, list[str]]:
    """Recipe -> the cells behind its name in recipes/README.md."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "](" in line]
    return {row[0].removeprefix("[").partition("]")[0]: row[1:] for row in rows if len(row) == 5}


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_a_recipe_loads_as_training_loads_it(recipe: Path) -> None:
    _, loaded = load_recipe(recipe)
    assert loaded.expected == header(recipe)["expected"]


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_the_header_says_what_a_user_must_know(recipe: Path) -> None:
    entries = header(recipe)
    assert list(entries) == ["needs", "command", "serves with", "expected"]
    for word in ("download", "disk", "GPU", " h ", "gated", "licence"):
        assert word in entries["needs"]
    assert entries["command"] == f"blsp train {name(recipe)}"


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_a_result_is_measured_or_published_by_others_or_not_known(recipe: Path) -> None:
    forms = (r"not known", r"published, .+, not reproduced", r".*\d.*; measured with: \S.*")
    assert any(re.fullmatch(form, header(recipe)["expected"]) for form in forms)


def test_the_table_has_one_row_a_recipe_with_its_result_and_command() -> None:
    rows = table()
    assert sorted(rows) == [name(recipe) for recipe in RECIPES]
    for recipe in RECIPES:
        entries = header(recipe)
        _, result, _, command = rows[name(recipe)]
        assert (result, command) == (entries["expected"], f"`{entries['command']}`")
