"""Every shipped recipe loads, claims nothing unfounded, and stands in the table."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from training import save_models, write_conversations

from blsp.behaviours import load_behaviours
from blsp.cli import COMMANDS, main
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


# --- what a comment says to do --------------------------------------------------------------------


# Recipe -> examples a step that its source states, as the batches, processes and their product say.
EFFECTIVE = {
    "blsp-llama2-7b": 768,
    "blsp-kd": 768,
    "blsp-emo-semantic": 768,
    "blsp-emo-emotion": 128,
    "ultravox": 192,
    "slm": 2400,
    "contrastive-pretrain": 20,
    "contrastive-finetune": 20,
    "diva": 512,
    "asr-only": 8,
    "inserter": 1024,
}


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_a_published_batch_is_that_of_the_recipe(recipe: Path) -> None:
    loaded, _ = load(recipe)
    if name(recipe) in EFFECTIVE:
        training = loaded.training
        examples = training.batch_examples * training.accumulation * (training.processes or 1)
        assert examples == EFFECTIVE[name(recipe)]
        # Most recordings of LibriSpeech take less than 15 s, so that batches are full.
        assert training.batch_seconds >= 15 * training.batch_examples


def comment(recipe: Path) -> str:
    """The comments below the header, as they are to be copied."""
    body = recipe.read_text(encoding="utf-8").partition("\n\n")[2]
    return "\n".join(line[4:] for line in body.splitlines() if line.startswith("#   "))


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_behaviours_in_a_comment_can_be_copied(recipe: Path, tmp_path: Path) -> None:
    found = re.search(r"^behaviours:\n(?: +.*\n?)+", comment(recipe), re.M)
    if found:
        (tmp_path / "behaviours.yaml").write_text(found[0], encoding="utf-8")
        assert load_behaviours(tmp_path / "behaviours.yaml").behaviours


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_every_command_in_a_comment_has_options_that_exist(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = comment(recipe).replace("\\\n", " ").splitlines()
    for command, *words in (
        shlex.split(line)[1:] for line in lines if line.split()[:1] == ["blsp"]
    ):
        assert command in COMMANDS
        parts = words[: 1 if command in ("data", "prep") else 0]
        with pytest.raises(SystemExit):
            main([command, *parts, "--help"])
        told = capsys.readouterr().out
        assert [word for word in words if word.startswith("--") and word not in told] == []
        if "--llm" in words:
            assert words[words.index("--llm") + 1] == load(recipe)[0].model.llm


# --- real sizes -----------------------------------------------------------------------------------


# Recipe -> weights of language model, encoder, adapter, LoRA. The first two are those of the cards
# of the models; 47.47, 19.6 and 89.4 million are published or derived for BLSP's adapter at these
# sizes, 50.3 million for Ultravox's.
COUNTS = {
    "starter": (494_032_768, 88_154_112, 19_601_920, 0),
    "blsp-llama2-7b": (6_738_415_616, 88_154_112, 47_467_520, 0),
    "qwen2.5-7b-4bit": (7_615_616_512, 636_784_640, 82_332_672, 0),
    "qwen2.5-7b-4bit-plora": (7_615_616_512, 636_784_640, 82_332_672, 40_370_176),
    "qwen2.5-7b-lora": (7_615_616_512, 636_784_640, 82_332_672, 40_370_176),
    "qwen3-8b-4bit": (8_190_735_360, 636_968_960, 89_412_608, 0),
    "blsp-kd": (7_721_324_544, 636_784_640, 162_665_729, 0),
    "blsp-emo-semantic": (7_721_324_544, 636_784_640, 89_412_608, 0),
    "blsp-emo-emotion": (7_721_324_544, 636_784_640, 89_412_608, 39_976_960),
    "ultravox": (8_030_261_248, 636_968_960, 50_343_936, 0),
    "slm": (7_615_616_512, 636_968_960, 57_078_273, 5_046_272),
    "contrastive-pretrain": (8_030_261_248, 307_216_384, 71_397_376, 0),
    "contrastive-finetune": (8_030_261_248, 307_216_384, 71_397_376, 0),
    "ctc-ot-pretrain": (7_615_616_512, 636_784_640, 82_332_672, 0),
    "diva": (8_030_261_248, 636_968_960, 110_216_448, 0),
    "asr-only": (7_615_616_512, 636_968_960, 33_562_880, 0),
    "inserter": (7_615_616_512, 636_968_960, 49_559_552, 40_370_176),
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
    labels, width = len(loaded.model.emotions), configs[0].hidden_size
    assert trained == sizes[1] + lora + labels * (width + 1)
    forecast = forecast_recipe(loaded, *configs)
    found = re.search(r"takes ([\d.]+) GB, forecast", " ".join(header(recipe)["needs"].split()))
    assert found and f"{forecast.total / 1e9:.1f}" == found[1]
    if loaded.training.batch_seconds == 80:  # 8 recordings of 10 s
        assert forecast.total < (16 if loaded.model.llm_bits == 4 else 40) * 2**30


# What a recipe is trained with here: tiny models, one process, three steps.
SMALL = """
data.train=[data/conversations.jsonl] data.dev=[] data.foreign=true
model.llm=llm model.encoder=whisper model.llm_bits=16
training.epochs=null training.steps=3 training.accumulation=1 training.warmup_steps=1
training.processes=null training.workers=0 training.dtype=fp32 training.trackers=[]
"""
AFTER = {
    "qwen2.5-7b-4bit-plora": "qwen2.5-7b-4bit",
    "blsp-emo-emotion": "blsp-emo-semantic",
    "contrastive-finetune": "contrastive-pretrain",
}
"""Recipe -> the one whose checkpoint it begins from."""


@pytest.mark.slow
@pytest.mark.parametrize("recipe", REAL, ids=name)
def test_a_recipe_of_real_size_trains_tiny_models(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_models(tmp_path)
    data = write_conversations(tmp_path / "data")
    for i, label in enumerate(("sad", "happy")):  # the others' emotion is not stated
        lines = data.read_text(encoding="utf-8").splitlines(keepends=True)
        lines[i] = lines[i].replace('"transcript"', f'"emotion": "{label}", "transcript"')
        data.write_text("".join(lines), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for one in filter(None, (AFTER.get(name(recipe)), name(recipe))):
        pretraining = load(ROOT / f"{one}.yaml")[0].loss.pretraining_steps
        wanted = [f"loss.pretraining_steps={min(pretraining, 1)}", *SMALL.split()]
        assert main(["train", str(ROOT / f"{one}.yaml"), *wanted]) == 0
        assert Path(f"runs/{one}/checkpoint/complete").exists()


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
