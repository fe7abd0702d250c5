"""Training reads archives: batches out of zip, tar and parquet files equal those out of files."""

import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader
from training import WORDS, build_dataset, build_model, save_models, write_conversations

from blsp.archive import open_source
from blsp.collator import Collator
from blsp.model import BlspProcessor
from blsp.sampler import BatchConfig, DurationBatchSampler

BATCHES = BatchConfig(max_seconds=2, max_tokens=1000, max_examples=3)
ARCHIVES = ("stored.zip", "deflated.zip", "clips.tar", "clips.parquet")


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> BlspProcessor:
    folder = tmp_path_factory.mktemp("models")
    save_models(folder)
    return build_model(folder)[1]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_conversations(tmp_path_factory.mktemp("corpus"))


def pack(folder: Path, out: Path) -> dict[str, dict[str, str]]:
    """All recordings into each archive; returns archive -> file -> where it is now."""
    names = [f"{word}.wav" for word in WORDS]
    for archive, method in zip(ARCHIVES, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED), strict=False):
        with zipfile.ZipFile(out / archive, "w", method) as packed:
            for name in names:
                packed.write(folder / name, name)
    with tarfile.open(out / "clips.tar", "w") as packed:
        for name in names:
            packed.add(folder / name, name)
    cells = [{"bytes": (folder / name).read_bytes(), "path": name} for name in names]
    pq.write_table(pa.table({"audio": cells}), out / "clips.parquet", row_group_size=3)
    places = {a: {name: f"{a}::{name}" for name in names} for a in ARCHIVES[:3]}
    rows = {name: f"clips.parquet::audio/{row}" for row, name in enumerate(names)}
    return {**places, "clips.parquet": rows}


def point_at(conversations: Path, places: dict[str, dict[str, str]], out: Path) -> Path:
    """The conversations with their audio taken from one archive after the other."""
    lines = []
    for number, line in enumerate(conversations.read_text().splitlines()):
        row = json.loads(line)
        [part] = [part for part in row["messages"][0]["content"] if part["type"] == "audio"]
        part["audio"] = places[ARCHIVES[number % len(ARCHIVES)]][part["audio"]]
        lines.append(json.dumps(row) + "\n")
    path = out / "archived.jsonl"
    path.write_text("".join(lines))
    return path


def batches(path: Path, processor: BlspProcessor, *, workers: int) -> list[dict[str, Any]]:
    """Two epochs, as training reads them."""
    dataset = build_dataset(path, processor)
    sampler = DurationBatchSampler(dataset.durations, dataset.tokens, BATCHES)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=Collator(0), num_workers=workers)
    found = list(loader)
    sampler.set_epoch(1)
    return found + list(loader)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 3])
def test_batches_are_the_same_wherever_the_audio_lies(
    files: Path, processor: BlspProcessor, tmp_path: Path, workers: int
) -> None:
    places = pack(files.parent, tmp_path)
    archived = point_at(files, places, tmp_path)
    for archive in ARCHIVES:  # what workers inherit is not what they are to read first
        with open_source(places[archive]["lime.wav"], root=tmp_path) as file:
            assert file.read(4) == b"RIFF"
    expected = batches(files, processor, workers=0)
    found = batches(archived, processor, workers=workers)
    assert sum(len(batch["ids"]) for batch in found) == 2 * len(WORDS)
    assert [batch["left_out"] for batch in found] == [batch["left_out"] for batch in expected]
    for one, other in zip(expected, found, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            same = torch.equal(value, other[key]) if torch.is_tensor(value) else value == other[key]
            assert same, key
        assert one["input_features"].abs().sum() > 0
