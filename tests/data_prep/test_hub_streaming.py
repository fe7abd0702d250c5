"""`blsp prep hub --streaming`: manifests of audio that stays on the hub."""

import json
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import config as datasets_config
from huggingface_hub import constants
from test_hub import FEATURES, rows_of, write_corpus, write_shard

from blsp import parquet, remote
from blsp.audio import load_audio
from blsp.cli import main as run_blsp
from blsp.manifest import read_meta
from blsp.validation import validate

TRAIN = "data/train-00000-of-00002.parquet"


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hub.Hub]:
    """A hub with `org/corpus`; a look at any other host fails."""
    parquet._read_footer.cache_clear()
    parquet._CHUNKS.clear()
    monkeypatch.setattr(remote, "_FIRST_WAIT", 0.0)
    monkeypatch.setattr(remote, "_LONGEST_WAIT", 0.0)
    write_corpus(tmp_path / "root" / "org" / "corpus")
    look_up = socket.getaddrinfo
    with hub.serve(tmp_path / "root") as served:

        def watch(host: Any, port: Any, *more: Any, **options: Any) -> Any:
            assert f"http://{host}:{port}" == served.url
            return look_up(host, port, *more, **options)

        monkeypatch.setattr(socket, "getaddrinfo", watch)
        hub.use(served, tmp_path / "cache", monkeypatch)
        monkeypatch.setattr(datasets_config, "HF_ENDPOINT", served.url)
        monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")
        yield served


def prepare(out: Path, *options: str, source: str = "org/corpus") -> int:
    return run_blsp(["prep", "hub", source, "--out", str(out), "--streaming", *options])


def test_rows_name_the_hub_and_no_audio_is_written(there: hub.Hub, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert prepare(out, "--language", "en", "--revision", "v1") == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "test.jsonl",
        "test.meta.json",
        "train.jsonl",
        "train.meta.json",
    ]
    commit = hub.commit_of(there.root / "org" / "corpus")
    shard = f"hf://datasets/org/corpus@{commit}/{TRAIN}::audio"
    shared = {"language": "en", "source": "org/corpus"}
    first = {"id": "7", "audio": f"{shard}/0", "duration": 0.5, "text": "Hello there."}
    second = {"id": "8", "audio": f"{shard}/1", "duration": 0.5, "text": "Good day."}
    third = {"id": "8-2", "audio": f"{shard}/2", "duration": 0.5, "text": "Good day."}
    assert rows_of(out / "train.jsonl") == [
        first | shared | {"speaker": "3", "emotion": "hap", "snr": 12.5},
        second | shared | {"speaker": "4", "emotion": "neu"},
        third | shared | {"speaker": "4"},
    ]
    assert validate(out / "train.jsonl").problems == []
    meta = read_meta(out / "train.jsonl")
    assert meta is not None and "--streaming" in meta.command
    here = f"{there.root}/org/corpus/{TRAIN}::audio"
    for row in range(3):
        assert np.array_equal(load_audio(f"{shard}/{row}"), load_audio(f"{here}/{row}"))


def test_each_part_of_a_file_is_read_once(there: hub.Hub, tmp_path: Path) -> None:
    """Of a file of two groups: its size, its footer, and the words and the audio of each group."""
    assert prepare(tmp_path / "out", "--splits", "train") == 0
    ranges = Counter(range_ for file, range_ in there.served if file == TRAIN)
    assert len(ranges) == 2 + 2 * 2
    assert set(ranges.values()) == {1}


def test_nothing_of_the_data_is_kept_on_disk(there: hub.Hub, tmp_path: Path) -> None:
    """Of the client's own notes some, which are smaller than a recording."""
    assert prepare(tmp_path / "out") == 0
    found = [*(tmp_path / "out").rglob("*"), *(tmp_path / "cache").rglob("*")]
    assert sum(path.stat().st_size for path in found if path.is_file()) < 5000
    assert (there.root / "org" / "corpus" / TRAIN).stat().st_size > 20_000


def test_a_file_that_another_way_to_read_it_wrote_is_not_taken_for_ours(
    there: hub.Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(tmp_path / "out", "--splits", "test") == 0
    assert prepare(tmp_path / "out", "--splits", "test") == 0
    assert "there since an earlier run" in capsys.readouterr().out
    kept = ["prep", "hub", "org/corpus", "--out", str(tmp_path / "out"), "--splits", "test"]
    assert run_blsp(kept) == 2
    assert "expected no file yet" in capsys.readouterr().err


def test_a_hub_that_is_busy_is_asked_again_and_then_nothing_is_written(
    there: hub.Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there.busy[TRAIN] = [503, 503]
    assert prepare(tmp_path / "a", "--splits", "train") == 0
    assert len(rows_of(tmp_path / "a" / "train.jsonl")) == 3
    parquet._CHUNKS.clear()
    there.busy[TRAIN] = [503] * 1000
    assert prepare(tmp_path / "b", "--splits", "train") == 2
    assert capsys.readouterr().err.strip().endswith("look at the network, then run this again")
    assert not (tmp_path / "b" / "train.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "source", "told"),
    [
        (["--revision", "v9"], "org/corpus", "v9"),
        ([], "org/nothing", "check name, access and network"),
    ],
)
def test_what_is_not_there_is_one_line(
    there: hub.Hub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    source: str,
    told: str,
) -> None:
    assert prepare(tmp_path / "out", *options, source=source) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"blsp: {source}: expected a data set on the hub") and told in line


def test_offline_is_one_line(
    there: hub.Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets_config, "HF_HUB_OFFLINE", True)
    assert prepare(tmp_path / "out") == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "found HF_HUB_OFFLINE=1; unset it, or name a folder on this machine" in line
    assert there.requests == 0


def test_recordings_as_samples_are_not_read_from_the_hub(
    there: hub.Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = there.root / "org" / "samples" / "data" / "train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    cell = {"array": [0.0, 0.1], "sampling_rate": 16000}
    pq.write_table(pa.table({"audio": [cell], "text": ["on"]}), path)
    assert prepare(tmp_path / "out", source="org/samples") == 2
    told = capsys.readouterr().err
    assert "found samples, which are not read from the hub; leave out --streaming" in told


def test_a_row_that_only_names_a_file_is_dropped(
    there: hub.Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = there.root / "org" / "corpus" / "data"
    [good] = pq.read_table(folder.parent / TRAIN).slice(0, 1).to_pylist()
    bad = good | {"audio": {"bytes": None, "path": "a.wav"}}
    write_shard(folder / "dev-00000-of-00001.parquet", FEATURES, [bad, good])
    assert prepare(tmp_path / "out", "--splits", "dev") == 0
    said = capsys.readouterr().out
    assert "dropped 1: audio that cannot be read" in said
    assert "found the path 'a.wav'; drop the row" in said


def test_a_manifest_is_read_as_any_other(there: hub.Hub, tmp_path: Path) -> None:
    assert prepare(tmp_path / "out", "--splits", "train") == 0
    path = tmp_path / "out" / "train.jsonl"
    assert run_blsp(["data", "validate", "--decode", str(path)]) == 0
    assert run_blsp(["data", "stats", str(path)]) == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(row["audio"].startswith("hf://") for row in rows)
