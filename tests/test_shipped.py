"""The folders beside the package, laid out as in a checkout and as in an installation."""

from pathlib import Path

import pytest

from blsp import shipped
from blsp.errors import InputError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "blsp"
    package.mkdir()
    monkeypatch.setattr(shipped, "PACKAGE", package)
    return package


def add(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_checkout_has_the_folders_beside_the_package(package: Path) -> None:
    add(package.parent / "eval" / "slu.py")
    assert shipped.find_shipped("eval") == package.parent / "eval"
    assert shipped.program_module("eval", "slu") == "eval.slu"


def test_an_installation_has_them_inside(package: Path) -> None:
    add(package / "eval" / "slu.py")
    assert shipped.find_shipped("eval") == package / "eval"
    assert shipped.program_module("eval", "slu") == "blsp.eval.slu"


def test_a_broken_installation_says_so(package: Path) -> None:
    with pytest.raises(InputError, match="found neither; reinstall blsp"):
        shipped.find_shipped("recipes")


def test_programs_are_listed_with_their_first_line_and_without_the_package_itself(
    package: Path,
) -> None:
    add(package / "data_prep" / "__init__.py", '"""Programs."""')
    add(package / "data_prep" / "toy.py", '"""Toy corpus.\n\nMore."""\nraise SystemError')
    add(package / "data_prep" / "bare.py")
    assert shipped.list_programs("data_prep") == {"bare": "", "toy": "Toy corpus."}


def test_recipes_are_listed_with_their_header(package: Path) -> None:
    add(package / "recipes" / "a.yaml", "# Conv adapter\nname: a\n")
    add(package / "recipes" / "tiny" / "b.yaml", "name: b\n")
    assert shipped.list_recipes() == {"a": "Conv adapter", "tiny/b": ""}


def test_settings_of_a_launch_are_copied_like_a_recipe_but_are_none(
    package: Path, tmp_path: Path
) -> None:
    add(package / "recipes" / "a.yaml", "# Conv adapter\n")
    add(package / "recipes" / "accelerate" / "untested" / "c.yaml", "# One process a GPU\n")
    assert shipped.list_recipes() == {"a": "Conv adapter"}
    copy = shipped.copy_recipe("accelerate/untested/c", tmp_path / "mine")
    assert copy.read_text() == "# One process a GPU\n"


def test_a_recipe_is_copied_once(package: Path, tmp_path: Path) -> None:
    add(package / "recipes" / "tiny" / "b.yaml", "name: b\n")
    copy = shipped.copy_recipe("tiny/b", tmp_path / "mine")
    assert copy == tmp_path / "mine" / "b.yaml"
    assert copy.read_text() == "name: b\n"
    with pytest.raises(InputError, match=f"expected no file {copy}, found one"):
        shipped.copy_recipe("tiny/b", tmp_path / "mine")


def test_an_unknown_recipe_gets_the_nearest_name(package: Path, tmp_path: Path) -> None:
    add(package / "recipes" / "tiny" / "b.yaml")
    with pytest.raises(InputError, match=r"found 'tiny/c'; did you mean 'tiny/b'\?"):
        shipped.copy_recipe("tiny/c", tmp_path)
