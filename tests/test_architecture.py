"""The shape of the code: imports point up one list, and what must never be written is not.

`MODULES` is the import order of the package. A module imports only those above it, inside functions
too; a folder counts as one module, and those in `FOLDERS` have orders of their own.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "blsp"

MODULES = [
    "errors",
    "shipped",
    "files",
    "config",
    "extensions",
    "hardware",
    "remote",
    "parquet",
    "archive",
    "container",
    "audio",
    "noise",
    "pauses",
    "rows",
    "manifest",
    "locking",
    "journal",
    "validation",
    "derivation",
    "statistics",
    "selection",
    "corpora",
    "conversion",
    "preparation",
    "cells",
    "shards",
    "columns",
    "hub",
    "pieces",
    "rendering",
    "provenance",
    "checkpoint",
    "model",
    "regions",
    "dataset",
    "sampler",
    "collator",
    "losses",
    "meters",
    "drawing",
    "prompts",
    "generation",
    "hearing",
    "endpoint",
    "arguments",
    "metrics",
    "alignment",
    "objectives",
    "caching",
    "optimizers",
    "guards",
    "trainer",
    "progress",
    "memory",
    "preflight",
    "recipe",
    "sizing",
    "replay",
    "train",
    "sft",
    "languages",
    "filters",
    "contexts",
    "behaviours",
    "authors",
    "continuation",
    "transcription",
    "generate",
    "tasks",
    "supervision",
    "prediction_log",
    "slices",
    "judgements",
    "results",
    "questions",
    "judging",
    "failures",
    "comparison",
    "cards",
    "systems",
    "testsets",
    "foreign",
    "whispers",
    "official",
    "benchmark",
    "asking",
    "running",
    "charts",
    "page",
    "robustness",
    "statistics_page",
    "report",
    "comparison_page",
    "reporting",
    "evaluate",
    "verify",
    "export",
    "tiny",
    "terminal",
    "inspection",
    "data",
    "fetch",
    "findings",
    "readiness",
    "doctor",
    "cli",
    "__main__",
]
MODEL = [
    "configuration",
    "encoder",
    "firing",
    "cformer",
    "qformer",
    "adapter",
    "placeholders",
    "lora",
    "foundations",
    "sharding",
    "restoring",
    "head",
    "generating",
    "modeling",
    "processing",
    "loading",
    "importing",
]
LOSSES = [
    "sums",
    "response",
    "speech",
    "transport",
    "states",
]
TINY = [
    "espeak",
    "world",
    "voices",
    "speech",
    "fitting",
    "mel",
    "store",
    "whisper",
    "llm",
    "pretrain",
    "gates",
    "build",
    "questions",
    "quickstart",
    "family",
]
FAMILY = [
    "rewording",
    "interleaving",
    "data",
    "entrants",
    "costs",
    "runs",
    "scoring",
    "record",
    "schedule",
    "standings",
    "report",
    "figure",
    "stages",
    "__main__",
]
FOLDERS = {"model": MODEL, "losses": LOSSES, "tiny": TINY, "tiny/family": FAMILY}
EDGE = ("data_prep", "eval")
BANNED_NAMES = {"utils", "common", "helpers", "misc", "base", "types"}

SOURCES = [path for folder in ("blsp", *EDGE) for path in sorted((ROOT / folder).rglob("*.py"))]
PACKAGE_SOURCES = [path for path in SOURCES if PACKAGE in path.parents]


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.AST) -> Iterator[str]:
    """Every imported dotted name, wherever the import stands: `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write the import in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(unit: str, tree: ast.AST, package: str, order: list[str]) -> list[str]:
    """What a unit of `package` imports from the same package without it standing above."""
    allowed = set(order[: order.index(unit)]) | {unit, "__version__"}
    prefix = f"{package}."
    inner = (name.removeprefix(prefix) for name in imports(tree) if name.startswith(prefix))
    return [name for name in inner if name.split(".")[0] not in allowed]


@pytest.mark.parametrize("path", PACKAGE_SOURCES, ids=label)
def test_a_module_imports_only_those_above_it(path: Path) -> None:
    unit = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if unit == "__init__":
        return  # it only names the public API, which is looked up lazily
    assert unit in MODULES, f"give {unit} its place in MODULES"
    assert violations(unit, syntax(path), "blsp", MODULES) == []


INSIDE = [
    (folder, path)
    for folder in FOLDERS
    for path in sorted((PACKAGE / folder).glob("*.py"))
    if path.stem != "__init__"
]


@pytest.mark.parametrize(("folder", "path"), INSIDE, ids=[label(path) for _, path in INSIDE])
def test_a_folder_is_ordered_inside(folder: str, path: Path) -> None:
    order, package = FOLDERS[folder], f"blsp.{folder.replace('/', '.')}"
    assert path.stem in order, f"give {path.stem} its place in the order of its folder"
    assert violations(path.stem, syntax(path), package, order) == []


@pytest.mark.parametrize(("folder", "order"), [(".", MODULES), *FOLDERS.items()])
def test_what_has_a_place_is_there(folder: str, order: list[str]) -> None:
    there = {path.stem for path in (PACKAGE / folder).iterdir()}
    assert there.issuperset(order)
    assert len({*order}) == len(order)


def test_the_check_sees_a_downward_import_inside_a_function() -> None:
    tree = ast.parse("def f():\n    from blsp import train\n    from blsp.audio import load")
    assert violations("manifest", tree, "blsp", MODULES) == ["train"]
    assert violations("errors", tree, "blsp", MODULES) == ["train", "audio.load"]


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_the_edges_import_the_package_and_the_package_never_imports_them(path: Path) -> None:
    top_level = {name.split(".")[0] for name in imports(syntax(path))}
    assert top_level.isdisjoint({*EDGE, "tests", "install"})


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_a_file_opens_with_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(syntax(path))
    assert docstring, "write a module docstring"
    assert docstring[0].isupper() or docstring[0] == "`"


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_a_file_is_named_for_what_it_holds(path: Path) -> None:
    assert path.stem not in BANNED_NAMES


def unsafe(tree: ast.AST) -> list[str]:
    """Calls that could run code hidden in a file, and code fetched from a hub."""
    found = [name for name in imports(tree) if name.split(".")[0] in {"pickle", "dill", "joblib"}]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        true = {
            keyword.arg
            for keyword in node.keywords
            if isinstance(keyword.value, ast.Constant) and keyword.value.value is True
        }
        if called == "torch.load" and "weights_only" not in true:
            found.append(called)
        if called in {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec"}:
            found.append(called)
        found += [name for name in true if name == "trust_remote_code"]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_no_file_can_run_code_on_loading(path: Path) -> None:
    assert unsafe(syntax(path)) == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import pickle", ["pickle"]),
        ("torch.load(p)", ["torch.load"]),
        ("torch.load(p, weights_only=True)", []),
        ("A.from_pretrained(p, trust_remote_code=True)", ["trust_remote_code"]),
        ("yaml.load(p)", ["yaml.load"]),
        ("model.eval()", []),
    ],
)
def test_the_check_sees_unsafe_loading(code: str, found: list[str]) -> None:
    assert unsafe(ast.parse(code)) == found
