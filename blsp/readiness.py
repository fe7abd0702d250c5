"""Whether a recipe can be run here: packages, base models, data, disk and memory.

`blsp doctor RECIPE` prints it. The hub is asked for those base models alone that are not here, and
gives no more of them than sizes and configurations: enough to forecast the memory before gigabytes
are downloaded. A recipe enters; findings leave.
"""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from blsp.checkpoint import is_complete
from blsp.errors import InputError
from blsp.fetch import (
    AnyRecipe,
    BaseModel,
    Download,
    FetchError,
    cache_folder,
    describe_size,
    find_base,
    free_bytes,
    get_file,
    look_up,
    nearest_folder,
    read_recipe,
)
from blsp.findings import Finding
from blsp.hardware import find_training_memory
from blsp.memory import Forecast
from blsp.model.foundations import read_llm_config, read_whisper_config
from blsp.preflight import checkpoint_bytes
from blsp.recipe import Recipe
from blsp.sizing import forecast_recipe
from blsp.train import import_extensions, resolve
from blsp.trainer import is_there

Located = tuple[BaseModel, Path | Download | InputError]


def check_recipe(name: str, overrides: Sequence[str]) -> list[Finding]:
    """One finding for each thing that a recipe needs.

    Raises:
        InputError: there is no such recipe, or a value in it cannot work.
    """
    recipe = read_recipe(name, overrides)
    bases = list(look_up(recipe, ask="if needed"))
    downloads = sum(found.size for _, found in bases if isinstance(found, Download))
    forecast, checkpoints = None, None
    if isinstance(recipe, Recipe):
        forecast = forecast_bases(resolve(recipe), bases)
        if isinstance(forecast, Forecast):
            checkpoints = checkpoint_bytes(forecast.gradients // 4, recipe.training)
    return [
        *check_packages(recipe),
        *(check_base(base, found, name) for base, found in bases),
        *check_data(recipe),
        *check_disk({cache_folder(): downloads, recipe.training.output: checkpoints}),
        check_memory(recipe, forecast),
    ]


def check_packages(recipe: AnyRecipe) -> Iterator[Finding]:
    """What this recipe imports and others do not."""
    if isinstance(recipe, Recipe) and recipe.model.llm_bits < 16:
        name = "bitsandbytes"
        why = f"for model.llm_bits: {recipe.model.llm_bits}"
        if find_spec(name):
            yield Finding(state="ok", name=name, found="installed", advice=why)
        else:
            yield Finding(state="bad", name=name, found="missing", advice=f"pip install it, {why}")
    try:
        if isinstance(recipe, Recipe):
            import_extensions(recipe)
        for tracker in recipe.training.trackers:
            is_there(tracker)
    except InputError as error:
        yield Finding(state="bad", name="packages", found=str(error))


def check_base(base: BaseModel, found: Path | Download | InputError, name: str) -> Finding:
    """Where a base model is; ``name`` is what the user calls the recipe."""
    if isinstance(found, Path):
        where = "lies here" if find_base(base) else f"in the cache, {found.name[:8]}"
        return Finding(state="ok", name=base.source, found=where)
    fetch = f"blsp fetch {name}"
    if isinstance(found, Download):
        size = f"{describe_size(found.size)} to download"
        return Finding(state="note", name=base.source, found=size, advice=fetch)
    if isinstance(found, FetchError):
        advice = f"{found.advice}, then {fetch}"
        why = f"not here: {found.found}"
        return Finding(state="bad", name=base.source, found=why, advice=advice)
    return Finding(state="bad", name=base.source, found=str(found))


def check_data(recipe: AnyRecipe) -> Iterator[Finding]:
    """Whether the files are there that the recipe reads; what is in them is not looked at."""
    for key, paths in (("data.train", recipe.data.train), ("data.dev", recipe.data.dev)):
        missing = [path for path in paths if not path.is_file()]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            advice = "write conversations with `blsp continuations`, or change the recipe"
            yield Finding(state="bad", name=key, found=f"no {missing[0]}{more}", advice=advice)
        elif paths:
            yield Finding(state="ok", name=key, found=", ".join(map(str, paths)))
    start = recipe.model.init_from if isinstance(recipe, Recipe) else None
    if start is not None and not is_complete(Path(start)):
        advice = "expected the folder of a finished checkpoint"
        yield Finding(state="bad", name="model.init_from", found=f"none in {start}", advice=advice)


def check_disk(needs: dict[Path, int | None]) -> Iterator[Finding]:
    """Whether the disks of some folders have room for so many bytes each; None is not known."""
    disks: dict[int, Path] = {}
    needed: dict[int, int] = {}
    for folder, size in needs.items():
        there = nearest_folder(folder)
        disk = there.stat().st_dev
        disks.setdefault(disk, there)
        needed[disk] = needed.get(disk, 0) + (size or 0)
    about = "at least " if None in needs.values() else ""
    for disk, there in disks.items():
        free = free_bytes(there)
        size = f"{about}{describe_size(needed[disk])}"
        found = f"{size} to download and for checkpoints, {describe_size(free)} free in {there}"
        if needed[disk] > free:
            advice = "free some, or set HF_HOME or training.output to a folder with room"
            yield Finding(state="bad", name="disk", found=found, advice=advice)
        else:
            yield Finding(state="ok", name="disk", found=found)


def forecast_bases(recipe: Recipe, bases: list[Located]) -> Forecast | InputError | None:
    """Forecast the memory of a step from configurations alone.

    An error is why the models cannot work; None is returned where a configuration cannot be had.
    """
    # The last language model is the one that LoRA weights are for.
    named = {base.what: (base.source, found) for base, found in bases}
    (llm, llm_found), (encoder, encoder_found) = named["language model"], named["Whisper"]
    try:
        llm_folder, encoder_folder = config_folder(llm_found), config_folder(encoder_found)
        if llm_folder is None or encoder_folder is None:
            return None
        llm_config = read_llm_config(llm_folder, llm)
        return forecast_recipe(recipe, llm_config, read_whisper_config(encoder_folder, encoder))
    except InputError as error:
        return error


def config_folder(found: Path | Download | InputError) -> Path | None:
    """The folder with a model's config.json, which is downloaded if need be; None if there is none.

    An openai-whisper file has its configuration inside.
    """
    if isinstance(found, Download):
        return get_file(found, "config.json").parent
    return found if isinstance(found, Path) and found.is_dir() else None


def check_memory(recipe: AnyRecipe, forecast: Forecast | InputError | None) -> Finding:
    """Whether a step fits into the memory of what would train here."""
    if isinstance(forecast, InputError):
        return Finding(state="bad", name="base models", found=str(forecast))
    if forecast is None or not isinstance(recipe, Recipe):
        found = "not forecast: it takes config.json of a language model and of a Whisper"
        return Finding(state="note", name="memory", found=found)
    device, room = find_training_memory()
    found = f"{describe_size(forecast.total)} forecast, {device} has {describe_size(room)}"
    if forecast.total <= room:
        return Finding(state="ok", name="memory", found=found)
    ways = ["a lower training.batch_seconds"]
    if not recipe.training.gradient_checkpointing:
        ways.insert(0, "training.gradient_checkpointing=true")
    if recipe.model.llm_bits > 4:
        ways.insert(0, "model.llm_bits=4")
    return Finding(state="bad", name="memory", found=found, advice=f"try {', '.join(ways)}")
