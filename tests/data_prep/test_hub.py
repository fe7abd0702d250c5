"""`blsp prep hub` on data sets as the hub's own library writes them, without the hub."""

import io
import json
import socket
import tarfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from datasets import config as datasets_config
from datasets.exceptions import DatasetNotFoundError

from blsp import cells, hub
from blsp.audio import load_audio
from blsp.cli import main as run_blsp
from blsp.columns import find_columns
from blsp.errors import InputError
from blsp.manifest import find_root, read_manifest, read_meta
from blsp.validation import validate

TYPES = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64()}
AUDIO = {"sampling_rate": 16000, "_type": "Audio"}
MOODS = {"names": ["neu", "hap"], "_type": "ClassLabel"}


def value(dtype: str) -> dict[str, str]:
    return {"dtype": dtype, "_type": "Value"}


def encode(kind: str = "FLAC", seconds: float = 0.5) -> bytes:
    """Noise as a file of some format."""
    samples = np.random.default_rng(0).normal(0, 0.1, round(seconds * 16_000))
    file = io.BytesIO()
    subtype = "OPUS" if kind == "OPUS" else None
    soundfile.write(file, samples, 16_000, format="OGG" if subtype else kind, subtype=subtype)
    return file.getvalue()


def write_shard(path: Path, features: dict[str, Any], rows: list[dict[str, Any]]) -> Path:
    """Parquet as on the hub: the types of `datasets` stand in the metadata of the schema."""
    arrow = {
        "Audio": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        "ClassLabel": pa.int64(),
    }
    fields = [
        (name, arrow.get(each["_type"]) or TYPES[each["dtype"]]) for name, each in features.items()
    ]
    info = json.dumps({"info": {"features": features}})
    schema = pa.schema(fields, metadata={"huggingface": info})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=2)
    return path


FEATURES = {
    "audio": AUDIO,
    "sentence": value("string"),
    "id": value("int64"),
    "emotion": MOODS,
    "speaker_id": value("int64"),
    "snr": value("float64"),
}
ROWS = [
    ("FLAC", "Hello  there.", 7, 1, 3, 12.5),
    ("MP3", "Good\nday.", 8, 0, 4, None),
    ("OPUS", "Good day.", 8, -1, 4, float("nan")),
    ("WAV", None, 9, 0, 4, 1.0),
]


def write_corpus(folder: Path) -> Path:
    """Two shards of `train` and one of `test`, as `push_to_hub` leaves them."""
    names = list(FEATURES)[1:]
    rows = [
        {"audio": {"bytes": encode(kind), "path": None}} | dict(zip(names, rest, strict=True))
        for kind, *rest in ROWS
    ]
    write_shard(folder / "data" / "train-00000-of-00002.parquet", FEATURES, rows[:3])
    write_shard(folder / "data" / "train-00001-of-00002.parquet", FEATURES, rows[3:])
    write_shard(folder / "data" / "test-00000-of-00001.parquet", FEATURES, rows[:1])
    return folder


@pytest.fixture(autouse=True)
def nobody_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a host was asked")

    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def prepare(source: Path | str, out: Path, *options: str) -> int:
    return run_blsp(["prep", "hub", str(source), "--out", str(out), *options])


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_parquet_files_on_this_machine_are_referred_to_in_place(tmp_path: Path) -> None:
    corpus, out = write_corpus(tmp_path / "corpus"), tmp_path / "out"
    assert prepare(corpus, out, "--license", "CC0-1.0", "--language", "en") == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "test.jsonl",
        "test.meta.json",
        "train.jsonl",
        "train.meta.json",
    ]
    shared = {"language": "en", "license": "CC0-1.0", "source": "corpus"}
    shard = "data/train-00000-of-00002.parquet::audio"
    first = {"id": "7", "audio": f"{shard}/0", "duration": 0.5, "text": "Hello there."}
    second = {"id": "8", "audio": f"{shard}/1", "duration": 0.5, "text": "Good day."}
    third = {"id": "8-2", "audio": f"{shard}/2", "duration": 0.5, "text": "Good day."}
    assert rows_of(out / "train.jsonl") == [
        first | shared | {"speaker": "3", "emotion": "hap", "snr": 12.5},
        second | shared | {"speaker": "4", "emotion": "neu"},
        third | shared | {"speaker": "4"},
    ]
    report = validate(out / "train.jsonl")
    assert (report.rows, report.seconds, report.problems, report.warnings) == (3, 1.5, [], [])
    assert run_blsp(["data", "validate", "--decode", str(out / "train.jsonl")]) == 0
    root = find_root(out / "train.jsonl")
    assert root.samefile(corpus)
    assert len(load_audio(f"{shard}/2", root=root)) == 8000


def test_rows_without_words_are_dropped_and_counted_or_kept_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    assert prepare(corpus, tmp_path / "a", "--splits", "train") == 0
    shard = corpus / "data" / "train-00001-of-00002.parquet"
    assert f"  dropped 1: no words\n    {shard}: row 0\n" in capsys.readouterr().out
    assert prepare(corpus, tmp_path / "b", "--splits", "train", "--untranscribed") == 0
    last = rows_of(tmp_path / "b" / "train.jsonl")[-1]
    assert (last["id"], last["text"]) == ("9", None)
    assert last["audio"] == "data/train-00001-of-00002.parquet::audio/0"


def test_a_finished_split_is_not_done_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    prepare(corpus, tmp_path / "out")
    monkeypatch.setattr(hub, "_read_parquet", None)
    capsys.readouterr()
    assert prepare(corpus, tmp_path / "out") == 0
    said = capsys.readouterr().out.splitlines()[1:]
    assert [line.partition(" h ")[2] for line in said] == ["(there since an earlier run)"] * 2
    assert prepare(corpus, tmp_path / "out", "--untranscribed") == 2
    assert "delete it or choose another --out" in capsys.readouterr().err


def test_one_file_is_a_split_of_its_name(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    shard = corpus / "data" / "test-00000-of-00001.parquet"
    assert prepare(shard, tmp_path / "out") == 0
    [row] = rows_of(tmp_path / "out" / "test.jsonl")
    assert row["audio"] == "test-00000-of-00001.parquet::audio/0"


def test_shards_of_any_name_are_splits_of_it(tmp_path: Path) -> None:
    rows = [{"audio": {"bytes": encode(), "path": None}, "text": "yes"}]
    for name in ("gbr-00000-of-00002", "gbr-00001-of-00002", "ind_n-00000-of-00001"):
        features = {"audio": AUDIO, "text": value("string")}
        write_shard(tmp_path / "corpus" / f"{name}.parquet", features, rows)
    assert prepare(tmp_path / "corpus", tmp_path / "out") == 0
    assert [row["id"] for row in rows_of(tmp_path / "out" / "gbr.jsonl")] == ["gbr-0", "gbr-1"]
    assert [row["id"] for row in rows_of(tmp_path / "out" / "ind_n.jsonl")] == ["ind_n-0"]


def test_a_snapshot_in_the_cache_of_the_hub_is_read_through_its_links(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "datasets--a--b" / "snapshots" / "1234")
    blobs = tmp_path / "datasets--a--b" / "blobs"
    blobs.mkdir()
    for number, shard in enumerate(sorted(corpus.rglob("*.parquet"))):
        shard.rename(blobs / str(number))
        shard.symlink_to(blobs / str(number))
    assert prepare(corpus, tmp_path / "out", "--splits", "test") == 0
    [row] = rows_of(tmp_path / "out" / "test.jsonl")
    assert row["audio"] == "snapshots/1234/data/test-00000-of-00001.parquet::audio/0"


def test_columns_are_named_by_the_user(tmp_path: Path) -> None:
    features = {
        "clip": AUDIO,
        "words": value("string"),
        "label": MOODS,
        "german": value("string"),
        "texts": value("string"),
        "duration": value("float64"),
    }
    row = {"clip": {"bytes": encode(), "path": None}, "words": "yes", "label": 1}
    row |= {"german": "ja", "texts": "many", "duration": 9.0}
    write_shard(tmp_path / "corpus" / "train.parquet", features, [row])
    pairs = ["text=words", "emotion=label", "translation_de=german"]
    options = [word for pair in pairs for word in ("--column", pair)]
    assert prepare(tmp_path / "corpus", tmp_path / "out", *options) == 0
    assert rows_of(tmp_path / "out" / "train.jsonl") == [
        {
            "id": "train-0",
            "audio": "train.parquet::clip/0",
            "duration": 0.5,
            "text": "yes",
            "emotion": "hap",
            "translation": {"de": "ja"},
            "source": "corpus",
            "column_texts": "many",  # a manifest would take `texts` for a mistyped `text`
        }
    ]
    meta = read_meta(tmp_path / "out" / "train.jsonl")
    assert meta is not None
    assert meta.command.endswith(
        "--splits train --column emotion=label --column text=words --column translation_de=german"
    )


# --- audio that cannot stay where it is -----------------------------------------------------------


def write_audio_folder(folder: Path) -> Path:
    """Files beside a table, as the library's `audiofolder`."""
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "a.ogg").write_bytes(encode("OPUS"))
    (folder / "train" / "b.bin.wav").write_bytes(encode("MP3"))
    rows = [
        {"file_name": "a.ogg", "transcription": "one", "accent": "x"},
        {"file_name": "b.bin.wav", "transcription": "two", "accent": "y"},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "train" / "metadata.jsonl").write_text(text)
    return folder


def test_a_folder_of_audio_is_written_as_it_is_with_endings_by_content(tmp_path: Path) -> None:
    corpus, out = write_audio_folder(tmp_path / "corpus"), tmp_path / "out"
    assert prepare(corpus, out) == 0
    shared = {"duration": 0.5, "source": "corpus"}
    assert rows_of(out / "train.jsonl")[0] == shared | {
        "id": "train-0",
        "audio": "audio/train/0000000.opus",
        "text": "one",
        "accent": "x",
    }
    files = {path.name: path.read_bytes() for path in (out / "audio" / "train").iterdir()}
    assert files == {
        "0000000.opus": (corpus / "train" / "a.ogg").read_bytes(),
        "0000001.mp3": (corpus / "train" / "b.bin.wav").read_bytes(),
    }
    assert find_root(out / "train.jsonl").samefile(out)
    assert validate(out / "train.jsonl").problems == []


def test_a_killed_run_writes_only_what_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, out = write_audio_folder(tmp_path / "corpus"), tmp_path / "out"
    find_suffix = cells.find_suffix

    def interrupt(data: bytes, path: str) -> str:
        if path.endswith("b.bin.wav"):
            raise KeyboardInterrupt
        return find_suffix(data, path)

    monkeypatch.setattr(cells, "find_suffix", interrupt)
    assert prepare(corpus, out) == 130
    monkeypatch.undo()
    first = out / "audio" / "train" / "0000000.opus"
    before = first.stat()
    assert prepare(corpus, out) == 0
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert len(list((out / "audio" / "train").iterdir())) == 2
    assert len(rows_of(out / "train.jsonl")) == 2


def test_a_saved_data_set_is_read(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    files = str(corpus / "data" / "test-00000-of-00001.parquet")
    loaded: Any = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path / "cache"))
    kept = loaded.cast_column("audio", datasets.Audio(decode=False))
    datasets.DatasetDict({"test": kept}).save_to_disk(str(tmp_path / "saved"))
    assert prepare(tmp_path / "saved", tmp_path / "out") == 0
    [row] = rows_of(tmp_path / "out" / "test.jsonl")
    assert (row["audio"], row["emotion"]) == ("audio/test/0000000.flac", "hap")


def test_tar_shards_are_read_and_a_part_of_a_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    members = [("a.flac", encode()), ("a.json", b'{"text": "yes"}')]
    with tarfile.open(tmp_path / "corpus" / "train-0.tar", "w") as shard:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))
    assert prepare(tmp_path / "corpus", tmp_path / "out", "--column", "text=json.text") == 0
    assert rows_of(tmp_path / "out" / "train.jsonl") == [
        {
            "id": "a",
            "audio": "audio/train/0000000.flac",
            "duration": 0.5,
            "text": "yes",
            "source": "corpus",
        }
    ]


def test_samples_in_a_table_become_a_file_without_loss(tmp_path: Path) -> None:
    """As data sets have them that were written decoded."""
    samples = np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)
    cell = {"array": samples.tolist(), "sampling_rate": 8000, "path": "a.flac"}
    (tmp_path / "corpus").mkdir()
    table = pa.Table.from_pylist([{"audio": cell, "text": "yes"}])
    pq.write_table(table, tmp_path / "corpus" / "train.parquet")
    assert prepare(tmp_path / "corpus", tmp_path / "out") == 0
    [row] = rows_of(tmp_path / "out" / "train.jsonl")
    assert row["audio"] == "audio/train/0000000.wav"
    written, rate = soundfile.read(tmp_path / "out" / row["audio"], dtype="float32")
    assert rate == 8000
    assert np.array_equal(written, samples)


def test_a_decoder_gives_its_samples() -> None:
    """torchcodec's has this shape; it need not be installed."""

    class AudioDecoder:
        def get_all_samples(self) -> Any:
            return type("Samples", (), {"data": np.zeros((2, 80)), "sample_rate": 16000})

    data = cells.find_bytes(AudioDecoder())
    assert data is not None
    assert soundfile.info(io.BytesIO(data)).channels == 2


def test_rows_without_audio_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "corpus").mkdir()
    lines = [{"audio": None}, {"audio": "no.wav"}, {"audio": "http://a/b.wav"}, {"audio": "a.wav"}]
    text = "".join(json.dumps(line | {"text": "yes"}) + "\n" for line in lines)
    (tmp_path / "corpus" / "train.jsonl").write_text(text)
    (tmp_path / "corpus" / "a.wav").write_bytes(encode("WAV"))
    assert prepare(tmp_path / "corpus", tmp_path / "out") == 0
    where = f"{tmp_path}/corpus train: row"
    said = capsys.readouterr().out
    assert f"  dropped 1: no audio\n    {where} 0\n" in said
    assert f"  dropped 2: no audio file\n    {where} 1: no.wav\n    {where} 2: http" in said
    [row] = rows_of(tmp_path / "out" / "train.jsonl")
    assert row["audio"] == "audio/train/0000003.wav"


# --- the hub --------------------------------------------------------------------------------------


def test_what_the_hub_has_is_written_below_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, asked = write_corpus(tmp_path / "elsewhere"), []
    load = datasets.load_dataset_builder

    def answer(path: str, name: str | None = None, **more: Any) -> Any:
        asked.append((path, name, more["revision"]))
        return load(str(corpus))

    monkeypatch.setattr(datasets, "load_dataset_builder", answer)
    named = ["--config", "en", "--revision", "v1", "--splits", "train"]
    assert prepare("org/corpus", tmp_path / "out", *named) == 0
    assert asked == [("org/corpus", "en", "v1")]
    first, *_, last = rows_of(tmp_path / "out" / "train.jsonl")
    assert first == {
        "id": "7",
        "audio": "audio/train/0000000.flac",
        "duration": 0.5,
        "text": "Hello there.",
        "speaker": "3",
        "emotion": "hap",
        "source": "org/corpus",
        "snr": 12.5,
    }
    assert last["audio"] == "audio/train/0000002.opus"
    meta = read_meta(tmp_path / "out" / "train.jsonl")
    assert meta is not None
    assert meta.command.endswith("--splits train --config en --revision v1")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError("Dataset scripts are no longer supported, but found covost2.py"),
            "found a loading script, which is never run; add --revision refs/convert/parquet, or "
            "name a mirror or a folder with its parquet files",
        ),
        (
            ConnectionError("Couldn't reach 'a/b' on the Hub (OfflineModeIsEnabled)"),
            "a/b: expected the hub, found HF_HUB_OFFLINE=1; unset it, or name a folder",
        ),
        (
            ValueError("Config name is missing.\nPlease pick one among: ['x', 'y']\nExample of"),
            "expected the name of a configuration, found: Config name is missing. Please pick one "
            "among: ['x', 'y'] Example of; name one with --config",
        ),
        (
            DatasetNotFoundError("Dataset 'a/b' doesn't exist"),
            "expected a data set on the hub, found: Dataset 'a/b' doesn't exist; check name",
        ),
    ],
)
def test_what_the_hub_does_not_give_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    message: str,
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(datasets, "load_dataset_builder", refuse)
    assert prepare("a/b", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


# --- what a user can get wrong --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--splits", "tset"], "found 'tset'; did you mean 'test'?"),
        (["--column", "text"], "--column: expected KEY=COLUMN, found 'text'"),
        (["--column", "text=sentense"], "found none of that name; did you mean 'sentence'?"),
        (["--column", "duration=snr"], "a key that a column can fill, found 'duration'"),
        (["--column", "text=audio"], "a column of text or numbers, found audio"),
    ],
)
def test_a_wrong_option_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert prepare(write_corpus(tmp_path / "corpus"), tmp_path / "out", *options) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_source_that_is_nowhere_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 but not really")
    for name, message in (
        ("nowhere", "expected a folder, a .parquet file or the id of a data set on the hub"),
        ("empty", "expected a data set of audio that can be read, found: The directory at"),
        ("bad.parquet", "expected a data set of audio that can be read, found: Parquet magic"),
    ):
        assert prepare(tmp_path / name, tmp_path / "out") == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1


# --- which column is what -------------------------------------------------------------------------

AUDIO_TYPE = datasets.Audio(sampling_rate=16000)
TEXT = datasets.Value("string")


@pytest.mark.parametrize(
    ("features", "audio", "text"),
    [
        ({"audio": AUDIO_TYPE, "text": TEXT, "sentence": TEXT}, "audio", "text"),
        ({"context": AUDIO_TYPE, "raw_text": TEXT, "transcript": TEXT}, "context", "transcript"),
        ({"context": TEXT, "speech": AUDIO_TYPE, "normalized_text": TEXT}, "speech", None),
        ({"file": TEXT, "sentence": TEXT}, "file", "sentence"),
        ({"mp3": AUDIO_TYPE, "txt": TEXT}, "mp3", "txt"),
        ({"question": AUDIO_TYPE, "transcription": TEXT}, "question", "transcription"),
        ({"x": {"bytes": datasets.Value("binary"), "path": TEXT}, "text": TEXT}, "x", "text"),
    ],
)
def test_audio_and_words_are_found_by_their_usual_names(
    features: dict[str, Any], audio: str, text: str | None
) -> None:
    found = find_columns(features, {}, where="x", untranscribed=True)
    assert (found.audio, found.text) == (audio, text or "normalized_text")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"text": TEXT}, "x: expected a column of audio, found text; name it by --column audio="),
        ({"audio1": AUDIO_TYPE, "audio2": AUDIO_TYPE, "text": TEXT}, "expected a column of audio"),
        ({"audio": AUDIO_TYPE, "answer": TEXT}, "words, found audio, answer; name it by --column"),
        ({"audio": AUDIO_TYPE, "text": TEXT, "translation": TEXT}, "translation_de=translation"),
    ],
)
def test_what_cannot_be_found_is_asked_for(features: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_columns(features, {}, where="x", untranscribed=False)


def test_translations_by_language_and_lists_of_texts_are_kept() -> None:
    features = {
        "audio": AUDIO_TYPE,
        "text": TEXT,
        "translation": datasets.Translation(languages=["de", "fr"]),
        "tags": datasets.List(TEXT),
        "codes": datasets.List(datasets.Value("int32")),
        "offset": datasets.Value("float32"),
    }
    found = find_columns(features, {}, where="x", untranscribed=False)
    assert found.read == ["text", "translation", "tags", "offset"]
    row = {"translation": {"de": "ja", "fr": None}, "tags": ["a"], "offset": 0.5}
    assert found.find_labels(row) == {
        "translation": {"de": "ja"},
        "tags": ["a"],
        "column_offset": 0.5,
    }


def test_every_row_of_the_manifest_reads_back(tmp_path: Path) -> None:
    assert prepare(write_corpus(tmp_path / "corpus"), tmp_path / "out") == 0
    found = list(read_manifest(tmp_path / "out" / "train.jsonl"))
    assert [utterance.emotion for utterance in found] == ["hap", "neu", None]
