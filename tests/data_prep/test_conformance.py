"""What holds of every preparation, whatever its corpus: the licence is named, what is left out is
counted, rows are in order and their audio is found, a second call does nothing.

Each corpus in miniature is that of its own test module, which holds the facts of that corpus.
"""

import io
import re
import runpy
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field, fields
from importlib import import_module
from pathlib import Path

import pytest

from blsp.manifest import find_root, read_manifest, read_meta
from blsp.official import Corpora, Corpus, collect_values, find_tests, load_corpora, read_whole
from blsp.validation import validate
from tests.data_prep.conftest import run_prep

# Program -> options under which the corpus in miniature has something in every split that is asked
# for; {home} is the folder that it lies below.
OPTIONS = {
    "aishell": "",
    "common_voice": "",
    "covost2": "--covost {home}/covost --splits train test",
    "esd": "--splits en-train en-test",
    "fleurs": "--language af_za --translate-to de_de",
    "fluent_speech_commands": "",
    "gigaspeech": "--splits L TEST",
    "iemocap": "",
    "kaldi": "--audio-root {home}",
    "lhotse": "--audio-root {home}",
    "librispeech": "",
    "meld": "",
    "minds14": "--parts one",
    "mls": "",
    "must_c": "",
    "peoples_speech": "",
    "ravdess": "",
    "slue": "",
    "slurp": "",
    "snips": "",
    "spoken_squad": "",
    "tedlium": "",
    "voicebench": "",
    "voxpopuli": "",
    "wenetspeech": "--splits L M",
}
# Not of a corpus as its authors distribute it: their own tests say how they differ.
OTHERS = {"chat", "folder", "hub"}
# Whose miniature has no official test: `tests/eval/test_corpora.py` compares the names instead.
TESTLESS = {"minds14", "mls", "slue", "wenetspeech"}
THERE = " (there since an earlier run)"


@dataclass(frozen=True, kw_only=True)
class Ran:
    """Two calls of a program, the second one as a module."""

    program: str
    out: Path
    codes: list[object] = field(default_factory=list)
    said: list[list[str]] = field(default_factory=list)
    """Lines of each."""
    stamps: list[dict[str, tuple[int, int]]] = field(default_factory=list)
    """Of every file after each call: which it is, and when it was written."""

    @property
    def manifests(self) -> list[Path]:
        return sorted(self.out.glob("*.jsonl"))


@pytest.fixture(scope="module", params=OPTIONS)
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    program: str = request.param
    home = tmp_path_factory.mktemp(program)
    root = import_module(f"test_{program}").build(home)
    options = OPTIONS[program].format(home=home).split()
    ran = Ran(program=program, out=home / "out")

    def call_module() -> object:
        module = import_module(f"data_prep.{program}").__file__ or ""
        words = [module, str(root), "--out", str(ran.out), *options]
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(sys, "argv", words)
            runpy.run_path(module, run_name="__main__")
        return ended.value.code

    for call in (lambda: run_prep(program, root, ran.out, *options), call_module):
        with redirect_stdout(io.StringIO()) as said:
            ran.codes.append(call())
        ran.said.append(said.getvalue().splitlines())
        files = [path for path in ran.out.rglob("*") if path.is_file()]
        ran.stamps.append({str(p): (p.stat().st_ino, p.stat().st_mtime_ns) for p in files})
    yield ran


def test_every_program_is_here(checkout: Path) -> None:
    programs = {path.stem for path in (checkout / "data_prep").glob("[!_]*.py")}
    assert programs == OPTIONS.keys() | OTHERS


def test_a_second_call_as_a_module_does_nothing(ran: Ran) -> None:
    assert ran.codes == [0, 0]
    assert ran.stamps[0] == ran.stamps[1]
    heads = [line for line in ran.said[0] if not line.startswith("  ")]
    assert ran.said[1] == [heads[0], *(line + THERE for line in heads[1:])]


def test_the_licence_is_named_before_anything_else(ran: Ran) -> None:
    notice = getattr(import_module(f"data_prep.{ran.program}"), "NOTICE", "pass its licence on")
    assert notice in ran.said[0][0]


def test_what_is_left_out_is_counted_in_the_side_file_and_said(ran: Ran) -> None:
    counted: list[tuple[str, int]] = []
    for path in ran.manifests:
        meta = read_meta(path)
        assert meta is not None
        assert meta.counts["written"] == len(list(read_manifest(path))) > 0
        counted += [pair for pair in meta.counts.items() if pair[0] != "written"]
    told = (re.fullmatch(r"  dropped ([0-9,]+): (.*)", line) for line in ran.said[0])
    assert sorted((found[2], int(found[1])) for found in told if found) == sorted(counted)


def test_rows_are_in_order_and_their_audio_is_found(ran: Ran) -> None:
    for path in ran.manifests:
        assert validate(path).problems == []
        for row in read_manifest(path):
            assert (find_root(path) / row.audio.partition("::")[0]).is_file()


@pytest.mark.parametrize("program", OPTIONS)
def test_a_folder_without_the_corpus_says_what_was_expected(
    program: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert run_prep(program, tmp_path / "empty", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert f"expected {import_module(f'data_prep.{program}').EXPECTED}" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def official(program: str) -> list[tuple[str, Corpus]]:
    """What benchmarks ask of the manifests of a program: where the label stands, and the rest."""
    places = {"slu": "intent", "ser": "emotion"}
    return [
        (corpus.field or places.get(task.name, ""), corpus)
        for task in fields(Corpora)
        for name, corpus in load_corpora(task.name).items()
        if (corpus.prep or name) == program
    ]


def test_benchmarks_name_tests_and_labels_as_they_are_written(ran: Ran) -> None:
    for place, corpus in official(ran.program):
        tests = find_tests(corpus, "", ran.out) if ran.program not in TESTLESS else []
        rows = [row for path in tests for row in read_manifest(path)]
        assert not corpus.labels or set(collect_values(rows, place)) <= set(corpus.labels)
        kinds = {each.type for row in rows for each in row.entities}
        assert not corpus.types or kinds <= set(corpus.types)
        if corpus.labels_of:
            assert collect_values(read_whole(corpus, ran.out), place)
