"""`blsp prep voicebench` on a copy in miniature: its folders, names of shards and columns."""

import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from blsp.cli import main as run_blsp
from blsp.validation import validate
from tests.data_prep.conftest import run_prep

AUDIO = {"sampling_rate": 16000, "_type": "Audio"}
SHARED = {"duration": 0.5, "language": "en", "license": "Apache-2.0", "source": "VoiceBench"}
CHOICE = "Which is a plant?\nA. stone\nB. moss"
KWARGS = [{"num_words": 3, "relation": None}, {"num_words": None, "relation": None}]


def write_subset(path: Path, *rows: dict[str, Any]) -> None:
    file = io.BytesIO()
    noise = np.random.default_rng(0).normal(0, 0.1, 8000)
    soundfile.write(file, noise, 16_000, format="WAV")
    full = [{"audio": {"bytes": file.getvalue(), "path": None}} | row for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(full)
    features = datasets.Features.from_arrow_schema(table.schema)
    info = json.dumps({"info": {"features": {**dict(features.to_dict()), "audio": AUDIO}}})
    pq.write_table(table.replace_schema_metadata({"huggingface": info}), path)


def build(home: Path) -> Path:
    root = home / "voicebench"
    write_subset(root / "commoneval" / "test-00000-of-00001.parquet", {"prompt": "Why?"})
    for accent in ("usa", "ind_n"):
        rows = [{"prompt": "Who?", "reference": "he"}, {"prompt": "When?", "reference": "now"}]
        write_subset(root / "sd-qa" / f"{accent}-00000-of-00001.parquet", *rows)
    question = {"prompt": CHOICE, "reference": "B"}
    write_subset(root / "openbookqa" / "test-00000-of-00001.parquet", question)
    more = {"question_id": "17", "cot_content": ""}
    write_subset(root / "mmsu" / "law-00000-of-00001.parquet", question | more)
    write_subset(
        root / "ifeval" / "test-00000-of-00001.parquet",
        {"key": 1001, "prompt": "Use", "instruction_id_list": ["a:b", "c:d"], "kwargs": KWARGS},
    )
    reasoning = {"prompt": "Sum?", "reference": "yes", "id": "navigate_4"}
    write_subset(root / "bbh" / "test-00000-of-00001.parquet", reasoning)
    (root / "mtbench").mkdir()
    return root


prepare = partial(run_prep, "voicebench")


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_subset_becomes_a_manifest_and_every_accent(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert prepare(corpus, out) == 0
    assert sorted(path.stem for path in out.glob("*.jsonl")) == [
        "bbh",
        "commoneval",
        "ifeval",
        "mmsu-law",
        "openbookqa",
        "sd-qa-ind_n",
        "sd-qa-usa",
    ]
    assert rows_of(out / "sd-qa-usa.jsonl")[1] == SHARED | {
        "id": "sd-qa-usa-1",
        "audio": "sd-qa/usa-00000-of-00001.parquet::audio/1",
        "text": "When?",
        "prompt": "When?",
        "reference": "now",
        "subset": "sd-qa",
        "accent": "usa",
    }
    reports = [validate(path) for path in out.glob("*.jsonl")]
    assert [(each.problems, each.warnings) for each in reports] == [([], [])] * 7
    assert run_blsp(["data", "validate", "--decode", str(out / "bbh.jsonl")]) == 0


def test_what_a_scorer_needs_is_kept(corpus: Path, tmp_path: Path) -> None:
    prepare(corpus, tmp_path, "--subsets", "mmsu", "ifeval", "bbh")
    assert rows_of(tmp_path / "mmsu-law.jsonl") == [
        SHARED
        | {
            "id": "mmsu-law-0",
            "audio": "mmsu/law-00000-of-00001.parquet::audio/0",
            "text": "Which is a plant? A. stone B. moss",
            "prompt": CHOICE,
            "reference": "B",
            "question_id": "17",
            "subset": "mmsu",
            "domain": "law",
        }
    ]
    [row] = rows_of(tmp_path / "ifeval.jsonl")
    assert row["key"] == 1001
    assert row["instruction_id_list"] == ["a:b", "c:d"]
    assert row["kwargs"] == [{"num_words": 3}, {}]
    assert [row["id"] for row in rows_of(tmp_path / "bbh.jsonl")] == ["navigate_4"]


def test_from_the_hub_a_subset_is_a_configuration(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, asked = datasets.load_dataset_builder, []

    def answer(path: str, name: str, **more: Any) -> Any:
        asked.append((path, name, more["revision"]))
        files = sorted(str(file) for file in (corpus / name).iterdir())
        return load("parquet", data_files={"test": files}, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset_builder", answer)
    options = ["--subsets", "openbookqa", "--revision", "v1"]
    assert prepare(Path("hlt-lab/voicebench"), tmp_path / "out", *options) == 0
    assert asked == [("hlt-lab/voicebench", "openbookqa", "v1")]
    [row] = rows_of(tmp_path / "out" / "openbookqa.jsonl")
    assert row["audio"] == "audio/openbookqa/0000000.wav"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--subsets", "openbook"], "found 'openbook'; did you mean 'openbookqa'?"),
        (["--subsets", "mtbench"], "--subsets: expected one of VoiceBench, found 'mtbench'"),
        (["--subsets", "advbench"], "advbench: expected a folder"),
        (["--splits", "sd-qa-us"], "found 'sd-qa-us'; did you mean 'sd-qa-usa'?"),
    ],
)
def test_what_a_user_can_get_wrong_is_one_line(
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    assert prepare(corpus, tmp_path, *options) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_folder_without_a_subset_says_what_was_expected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(tmp_path, tmp_path / "out") == 2
    assert "expected a folder for each subset below it, found none" in capsys.readouterr().err
