"""COMET by another program: what it is given, what is kept, and what is said where it fails.

The program here has the command line and the JSON of `comet-score` 2.2.7, and a score that is the
share of the reference's words among the translation's.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from test_benchmark import TASKS, Fakes, benchmark, values, write_spellings, write_spoken

from blsp.cli import main
from blsp.results import CASCADE, SPEECH, recompute
from blsp.running import run

FAKE = """#!{python}
import argparse, json, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("-s", "--sources", required=True)
parser.add_argument("-t", "--translations", nargs="+", required=True)
parser.add_argument("-r", "--references", required=True)
parser.add_argument("--gpus", type=int, default=1)
parser.add_argument("--quiet", action="store_true")
parser.add_argument("--to_json", default="")
parser.add_argument("--model", default="Unbabel/wmt22-comet-da")
o = parser.parse_args()
def read(path):
    with open(path, encoding="utf-8") as file:
        return [line.strip() for line in file.readlines()]
(mt,) = o.translations
rows = [dict(src=s, mt=t, ref=r) for s, t, r in zip(read(o.sources), read(mt), read(o.references))]
for i, row in enumerate(rows):
    words = set(row["ref"].split())
    row["COMET"] = len(words & set(row["mt"].split())) / len(words)
    print(f"{{mt}}\\tSegment {{i}}\\tscore: {{row['COMET']:.4f}}")
{sabotage}
json.dump({{mt: rows}}, open(o.to_json, "w", encoding="utf-8"))
here = pathlib.Path(__file__).parent
json.dump(dict(rows=rows, model=o.model, gpus=o.gpus), open(here / "called.json", "w"))
"""


def write_program(folder: Path, sabotage: str = "", version: str = "2.2.7") -> Path:
    """`bin/comet-score`, beside the `python` of its environment."""
    folder.mkdir(exist_ok=True)
    for name, text in (
        ("comet-score", FAKE.format(python=sys.executable, sabotage=sabotage)),
        ("python", f"#!/bin/sh\necho {version}\n"),
    ):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder / "comet-score"


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Speech translates all four rightly, the cascade says "what?" to the third."""
    folder = tmp_path_factory.mktemp("answers")
    manifest, spellings = write_spoken(folder), write_spellings(folder)
    asked = benchmark(manifest, tasks=TASKS[2:], systems=(SPEECH, CASCADE))
    run(asked, Fakes(spellings).models, folder / "out")
    return folder / "out"


@pytest.fixture
def folder(answers: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(answers, tmp_path / "out"))


def comet(folder: Path, program: Path | str, *words: str) -> int:
    return main(["bench", "comet", str(folder), "--program", str(program), *words])


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def test_comet_stands_among_the_rows(folder: Path, tmp_path: Path) -> None:
    program = write_program(tmp_path / "bin")
    assert comet(folder, program) == 0
    found = results(folder)
    assert values(found, "st", "comet") == {"speech": 1, "cascade": 0.75}
    row = next(row for row in found["rows"] if row["metric"] == "comet")
    assert row["signature"] == "comet:Unbabel/wmt22-comet-da|version:2.2.7"
    pairs = {one["second"]: one for one in found["comparisons"] if one["metric"] == "comet"}
    assert pairs["cascade"]["difference"] == pytest.approx(0.25)
    program.unlink()
    assert recompute(folder) == found


def test_the_program_gets_words_answer_and_reference_of_each_translation_once(
    folder: Path, tmp_path: Path
) -> None:
    path = folder / "predictions" / "speech.jsonl"
    path.write_text(path.read_text().replace('"prediction": "spiel', '"prediction": "spiel\\n'))
    program = write_program(tmp_path / "bin")
    assert comet(folder, f"{program} --gpus 0", "--model", "other") == 0
    called = json.loads((tmp_path / "bin" / "called.json").read_text())
    assert (called["model"], called["gpus"]) == ("other", 0)
    # three of the four are the same in both systems, but for the line break of one
    assert [row["mt"] for row in called["rows"]].count("mach das Licht an") == 1
    assert {"src": "play some music", "mt": "spiel Musik", "ref": "spiel Musik", "COMET": 1.0} in (
        called["rows"]
    )
    assert len(called["rows"]) == 6
    assert results(folder)["scorers"]["comet"]["signature"] == "comet:other|version:2.2.7"


def test_only_what_has_no_score_is_scored(folder: Path, tmp_path: Path) -> None:
    program = write_program(tmp_path / "bin")
    assert comet(folder, program, "--systems", "speech") == 0
    assert comet(folder, program) == 0
    called = json.loads((tmp_path / "bin" / "called.json").read_text())
    assert [row["mt"] for row in called["rows"]] == ["what?"]
    (tmp_path / "bin" / "called.json").unlink()
    assert comet(folder, program) == 0
    assert not (tmp_path / "bin" / "called.json").exists()


def test_another_version_is_not_mixed_in(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert comet(folder, write_program(tmp_path / "bin")) == 0
    assert comet(folder, write_program(tmp_path / "bin", version="2.0")) == 2
    said = capsys.readouterr().err
    assert "expected verdicts of comet:Unbabel/wmt22-comet-da|version:2.0, found those of" in said


def test_a_launcher_is_asked_for_its_version_too(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`uvx --from unbabel-comet comet-score` is here `env comet-score`."""
    monkeypatch.setenv("PATH", str(write_program(tmp_path / "bin").parent), prepend=":")
    assert comet(folder, "env comet-score") == 0
    assert results(folder)["scorers"]["comet"]["about"]["version"] == "2.2.7"


def test_a_missing_program_is_told_how_to_get(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert comet(folder, "no-such-comet") == 2
    said = capsys.readouterr().err
    assert "found no program 'no-such-comet'; install unbabel-comet" in said
    assert said.count("\n") == 1 and not (folder / "judgements").exists()


@pytest.mark.parametrize(
    ("sabotage", "message"),
    [
        ("raise SystemExit('CUDA out of memory')", "exit status 1 (CUDA out of memory)"),
        ("raise SystemExit(0)", "expected a JSON file with a score of each translation"),
        ("del rows[0]", "expected 5 scores that are numbers, found 4"),
        ("rows[0]['COMET'] = float('nan')", "found 5, of which 4 are"),
    ],
)
def test_what_the_program_does_wrong_is_one_line(
    sabotage: str, message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert comet(folder, write_program(tmp_path / "bin", sabotage)) == 2
    scoring, said = capsys.readouterr().err.splitlines()
    assert scoring.startswith("scoring 5 translations with ") and message in said
    assert comet(folder, write_program(tmp_path / "bin")) == 0  # nothing half-done is in the way
    assert values(results(folder), "st", "comet")["speech"] == 1
