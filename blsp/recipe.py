"""A recipe: one YAML file that says all of a training run, and a header that says what to expect.

The schema is dataclasses, each beside the code it configures. Nothing is inherited, so that
`diff a.yaml b.yaml` shows the whole difference of two experiments. The header is a comment, but a
checked one: what it claims of results is measured, or published by others and marked, or not known.
A path and overrides enter; a `Recipe` and its `Header` leave.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from blsp.config import dump_config, parse_config
from blsp.dataset import DataConfig
from blsp.errors import InputError, suggest
from blsp.model.configuration import AdapterConfig, AudioPadding, LoraConfig
from blsp.objectives import BY_TOKEN, OF_SPEECH, LossConfig
from blsp.rendering import Trained
from blsp.trainer import TrainingConfig

R = TypeVar("R")

HEADER_KEYS = ("needs", "command", "serves with", "expected")

_KEY = re.compile(r"#\s?([a-z][a-z ]*?):\s*(.*)")
_NOT_KNOWN = re.compile(r"not known")
_PUBLISHED = re.compile(r"published, .+, not reproduced")
_MEASURED = re.compile(r".*\d.*; measured with: \S.*")


@dataclass(frozen=True, kw_only=True)
class RecipeData:
    """What is trained on and measured on; paths are relative to where the command runs."""

    train: tuple[Path, ...]
    """Files of conversations."""
    weights: tuple[float, ...] = ()
    """How often each file of `train` counts in an epoch: 2 is twice, 0.5 a drawn half, the same in
    all epochs; none is once each."""
    dev: tuple[Path, ...] = ()
    """Files of conversations for the meters, of other utterances; without them nothing says how
    well the model hears."""
    trained: Trained = "last"
    """Which responses of a conversation carry a loss: the last or all."""
    foreign: bool = False
    """Accept conversations that another language model or template wrote, or nobody knows which."""
    max_unreadable_share: float = 0.01
    """Training stops when a larger share of the conversations has audio that cannot be read."""

    def __post_init__(self) -> None:
        """Refuse weights that do not fit the files."""
        if self.weights and len(self.weights) != len(self.train):
            raise InputError(
                f"data.weights: expected one for each of the {len(self.train)} files of "
                f"data.train, found {len(self.weights)}; give as many, or none"
            )
        if any(not 0 < weight <= 100 for weight in self.weights):
            raise InputError(
                f"data.weights: expected numbers above 0 and up to 100, found {self.weights}; "
                "leave a file out of data.train instead of giving it none"
            )

    def config(self, paths: tuple[Path, ...]) -> DataConfig:
        """The data set's own configuration for some of the files."""
        return DataConfig(
            conversations=paths,
            weights=self.weights if paths == self.train else (),
            trained=self.trained,
            foreign=self.foreign,
            max_unreadable_share=self.max_unreadable_share,
        )


@dataclass(frozen=True, kw_only=True)
class RecipeModel:
    """What is put together."""

    llm: str
    """Folder or hub id of a decoder-only language model."""
    encoder: str
    """Folder or hub id of a Whisper, or an openai-whisper `.pt` file."""
    llm_bits: Literal[4, 8, 16] = 16
    """How the language model is held: 4 is NF4 with double quantisation, 8 is LLM.int8(), 16 is
    bf16, or fp32 where the machine has no bf16."""
    llm_revision: str | None = None
    """Commit or tag of a hub id."""
    encoder_revision: str | None = None
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    audio_padding: AudioPadding = "variable"
    """`variable` encodes the true length, `max` whole windows as Whisper does."""
    template_variables: dict[str, Any] = field(default_factory=dict)
    """What the chat template is told beside the messages, such as `date`."""
    emotions: tuple[str, ...] = ()
    """What the emotion classifier of `loss.emotion_ce` tells apart."""
    init_from: str | None = None
    """Checkpoint folder to begin from."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run."""

    data: RecipeData
    model: RecipeModel
    loss: LossConfig = field(default_factory=LossConfig)
    training: TrainingConfig

    def __post_init__(self) -> None:
        """Refuse what cannot work together, naming both keys."""
        self._check_adapter()
        self._check_trained()
        if self.loss.contrastive and self.training.batch_examples == 1:
            raise InputError(
                "loss.contrastive: expected training.batch_examples of 2 or more, found 1; it "
                "picks a recording among those of its batch"
            )

    def _check_adapter(self) -> None:
        loss, adapter = self.loss, self.model.adapter
        if not adapter.decides_length:
            wrong = [f"loss.{name}" for name in BY_TOKEN if getattr(loss, name)]
            wanted = "model.adapter.kind: cformer (or qformer with length: tokens)"
            reason = "it compares one speech embedding with one token"
        else:
            wrong = ["loss.ctc"] if loss.ctc else []
            wanted, reason = "0", f"model.adapter ({adapter.kind}) gives one embedding a token"
            if not loss.cif_quantity and self.model.init_from is None:
                raise InputError(
                    f"loss.cif_quantity: expected a weight above 0 with model.adapter.kind: "
                    f"{adapter.kind}, found 0; nothing else teaches how many embeddings there are "
                    "(1.0 is usual)"
                )
        if wrong:
            raise InputError(f"{wrong[0]}: expected {wanted}, because {reason}; change either")

    def _check_trained(self) -> None:
        """Nothing may be trained that no objective reaches."""
        loss, emotions, scope = self.loss, self.model.emotions, self.model.lora.scope
        if loss.emotion_ce and len(set(emotions)) < 2:
            raise InputError(
                "loss.emotion_ce: expected two or more labels in model.emotions to tell apart, "
                f"found {len(set(emotions))}; name them, or set the weight to 0"
            )
        if len(set(emotions)) < len(emotions):
            raise InputError(
                f"model.emotions: expected different labels, found {', '.join(emotions)}; name "
                "each once"
            )
        if emotions and not loss.emotion_ce:
            raise InputError(
                "model.emotions: expected loss.emotion_ce above 0 to teach their classifier, found "
                "0; give it a weight, or remove the emotions"
            )
        if scope != "none" and not loss.others and OF_SPEECH.issuperset(loss.weights()):
            raise InputError(
                f"model.lora.scope: expected none, because no objective of loss "
                f"({', '.join(loss.weights())}) runs the language model, found {scope}; add "
                "loss.response_kl, or train the adapter alone"
            )


@dataclass(frozen=True, kw_only=True)
class Header:
    """The comment at the top of a recipe."""

    what: str
    """One line, shown by `blsp recipes`."""
    needs: str
    """Download, disk and GPU memory in GB, hours, whether gated, licence."""
    command: str
    serves_with: str
    """`blsp serve`, `vLLM`, or both."""
    expected: str
    """A measured number with its command, a published one marked as such, or `not known`."""


@overload
def load_recipe(path: Path, overrides: Sequence[str] = ...) -> tuple[Recipe, Header]: ...
@overload
def load_recipe(
    path: Path, overrides: Sequence[str] = ..., *, schema: type[R]
) -> tuple[R, Header]: ...
def load_recipe(
    path: Path, overrides: Sequence[str] = (), *, schema: type[Any] = Recipe
) -> tuple[Any, Header]:
    """Read a recipe, apply `key.path=value` overrides and check all of it.

    Args:
        path: of the YAML file.
        overrides: of single values.
        schema: what it is a recipe of, a run on speech or on text.

    Raises:
        InputError: a value that cannot work, an unknown key, or a header that lacks something.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: expected a recipe, found {_reason(error)}; `blsp recipes` lists those that "
            "ship with the package"
        ) from error
    recipe = parse_config(schema, text, name=str(path), overrides=overrides)
    return recipe, parse_header(text, name=str(path))


def describe_serving(model: RecipeModel) -> str:
    """What the result of a recipe can be used in, which follows from what is trained."""
    if model.lora.scope == "speech":
        return "blsp chat only; no other server knows LoRA that acts at speech alone"
    if model.lora.scope == "all":
        return (
            "blsp chat; after `blsp export --merge` vLLM and others serve the language model for "
            "text, which is another than before"
        )
    return "blsp chat; the language model is untouched, so that vLLM and others serve it for text"


def dump_recipe(recipe: Any, header: Header) -> str:
    """Return the recipe with every value written out, as `load_recipe` reads it."""
    values = [header.needs, header.command, header.serves_with, header.expected]
    lines = [header.what] + [f"{k}: {v}" for k, v in zip(HEADER_KEYS, values, strict=True)]
    return "".join(f"# {line}\n" for line in lines) + "\n" + dump_config(recipe)


def parse_header(text: str, *, name: str) -> Header:
    """Read the comment at the top of a recipe.

    The first line says what is trained; then come the keys, each with its text behind a colon and
    on following lines of more than one space.

    Raises:
        InputError: a key is missing or unknown, or `expected` claims something unfounded.
    """
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line)
    what = lines[0].removeprefix("#").strip() if lines else ""
    if not what or ((begins := _KEY.fullmatch(lines[0])) and begins[1] in HEADER_KEYS):
        raise InputError(f"{name}:1: expected a comment that says what is trained, found none; add")
    entries = _header_entries(lines[1:], name)
    missing = [key for key in HEADER_KEYS if not entries.get(key)]
    if missing:
        raise InputError(
            f"{name}: expected the header to say {', '.join(missing)}, found nothing of it; add "
            f"the line `# {missing[0]}: ...` to the comment at the top"
        )
    _check_expected(entries["expected"], name)
    return Header(
        what=what,
        needs=entries["needs"],
        command=entries["command"],
        serves_with=entries["serves with"],
        expected=entries["expected"],
    )


def _header_entries(lines: list[str], name: str) -> dict[str, str]:
    entries: dict[str, str] = {}
    key = None
    for number, line in enumerate(lines, start=2):
        found = _KEY.fullmatch(line)
        if found and found[1] in HEADER_KEYS:
            key = found[1]
            entries[key] = found[2].strip()
        elif line.startswith("#  ") and key:
            entries[key] += " " + line.removeprefix("#").strip()
        elif found:
            raise InputError(
                f"{name}:{number}: expected one of {', '.join(HEADER_KEYS)} in the header, found "
                f"{found[1]!r}; {suggest(found[1], HEADER_KEYS)}"
            )
    return entries


def _check_expected(text: str, name: str) -> None:
    if not any(form.fullmatch(text) for form in (_NOT_KNOWN, _PUBLISHED, _MEASURED)):
        raise InputError(
            f"{name}: expected a result that is `NUMBER; measured with: COMMAND`, or `published, "
            f"SOURCE, not reproduced`, or `not known`, found {text!r}; write it so"
        )


def _reason(error: Exception) -> str:
    return str(error.strerror) if isinstance(error, OSError) else "other than UTF-8 text"
