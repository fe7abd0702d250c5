"""Who takes part in the comparison of methods, and what others claim of them.

An entrant is a shipped recipe, or a variant of one: the same recipe with a few values changed, for
a question that two recipes cannot answer because they differ in more than one thing. A recipe that
begins from the result of another (`model.init_from`) makes that one its earlier stage, and its
steps are counted. Names enter; `Entrant`s leave, and refused is a field in which somebody trains
longer.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from blsp.errors import InputError, suggest
from blsp.recipe import load_recipe
from blsp.shipped import find_shipped
from blsp.trainer import FINAL_FOLDER

FOLDER = Path("runs/family")
"""Where the recipes of the family expect their data."""
DEFAULT = "ctc_kl"
"""What the others are compared with: the quickstart's method, but for optimal transport."""
BASE = "ultravox_style"
"""What variants are variants of: KL on a fixed-rate adapter, without anything before it."""

RECIPES = (
    "blsp",
    "blsp_kd",
    "blsp_emo_semantic",
    "blsp_emo_emotion",
    "ultravox_style",
    "slm_style",
    "contrastive_pretrain",
    "contrastive_finetune",
    "ctc_ot_pretrain",
    "diva_style",
    "asr_only",
    "interleaved",
    "ctc_kl",
)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A recipe with values changed."""

    name: str
    recipe: str
    changes: tuple[str, ...]
    """`key=value`, as on the command line."""


def _trained_on(name: str) -> str:
    return f"data.train={json.dumps([str(FOLDER / 'conversations' / f'train-{name}.jsonl')])}"


VARIANTS = (
    Variant(name="continuation_alone", recipe=BASE, changes=(_trained_on("continue"),)),
    Variant(name="diverse_behaviours", recipe=BASE, changes=(_trained_on("diverse"),)),
    Variant(name="own_answers", recipe="blsp", changes=(_trained_on("diverse"),)),
    Variant(
        name="foreign_answers",
        recipe="blsp",
        changes=(_trained_on("foreign"), "data.foreign=true"),
    ),
    Variant(
        name="lora_kl",
        recipe=BASE,
        changes=("model.lora={scope: all}", "loss.response_kl=1.0", "loss.response_ce=0.0"),
    ),
    Variant(
        name="lora_ce",
        recipe=BASE,
        changes=("model.lora={scope: all}", "loss.response_kl=0.0", "loss.response_ce=1.0"),
    ),
    Variant(
        name="conv",
        recipe=BASE,
        changes=("model.adapter={kind: conv, norm_init: 0.09}",),
    ),
    Variant(
        name="cif",
        recipe=BASE,
        changes=(
            "model.adapter={kind: cformer, pre_layers: 2, post_layers: 2, norm_init: 0.09}",
            "loss.cif_quantity=1.0",
        ),
    ),
    Variant(name="no_summary", recipe=DEFAULT, changes=("model.adapter.summary=0",)),
    Variant(name="no_cosine", recipe="slm_style", changes=("loss.hidden_cosine=0.0",)),
    Variant(
        name="lora_rank_16",
        recipe="slm_style",
        changes=("model.lora={scope: all, rank: 16, alpha: 16}",),
    ),
)

Measure = Literal["held_out", "held_out_in_any_manner", "text_kept"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What somebody says: one entrant is better than another in one measure."""

    text: str
    source: str
    better: str
    worse: str
    measure: Measure = "held_out"


CLAIMS = (
    Claim(
        text="diverse behaviours transfer to untrained tasks, continuation alone poorly",
        source="Maum AI 2026, instruction categories 1 to 6",
        better="diverse_behaviours",
        worse="continuation_alone",
    ),
    Claim(
        text="an adapter that learnt to transcribe alone no longer follows instructions",
        source="BLSP, arXiv 2309.00916",
        better="blsp",
        worse="asr_only",
    ),
    Claim(
        text="answers of the language model itself teach better than those of another author",
        source="DeSTA2.5-Audio, arXiv 2507.02768",
        better="own_answers",
        worse="foreign_answers",
        measure="held_out_in_any_manner",
    ),
    Claim(
        text="divergence keeps what the language model does with text, cross-entropy moves it",
        source="SALAD, arXiv 2510.13632",
        better="lora_kl",
        worse="lora_ce",
        measure="text_kept",
    ),
    Claim(
        text="continuous integrate-and-fire is better than a fixed rate",
        source="BLSP-KD, arXiv 2405.19041",
        better="cif",
        worse="conv",
    ),
    Claim(
        text="continuous integrate-and-fire is worse than a fixed rate",
        source="Maum AI 2026, an independent replication",
        better="conv",
        worse="cif",
    ),
    Claim(
        text="a cosine term of weight 0.1 on hidden states helps",
        source="Maum AI 2026, weight of the token loss",
        better="slm_style",
        worse="no_cosine",
    ),
    Claim(
        text="LoRA of rank 2 is better than a larger one (here 16)",
        source="Maum AI 2026",
        better="slm_style",
        worse="lora_rank_16",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A recipe or a variant, as it is run."""

    name: str
    recipe: Path
    changes: tuple[str, ...] = ()
    rate: float
    """Learning rate of the recipe itself."""
    steps: int
    train: tuple[Path, ...]
    begins_from: str | None = None
    """The entrant whose result of the same seed it begins from."""
    varies: str | None = None
    """The recipe that a variant is one of; it trains at that one's learning rate."""
    is_stage: bool = False
    """Whether another recipe begins from it: it alone may be shorter."""

    @property
    def is_recipe(self) -> bool:
        """Whether it is a recipe as it is shipped."""
        return self.varies is None

    @property
    def title(self) -> str:
        """As a row of a table is named."""
        return f"`{self.name}`"


Entrants = Mapping[str, Entrant]
"""By name; an earlier stage stands before who begins from it."""


def known_names() -> list[str]:
    """Recipes, then variants."""
    return [*RECIPES, *(one.name for one in VARIANTS)]


def load_entrants(
    names: Sequence[str] | None = None,
    *,
    folder: Path | None = None,
    recipes: Sequence[str] = RECIPES,
    variants: Sequence[Variant] = VARIANTS,
) -> dict[str, Entrant]:
    """Load entrants and the earlier stages that they begin from.

    Args:
        names: all by default.
        folder: of the recipes, by default that of the shipped tiny ones.
        recipes: that there are.
        variants: that there are.

    Raises:
        InputError: no such entrant, a recipe that cannot be run, or one that trains longer or
            shorter than the others.
    """
    folder = folder or find_shipped("recipes") / "tiny"
    known = {name: Variant(name=name, recipe=name, changes=()) for name in recipes}
    known |= {one.name: one for one in variants}
    chains = _find_chains(folder, recipes)
    found: dict[str, Entrant] = {}
    for name in names or known:
        if name not in known:
            advice = suggest(name, known)
            raise InputError(f"expected a recipe of the family, found {name!r}; {advice}")
        _add(known[name], folder, chains, found)
    check_steps(found)
    return found


def _find_chains(folder: Path, recipes: Sequence[str]) -> dict[str, str]:
    """Recipe -> the one it begins from, told by the folder that the other writes."""
    paths = {name: folder / f"{name}.yaml" for name in recipes}
    loaded = {name: load_recipe(path)[0] for name, path in paths.items() if path.is_file()}
    writes = {one.training.output / FINAL_FOLDER: name for name, one in loaded.items()}
    chains = {}
    for name, one in loaded.items():
        begins_from = one.model.init_from
        if begins_from is None:
            continue
        if Path(begins_from) not in writes:
            raise InputError(
                f"{paths[name]}: expected model.init_from to be the {FINAL_FOLDER} of another "
                f"recipe of the family, found {begins_from!r}; name its training.output"
            )
        chains[name] = writes[Path(begins_from)]
    return chains


def _add(one: Variant, folder: Path, chains: Mapping[str, str], found: dict[str, Entrant]) -> None:
    """Put an entrant behind its earlier stage, and a variant behind its recipe."""
    if one.name in found:
        return
    if one.name != one.recipe:
        _add(Variant(name=one.recipe, recipe=one.recipe, changes=()), folder, chains, found)
    if before := chains.get(one.recipe):
        _add(Variant(name=before, recipe=before, changes=()), folder, chains, found)
    path = folder / f"{one.recipe}.yaml"
    recipe, _ = load_recipe(path, one.changes)
    if recipe.training.steps is None:
        raise InputError(
            f"{path}: expected training.steps, so that all recipes take as many, found "
            f"training.epochs {recipe.training.epochs}; give steps"
        )
    found[one.name] = Entrant(
        name=one.name,
        recipe=path,
        changes=one.changes,
        rate=recipe.training.learning_rate,
        steps=recipe.training.steps,
        train=recipe.data.train,
        begins_from=before,
        varies=None if one.name == one.recipe else one.recipe,
        is_stage=one.name in chains.values(),
    )


def stages_of(entrant: Entrant, entrants: Entrants) -> list[Entrant]:
    """The entrant behind all that it begins from, first stage first."""
    before = entrants[entrant.begins_from] if entrant.begins_from else None
    return [*(stages_of(before, entrants) if before else []), entrant]


def check_steps(entrants: Entrants) -> None:
    """Refuse a comparison of runs of different lengths.

    Raises:
        InputError: the optimiser steps of two entrants, with their earlier stages, differ.
    """
    totals = {
        name: sum(stage.steps for stage in stages_of(one, entrants))
        for name, one in entrants.items()
        if not one.is_stage
    }
    if len(set(totals.values())) > 1:
        told = ", ".join(f"{name} {total}" for name, total in totals.items())
        raise InputError(
            "expected as many optimiser steps of every recipe, earlier stages counted, found "
            f"{told}; make them equal"
        )


def choose_claims(names: Iterable[str], claims: Sequence[Claim] = CLAIMS) -> list[Claim]:
    """The claims of which both sides take part."""
    present = set(names)
    return [one for one in claims if {one.better, one.worse} <= present]
