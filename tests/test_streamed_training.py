"""Training on audio that stays on the hub: the same losses, the same order, few requests."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_trainer import _StopAt, configure
from torch.utils.data import DataLoader
from training import WORDS, build_dataset, build_model, read_log, save_models, write_conversations

from blsp import parquet, regions, remote
from blsp.collator import Collator
from blsp.dataset import ConversationDataset
from blsp.errors import InputError, UnreachableError, describe_error
from blsp.model import BlspProcessor
from blsp.objectives import LossConfig
from blsp.progress import Progress
from blsp.sampler import BatchConfig, DurationBatchSampler
from blsp.trainer import AlignmentTrainer, find_checkpoints

FILE = "data/train-00000-of-00001.parquet"
GROUP = 2  # rows; the eight words are four groups


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_models(folder)
    return folder


@pytest.fixture(scope="module")
def processor(models: Path) -> BlspProcessor:
    return build_model(models)[1]


@dataclass
class Corpus:
    """The same conversations twice, and who serves the audio of the one."""

    here: Path
    there: Path
    hub: hub.Hub

    def count_groups(self) -> Counter[str | None]:
        """Ranges of the file that were sent, without those of its footer."""
        return Counter(range_ for _, range_ in self.hub.served[2:])


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Corpus]:
    """In regions of one group, and a cache of three of them."""
    parquet._read_footer.cache_clear()
    parquet._CHUNKS.clear()
    monkeypatch.setattr(remote, "_FIRST_WAIT", 0.0)
    monkeypatch.setattr(remote, "_LONGEST_WAIT", 0.0)
    monkeypatch.setattr(regions, "REGION_BYTES", 10_000)
    monkeypatch.setattr(parquet, "CACHE_BYTES", 200_000)
    local = write_conversations(tmp_path / "local")
    folder = tmp_path / "root" / "org" / "hums"
    (folder / "data").mkdir(parents=True)
    cells = [{"bytes": (local.parent / f"{word}.wav").read_bytes(), "path": None} for word in WORDS]
    schema = pa.schema({"audio": pa.struct({"bytes": pa.binary(), "path": pa.string()})})
    rows = pa.Table.from_pylist([{"audio": cell} for cell in cells], schema=schema)
    pq.write_table(rows, folder / FILE, row_group_size=GROUP)
    name = f"hf://datasets/org/hums@{hub.commit_of(folder)}/{FILE}"
    (local.parent / "x.parquet").write_bytes((folder / FILE).read_bytes())
    here, there = point_at(local, "x.parquet", "here"), point_at(local, name, "there")
    with hub.serve(tmp_path / "root") as served:
        hub.use(served, tmp_path / "cache", monkeypatch)
        yield Corpus(here, there, served)


def point_at(conversations: Path, file: str, name: str) -> Path:
    """The conversations with their audio in one parquet file."""
    lines = []
    for number, line in enumerate(conversations.read_text().splitlines()):
        row = json.loads(line)
        [part] = [part for part in row["messages"][0]["content"] if part["type"] == "audio"]
        part["audio"] = f"{file}::audio/{number}"
        lines.append(json.dumps(row) + "\n")
    path = conversations.parent / f"{name}.jsonl"
    path.write_text("".join(lines))
    return path


def build(models: Path, data: ConversationDataset, output: Path, **changes: Any) -> Any:
    model, processor = build_model(models)
    config = replace(configure(output, batch_examples=2), **changes)
    progress = Progress(lambda line: None)
    trainer = AlignmentTrainer(
        model, processor, config=config, loss=LossConfig(), train=data, callbacks=[progress]
    )
    progress.trainer = trainer
    return trainer


def losses(output: Path) -> list[float]:
    return [row["loss"] for row in read_log(output) if "loss" in row]


def test_the_losses_are_those_of_the_same_file_here(
    models: Path, processor: BlspProcessor, corpus: Corpus, tmp_path: Path
) -> None:
    remote_data, local = (
        build_dataset(corpus.there, processor),
        build_dataset(corpus.here, processor),
    )
    assert local.regions is None and remote_data.regions is not None
    assert remote_data.regions.numbers.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    local.regions = remote_data.regions  # in the same order
    build(models, remote_data, tmp_path / "there", steps=8).train()
    asked = corpus.hub.requests
    build(models, local, tmp_path / "here", steps=8).train()
    assert corpus.hub.requests == asked
    assert len(losses(tmp_path / "there")) == 8
    assert losses(tmp_path / "there") == losses(tmp_path / "here")


def test_a_resumed_run_goes_on_in_the_same_order(
    models: Path, processor: BlspProcessor, corpus: Corpus, tmp_path: Path
) -> None:
    """Six steps, of which four are an epoch, are three and three more, to the bit."""
    data = build_dataset(corpus.there, processor)
    build(models, data, tmp_path / "whole", steps=6).train()
    first = build(models, data, tmp_path / "parts", steps=6, save_steps=3)
    first.add_callback(_StopAt(3))
    first.train()
    parquet._read_footer.cache_clear()
    parquet._CHUNKS.clear()
    fresh = build_dataset(corpus.there, processor)
    again = build(models, fresh, tmp_path / "parts", steps=6, save_steps=3)
    [checkpoint] = find_checkpoints(tmp_path / "parts")
    again.train(resume_from_checkpoint=str(checkpoint))
    assert len(losses(tmp_path / "whole")) == 6
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def load(data: ConversationDataset, **options: Any) -> list[list[str]]:
    """The ids of an epoch's batches, as training reads them."""
    bounds = BatchConfig(max_seconds=2, max_tokens=1000, max_examples=1)
    sampler = DurationBatchSampler(data.durations, data.tokens, bounds, regions=data.regions)
    loader = DataLoader(data, batch_sampler=sampler, collate_fn=Collator(0), **options)
    return [batch["ids"] for batch in loader]


def test_an_epoch_asks_for_each_group_once(processor: BlspProcessor, corpus: Corpus) -> None:
    found = load(build_dataset(corpus.there, processor))
    assert sorted(found) == sorted([word] for word in WORDS)
    assert [range_ for _, range_ in corpus.hub.served[:1]] == ["bytes=0-3"]
    assert len(corpus.count_groups()) == 4
    assert set(corpus.count_groups().values()) == {1}


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_processes_that_load_do_not_ask_for_footers_again(
    processor: BlspProcessor, corpus: Corpus
) -> None:
    data = build_dataset(corpus.there, processor)
    assert sorted(load(data, num_workers=2)) == sorted([word] for word in WORDS)
    assert len(corpus.count_groups()) == 4
    assert max(corpus.count_groups().values()) <= 2


def test_audio_here_and_there_is_mixed_by_weight(processor: BlspProcessor, corpus: Corpus) -> None:
    data = build_dataset(corpus.there, processor)
    config = replace(data.config, conversations=(corpus.here, corpus.there), weights=(0.5, 2.0))
    mixed = ConversationDataset(config, data.renderer, data.load_features, data.num_speech_tokens)
    assert mixed.regions is not None
    assert mixed.regions.numbers.tolist() == [-1] * 4 + [0, 0, 1, 1, 2, 2, 3, 3] * 2
    assert len(load(mixed)) == 4 + 16


def test_a_hub_that_does_not_answer_stops_and_counts_nothing(
    processor: BlspProcessor, corpus: Corpus
) -> None:
    data = build_dataset(corpus.there, processor, max_unreadable_share=1.0)
    corpus.hub.busy[FILE] = [503] * 100
    with pytest.raises(UnreachableError, match="expected the hub to answer"):
        data[0]
    assert data.unreadable == {}


def test_a_busy_hub_is_waited_for(processor: BlspProcessor, corpus: Corpus) -> None:
    data = build_dataset(corpus.there, processor)
    corpus.hub.busy[FILE] = [503, 429]
    corpus.hub.cut_once.add(FILE)
    assert len(load(data)) == len(WORDS)
    assert data.unreadable == {}


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_out_of_a_loading_process_the_error_is_one_line_too(
    processor: BlspProcessor, corpus: Corpus
) -> None:
    data = build_dataset(corpus.there, processor)
    corpus.hub.busy[FILE] = [503] * 100
    with pytest.raises(UnreachableError) as caught:
        load(data, num_workers=1)
    told = describe_error(caught.value)
    assert told.startswith("hf://datasets/org/hums@") and told.endswith("then run this again")


def test_a_file_that_is_not_there_is_said_before_the_first_step(
    processor: BlspProcessor, corpus: Corpus
) -> None:
    text = corpus.there.read_text().replace("data/train", "data/dev")
    corpus.there.write_text(text)
    with pytest.raises(InputError, match="found no such file"):
        build_dataset(corpus.there, processor)


def test_a_row_without_audio_counts_as_unreadable(processor: BlspProcessor, corpus: Corpus) -> None:
    corpus.there.write_text(corpus.there.read_text().replace("::audio/7", "::audio/99"))
    data = build_dataset(corpus.there, processor, max_unreadable_share=0.5)
    load(data)
    assert list(data.unreadable) == ["lime"]
