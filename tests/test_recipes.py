"""Every shipped recipe loads, claims nothing unfounded, and stands in the table."""

import re
from pathlib import Path
from typing import Any

import pytest

from blsp.model import LoraConfig
from blsp.model.lora import is_lora
from blsp.recipe import Header, Recipe, RecipeModel, describe_serving, load_recipe
from blsp.sft import TextRecipe
from blsp.shipped import list_recipes
from blsp.sizing import build_meta, find_configs, forecast_recipe

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


def load(recipe: Path) -> tuple[Any, Header]:
    """A recipe as its own command loads it."""
    if header(recipe)["command"].startswith("blsp sft "):
        return load_recipe(recipe, schema=TextRecipe)
    return load_recipe(recipe)


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_a_recipe_loads_as_training_loads_it(recipe: Path) -> None:
    _, loaded = load(recipe)
    assert loaded.expected == header(recipe)["expected"]


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_the_header_says_what_a_user_must_know(recipe: Path) -> None:
    entries = header(recipe)
    assert list(entries) == ["needs", "command", "serves with", "expected"]
    for word in ("download", "disk", "GPU", " h\\b", "gated", "licence"):
        assert re.search(word, entries["needs"]), word
    verb = entries["command"].partition(f" {name(recipe)}")[0]
    assert verb in ("blsp train", "blsp sft")


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_what_serves_the_result_follows_from_what_is_trained(recipe: Path) -> None:
    loaded, told = load(recipe)
    if isinstance(loaded, Recipe):
        assert told.serves_with == describe_serving(loaded.model)
    else:
        assert "vLLM" in told.serves_with and "hears nothing" in told.serves_with


def test_lora_at_speech_alone_is_never_said_to_serve_elsewhere() -> None:
    model = RecipeModel(llm="llm", encoder="whisper", lora=LoraConfig(scope="speech"))
    assert "vLLM" not in describe_serving(model) and "only" in describe_serving(model)


# --- real sizes -----------------------------------------------------------------------------------


# Recipe -> weights of language model, encoder, adapter, LoRA. The first two are those of the cards
# of the models; 47.47 and 19.6 million are published or derived for BLSP's adapter at these sizes.
COUNTS = {
    "starter": (494_032_768, 88_154_112, 19_601_920, 0),
    "blsp-llama2-7b": (6_738_415_616, 88_154_112, 47_467_520, 0),
    "qwen2.5-7b-4bit": (7_615_616_512, 636_784_640, 82_332_672, 0),
    "qwen2.5-7b-4bit-plora": (7_615_616_512, 636_784_640, 82_332_672, 40_370_176),
    "qwen2.5-7b-lora": (7_615_616_512, 636_784_640, 82_332_672, 40_370_176),
    "qwen3-8b-4bit": (8_190_735_360, 636_968_960, 89_412_608, 0),
}
REAL = [recipe for recipe in RECIPES if name(recipe) in COUNTS]


def test_every_recipe_for_speech_of_real_size_is_built() -> None:
    others = [r for r in RECIPES if r not in REAL and not name(r).startswith("tiny/")]
    assert [name(recipe) for recipe in others] == ["llama2-7b-chat"]
    assert len(REAL) == len(COUNTS)


@pytest.mark.parametrize("recipe", REAL, ids=name)
def test_a_recipe_of_real_size_builds_and_takes_what_its_header_says(recipe: Path) -> None:
    # Its own language model is one that the recipe before it writes.
    base = ["model.llm=meta-llama/Llama-2-7b-hf"] if "llama2" in name(recipe) else []
    loaded, _ = load_recipe(recipe, base)
    configs = find_configs(loaded)
    model = build_meta(loaded, *configs)
    language_model: Any = model.model.language_model
    lora = sum(p.numel() for n, p in language_model.named_parameters() if is_lora(n))
    parts = model.model.audio_tower, model.model.adapter
    sizes = [sum(p.numel() for p in part.parameters()) for part in parts]
    base = sum(p.numel() for p in language_model.parameters()) - lora
    assert (base, *sizes, lora) == COUNTS[name(recipe)]
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == sizes[1] + lora
    forecast = forecast_recipe(loaded, *configs)
    found = re.search(r"takes ([\d.]+) GB, forecast", " ".join(header(recipe)["needs"].split()))
    assert found and f"{forecast.total / 1e9:.1f}" == found[1]
    if loaded.training.batch_seconds == 80:  # 8 recordings of 10 s
        assert forecast.total < (16 if loaded.model.llm_bits == 4 else 40) * 2**30


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_a_result_is_measured_or_published_by_others_or_not_known(recipe: Path) -> None:
    forms = (r"not known", r"published, .+, not reproduced", r".*\d.*; measured with: \S.*")
    assert any(re.fullmatch(form, header(recipe)["expected"]) for form in forms)


def test_the_table_has_one_row_a_recipe_with_its_result_and_command() -> None:
    rows = table()
    assert sorted(rows) == sorted(name(recipe) for recipe in RECIPES)
    for recipe in RECIPES:
        entries = header(recipe)
        _, result, _, command = rows[name(recipe)]
        assert (result, command) == (entries["expected"], f"`{entries['command']}`")


def test_every_real_recipe_has_a_row_among_the_results() -> None:
    """Empty or filled, with the command of its header."""
    text = (ROOT.parent / "docs" / "results" / "real.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line[:1] == "|"}
    real = [recipe for recipe in RECIPES if not name(recipe).startswith("tiny/")]
    assert sorted(set(rows) - {"recipe", "---"}) == sorted(name(recipe) for recipe in real)
    for recipe in real:
        assert f"`{header(recipe)['command']}`" in rows[name(recipe)]
