"""Who takes part: recipes, their earlier stages, variants, and equal steps for all."""

from pathlib import Path

import pytest
from field import load_field, write_recipe

from blsp.errors import InputError
from blsp.shipped import find_shipped
from blsp.tiny.family.entrants import (
    CLAIMS,
    RECIPES,
    VARIANTS,
    choose_claims,
    load_entrants,
    stages_of,
)


def test_an_earlier_stage_is_known_by_the_folder_it_writes(tmp_path: Path) -> None:
    field = load_field(tmp_path)
    assert [one.name for one in stages_of(field["second"], field)] == ["first", "second"]
    assert field["first"].is_stage and not field["second"].is_stage
    assert list(field) == ["alone", "first", "second", "changed"]  # a stage before who needs it


def test_asked_for_alone_an_entrant_brings_its_stage(tmp_path: Path) -> None:
    assert list(load_field(tmp_path, names=["second"])) == ["first", "second"]


def test_a_variant_is_its_recipe_with_values_changed(tmp_path: Path) -> None:
    variant = load_field(tmp_path)["changed"]
    assert (variant.recipe.stem, variant.changes) == ("alone", ("loss.ctc=0.5",))
    assert not variant.is_recipe


def test_a_field_in_which_somebody_trains_longer_is_refused(tmp_path: Path) -> None:
    load_field(tmp_path)
    write_recipe(tmp_path, "alone", steps=7)
    with pytest.raises(InputError, match="found alone 7, second 6; make them equal"):
        load_entrants(folder=tmp_path, recipes=("alone", "first", "second"), variants=())


def test_a_stage_that_is_no_recipe_of_the_family_is_refused(tmp_path: Path) -> None:
    write_recipe(tmp_path, "second", begins_from="elsewhere")
    with pytest.raises(InputError, match="found 'runs/family/elsewhere/checkpoint'"):
        load_entrants(folder=tmp_path, recipes=("second",), variants=())


def test_an_unknown_name_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found 'alon'.*alone"):
        load_field(tmp_path, names=["alon"])


def test_every_claim_is_about_entrants_that_there_are() -> None:
    names = {*RECIPES, *(one.name for one in VARIANTS)}
    assert choose_claims(names) == list(CLAIMS)
    assert {one.recipe for one in VARIANTS} <= set(RECIPES)


def test_the_shipped_recipes_of_the_family_can_be_compared() -> None:
    """Those that there are; a variant needs its recipe."""
    shipped = [
        name for name in RECIPES if (find_shipped("recipes") / f"tiny/{name}.yaml").is_file()
    ]
    variants = [one for one in VARIANTS if one.recipe in shipped]
    names = [*shipped, *(one.name for one in variants)]
    assert list(load_entrants(names, recipes=shipped, variants=variants) if names else {}) == names
