"""Where the folders that travel with the package lie: recipes, data preparation and benchmarks.

In a checkout they stand beside `blsp/`; an installed package carries them inside itself, because
a wheel with a top-level package named `eval` would break other people's imports. This is the only
place that knows both layouts. A folder's name enters; paths, names and summaries leave.
"""

import ast
import shutil
from pathlib import Path
from typing import Literal

from blsp.errors import InputError, suggest

Folder = Literal["recipes", "data_prep", "eval"]

PACKAGE = Path(__file__).resolve().parent

MODELS = {
    "blsp/tiny-llm": PACKAGE / "tiny" / "weights" / "llm",
    "blsp/tiny-whisper": PACKAGE / "tiny" / "weights" / "whisper",
}
"""Foundation models that travel with the package, by names as on a hub: a recipe or checkpoint that
names them is right on every machine."""

LAUNCHES = "accelerate"
"""Folder beside the recipes with settings of `accelerate launch`: copied like them, not listed."""


def find_shipped(folder: Folder) -> Path:
    """Return the folder inside the installed package, or else the one beside it in a checkout."""
    inside, beside = PACKAGE / folder, PACKAGE.parent / folder
    for path in (inside, beside):
        if path.is_dir():
            return path
    raise InputError(f"expected the folder {inside} or {beside}, found neither; reinstall blsp")


def program_module(folder: Folder, name: str) -> str:
    """Return the module of a program: `eval.slu` in a checkout, `blsp.eval.slu` installed."""
    installed = find_shipped(folder).parent == PACKAGE
    return f"blsp.{folder}.{name}" if installed else f"{folder}.{name}"


def list_programs(folder: Folder) -> dict[str, str]:
    """Return name -> first line of the module docstring, for every program in the folder."""
    paths = sorted(find_shipped(folder).glob("*.py"))
    return {path.stem: _docstring_line(path) for path in paths if not path.stem.startswith("_")}


def list_recipes() -> dict[str, str]:
    """Return name -> first line of the header; a name is the path without `.yaml`."""
    return {name: line for name, line in _list_files().items() if Path(name).parts[0] != LAUNCHES}


def _list_files() -> dict[str, str]:
    """Recipes, and settings of launches."""
    root = find_shipped("recipes")
    paths = sorted(root.rglob("*.yaml"))
    return {
        path.relative_to(root).with_suffix("").as_posix(): _comment_line(path) for path in paths
    }


def copy_recipe(name: str, folder: Path) -> Path:
    """Copy a shipped recipe, or settings of a launch, into `folder`; return where they now lie.

    Raises:
        InputError: no such recipe, or a file of that name is already there.
    """
    recipes = _list_files()
    if name not in recipes:
        raise InputError(
            f"expected the name of a shipped recipe, found {name!r}; {suggest(name, recipes)}"
        )
    source = find_shipped("recipes") / f"{name}.yaml"
    target = folder / source.name
    if target.exists():
        raise InputError(f"expected no file {target}, found one; move it away or copy elsewhere")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return target


def _docstring_line(path: Path) -> str:
    # Parsed, not imported: a listing must not load what the programs load.
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return docstring.splitlines()[0] if docstring else ""


def _comment_line(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
