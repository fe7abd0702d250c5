"""What benchmarks ask of known corpora: official tests, labels, metrics and instructions, as data.

`corpora.yaml` beside the benchmark programs names a corpus below the program that it is for, so
that `--corpus slurp` asks as everybody asks of SLURP. Where the labels are not listed they are
gathered from the whole corpus: a few lines of its test would make the question easier. A name and
the folder that `blsp prep` wrote enter; manifests and labels leave.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from blsp.config import load_config
from blsp.derivation import find_value
from blsp.errors import InputError
from blsp.manifest import Utterance, read_manifest, to_row
from blsp.shipped import find_shipped
from blsp.tasks import MetricName

FILE = "corpora.yaml"


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What one program asks of one corpus; what is empty is as the program has it."""

    tests: tuple[str, ...] = ()
    """Names of the manifests of its official test, as `blsp prep` writes them; `*` is any text."""
    prep: str = ""
    """The program that writes them, if it is not called as the corpus."""
    metrics: tuple[MetricName, ...] = ()
    """The first stands for the task."""
    instruction: str = ""
    """With `{audio}`, and `{labels}` where there are some."""
    labels: tuple[str, ...] = ()
    """All that there are."""
    labels_of: tuple[str, ...] = ()
    """Names of the manifests that have all labels together."""
    field: str = ""
    """Where the label stands in a line."""
    slots: bool = False
    """Whether entities are asked for."""
    types: tuple[str, ...] = ()
    """Of entities, all that there are."""


Named = Mapping[str, Corpus]


@dataclass(frozen=True, kw_only=True)
class Corpora:
    """The file: corpora by name, below the program they are for."""

    asr: dict[str, Corpus] = field(default_factory=dict)
    st: dict[str, Corpus] = field(default_factory=dict)
    slu: dict[str, Corpus] = field(default_factory=dict)
    ser: dict[str, Corpus] = field(default_factory=dict)
    sqa: dict[str, Corpus] = field(default_factory=dict)


def load_corpora(program: str) -> Named:
    """Return the corpora that a benchmark program knows; none where it knows none."""
    return getattr(load_config(Corpora, find_shipped("eval") / FILE), program, {})


def find_corpus(known: Named, name: str) -> Corpus:
    """Return a corpus by name.

    Raises:
        InputError: there is none of that name.
    """
    if name not in known:
        raise InputError(
            f"--corpus: expected one of {', '.join(known)}, found {name!r}; correct it, or name "
            "its test with --manifest"
        )
    return known[name]


def find_tests(corpus: Corpus, name: str, folder: Path) -> list[str]:
    """Return the manifests of the official test that are there.

    Raises:
        InputError: none is.
    """
    found = [path for test in corpus.tests for path in sorted(folder.glob(f"{test}.jsonl"))]
    if not found:
        raise InputError(
            f"{folder}: expected {' or '.join(f'{test}.jsonl' for test in corpus.tests)} in it, "
            f"found none; name the folder with --data, or write it: blsp prep "
            f"{corpus.prep or name} ROOT --out {folder}"
        )
    return [str(path) for path in found]


def read_whole(corpus: Corpus, folder: Path) -> list[Utterance]:
    """Return all utterances of the manifests that labels are gathered from, as far as they are."""
    paths = [folder / f"{name}.jsonl" for name in corpus.labels_of]
    return [one for path in paths if path.is_file() for one in read_manifest(path)]


def collect_values(utterances: Sequence[Utterance], place: str) -> tuple[str, ...]:
    """Return what a key holds anywhere, each value once, sorted."""
    found = {find_value(to_row(one), place) for one in utterances}
    return tuple(sorted(value for value in found if value))
