"""Where training data came from and under which licence, carried into checkpoint and model card.

A manifest names the corpus and its licence in every row; conversations keep both, a data set adds
them up, and a checkpoint holds the sum with that of the checkpoint it began from and of a language
model that was trained here on text, because the weights have learnt from all of it. What may not be
used for money is marked: nobody should find that out from a corpus's web page after they have
shipped. Sources and hours enter; two small files leave.
"""

import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from blsp.errors import InputError

SOURCES = "data_sources.json"
CARD = "README.md"
UNKNOWN = "not stated"

# Parts of licence names: CC BY-NC and its kin, and what corpora call their own terms.
_NON_COMMERCIAL = re.compile(
    r"\bNC\b|non-?commercial|research[ -]only|\bacademic\b|\brestricted\b", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A corpus under a licence, and how much of it was trained on."""

    source: str
    license: str
    conversations: int
    hours: float

    @property
    def is_non_commercial(self) -> bool:
        """Whether the licence's name says that it may not be used for money."""
        return _NON_COMMERCIAL.search(self.license) is not None


def add_up(rows: Iterable[tuple[str | None, str | None, int, float]]) -> list[Source]:
    """Corpus, licence, conversations and seconds of audio -> one `Source` for each pair."""
    total: dict[tuple[str, str], list[float]] = {}
    for source, license_, count, seconds in rows:
        some = total.setdefault((source or UNKNOWN, license_ or UNKNOWN), [0, 0.0])
        some[0] += count
        some[1] += seconds
    return [
        Source(source=source, license=name, conversations=int(count), hours=seconds / 3600)
        for (source, name), (count, seconds) in sorted(total.items())
    ]


def read_sources(folder: Path) -> list[Source]:
    """What a checkpoint was trained on; nothing where it does not say.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / SOURCES
    if not path.is_file():
        return []
    try:
        return [Source(**row) for row in json.loads(path.read_text(encoding="utf-8"))["sources"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected the sources of a checkpoint, found: {error}; take the file from the "
            "original checkpoint"
        ) from error


def join_sources(earlier: Sequence[Source], later: Sequence[Source]) -> list[Source]:
    """Those of a run behind those of the checkpoint that it began from."""
    rows = [(one.source, one.license, one.conversations, 3600 * one.hours) for one in later]
    known = {(one.source, one.license) for one in later}
    # The same corpus in both stages is the same data, so it does not count twice.
    kept = [one for one in earlier if (one.source, one.license) not in known]
    return [*kept, *add_up(rows)]


def write_provenance(folder: Path, sources: Sequence[Source], bases: Mapping[str, Any]) -> None:
    """Write `data_sources.json` and the model card into a checkpoint's folder.

    Args:
        folder: of the checkpoint.
        sources: of its training data.
        bases: of its configuration: for `llm` and `encoder` where the weights come from.
    """
    _write(folder, sources, format_card(sources, bases))


def write_text_provenance(folder: Path, sources: Sequence[Source], base: str) -> None:
    """The same for a language model; ``base`` is the folder or hub id that it began from."""
    _write(folder, sources, format_text_card(sources, base))


def _write(folder: Path, sources: Sequence[Source], card: str) -> None:
    rows = {"sources": [asdict(one) for one in sources]}
    (folder / SOURCES).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (folder / CARD).write_text(card, encoding="utf-8")


def copy_provenance(source: Path, folder: Path) -> None:
    """Copy what a checkpoint says of its data, and its card as its makers left it."""
    for name in (SOURCES, CARD):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def format_card(sources: Sequence[Source], bases: Mapping[str, Any]) -> str:
    """Return the model card: what it hears with, what it learnt from, and what that permits.

    Base models are named as hub ids only: a folder says something of the machine, and nothing of
    the model.
    """
    models = [_name_base((bases.get(part) or {}).get("source")) for part in ("llm", "encoder")]
    text = (
        "# A speech adapter\n\n"
        f"It lets {models[0] or 'a language model'} hear through the encoder of "
        f"{models[1] or 'a Whisper'}. Load it with `blsp chat` or "
        "`BlspForConditionalGeneration.from_pretrained`."
    )
    return _join_card("library_name: blsp\npipeline_tag: any-to-any", models, text, sources)


def format_text_card(sources: Sequence[Source], base: str) -> str:
    """Return the card of a language model that learnt here: from what, and what that permits."""
    name = _name_base(base)
    text = (
        "# A language model\n\n"
        f"It began from {name or 'another language model'} and learnt by `blsp`. Load it as any "
        "other with `AutoModelForCausalLM.from_pretrained`."
    )
    front = "library_name: transformers\npipeline_tag: text-generation"
    return _join_card(front, [name], text, sources)


def _join_card(
    front: str, models: Sequence[str | None], text: str, sources: Sequence[Source]
) -> str:
    named = [f"- {model}" for model in models if model]
    table = ["| corpus | licence | conversations | hours |", "|---|---|---|---|"]
    table += [
        f"| {one.source} | {one.license}{' (non-commercial)' if one.is_non_commercial else ''} "
        f"| {one.conversations:,} | {one.hours:,.1f} |"
        for one in sources
    ]
    lines = [
        "---",
        front,
        *(["base_model:", *named] if named else []),
        "---",
        "",
        text,
        "",
        "## Training data",
        "",
        *table,
        "",
        _judge(sources),
    ]
    return "\n".join(lines) + "\n"


def _name_base(source: str | None) -> str | None:
    """A hub id, or None: a folder of two names looks like one."""
    is_hub_id = source and re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not Path(source).exists()
    return source if is_hub_id else None


def _judge(sources: Sequence[Source]) -> str:
    """What the licences say together, as far as their names tell."""
    barred = sorted({one.source for one in sources if one.is_non_commercial})
    if barred:
        return f"Not for commercial use: {', '.join(barred)} may not be used for it."
    silent = sorted({one.source for one in sources if one.license == UNKNOWN})
    if silent or not sources:
        return f"The licence of {', '.join(silent) or 'its data'} is not stated: find it out first."
    return "No licence of these names forbids commercial use; their other terms hold."
