"""Audio that stays on the hub: what names it, what is asked for, and what happens on a bad day."""

import json
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from huggingface_hub import constants

from blsp import parquet, remote
from blsp.archive import open_source
from blsp.audio import load_audio, read_audio_info
from blsp.cli import main
from blsp.errors import InputError, UnreachableError
from blsp.manifest import Meta, Utterance, find_root, read_manifest, write_rows
from blsp.rows import check_utterance

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILE = "data/train-00000-of-00001.parquet"
ROWS, GROUP = 10, 4


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is remembered of other tests, and nobody waits."""
    parquet._read_footer.cache_clear()
    parquet._CHUNKS.clear()
    monkeypatch.setattr(remote, "_FIRST_WAIT", 0.0)
    monkeypatch.setattr(remote, "_LONGEST_WAIT", 0.0)


def content(row: int) -> bytes:
    """Bytes of no kind of audio, which do not pack."""
    return np.random.default_rng(row).bytes(3000)


def write_file(root: Path) -> str:
    """One file in groups of four rows, with a column on either side of the audio."""
    folder = root / "org" / "data.v1"
    path = folder / FILE
    path.parent.mkdir(parents=True)
    cells = [{"bytes": content(row), "path": f"{row}.wav"} for row in range(ROWS)]
    lines = [f"line {row}" for row in range(ROWS)]
    wide = [np.random.default_rng(row).bytes(5000) for row in range(ROWS)]
    table = pa.table({"text": lines, "audio": cells, "wide": wide})
    pq.write_table(table, path, row_group_size=GROUP)
    return f"hf://datasets/org/data.v1@{hub.commit_of(folder)}/{FILE}"


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[hub.Hub, str]]:
    """A hub, and the name of a file on it."""
    name = write_file(tmp_path / "root")
    with hub.serve(tmp_path / "root") as here:
        hub.use(here, tmp_path / "cache", monkeypatch)
        yield here, name


def read(source: str) -> bytes:
    with open_source(source, root=Path("no/such/root")) as file:
        return file.read()


# --- names ----------------------------------------------------------------------------------------


def problems_of(audio: str) -> list[str]:
    return check_utterance({"id": "a", "audio": audio, "duration": 1.0, "text": "on"})


@pytest.mark.parametrize(
    "audio",
    [
        f"hf://datasets/org/name@{COMMIT}/x.parquet::audio/17",
        f"hf://datasets/my-org/na.me_2@{COMMIT}/en/train 00%/x-of-2.parquet::a b.c/0",
    ],
)
def test_a_row_of_a_file_at_a_commit_is_a_place_for_audio(audio: str) -> None:
    assert problems_of(audio) == []


@pytest.mark.parametrize(
    "audio",
    [
        "hf://datasets/org/name@main/x.parquet::audio/17",
        f"hf://datasets/org/name@{COMMIT[1:]}/x.parquet::audio/17",
        f"hf://datasets/org/name@{COMMIT}/x.parquet",
        f"hf://datasets/org/name@{COMMIT}/x.parquet::17",
        f"hf://datasets/org/name@{COMMIT}/x.parquet::audio/last",
        f"hf://datasets/org/name@{COMMIT}/x.wav",
        f"hf://datasets/org/name@{COMMIT}/x.tar::a.wav",
        f"hf://datasets/org/name@{COMMIT}/../x.parquet::audio/17",
        f"hf://datasets/org/name@{COMMIT}//x.parquet::audio/17",
        f"hf://datasets/name@{COMMIT}/x.parquet::audio/17",
        f"hf://datasets/../name@{COMMIT}/x.parquet::audio/17",
        f"hf://org/name@{COMMIT}/x.parquet::audio/17",
        f"hf://datasets/org/name@{COMMIT}/x.parquet::audio/17\n",
    ],
)
def test_no_other_name_on_the_hub_is(audio: str) -> None:
    [problem] = problems_of(audio)
    assert problem.startswith(f"audio: expected {remote.FORM}::COLUMN/ROW, found 'hf://")
    with pytest.raises(InputError, match="COLUMN/ROW, found another form"):
        open_source(audio)


@pytest.mark.parametrize("scheme", ["http", "https", "s3", "HF", "file"])
def test_no_other_host_is(scheme: str) -> None:
    [problem] = problems_of(f"{scheme}://datasets/org/name@{COMMIT}/x.parquet::audio/1")
    assert "expected a file on this machine" in problem


# --- what is read ---------------------------------------------------------------------------------


def test_a_row_is_read_with_its_group_and_nothing_else(served: tuple[hub.Hub, str]) -> None:
    here, name = served
    assert [read(f"{name}::audio/{row}") for row in (5, 4, 7)] == [
        content(5),
        content(4),
        content(7),
    ]
    assert {file for file, _ in here.served} == {FILE}
    size, tail, group = (range_ for _, range_ in here.served)
    assert size == "bytes=0-3"
    assert tail is not None and group is not None
    begin, end = map(int, group.removeprefix("bytes=").split("-"))
    assert GROUP * 3000 < end - begin < GROUP * 3000 + 2 * 3000 + 1000  # and a group's extremes


def test_each_group_is_read_once(served: tuple[hub.Hub, str]) -> None:
    here, name = served
    assert [read(f"{name}::audio/{row}") for row in range(ROWS)] == list(map(content, range(ROWS)))
    assert len(here.served) == 2 + 3


def test_threads_wait_for_the_one_that_reads(served: tuple[hub.Hub, str]) -> None:
    here, name = served
    read(f"{name}::audio/9")
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(read, [f"{name}::audio/{row}" for row in [0, 1, 2, 3] * 4]))
    assert found == [content(row) for row in [0, 1, 2, 3] * 4]
    assert len(here.served) == 2 + 2


def test_a_footer_longer_than_what_is_read_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "root" / "org" / "long"
    folder.mkdir(parents=True)
    table = pa.table({"audio": [content(0)]}).replace_schema_metadata({"about": "x" * 200_000})
    pq.write_table(table, folder / "a.parquet")
    with hub.serve(tmp_path / "root") as here:
        hub.use(here, tmp_path / "cache", monkeypatch)
        name = f"hf://datasets/org/long@{hub.commit_of(folder)}/a.parquet"
        assert read(f"{name}::audio/0") == content(0)
    assert len(here.served) == 3 + 1


def test_the_columns_of_a_row_come_without_its_audio(served: tuple[hub.Hub, str]) -> None:
    here, name = served
    rows = list(parquet.read_rows(name, ["text"]))
    assert rows == [{"text": f"line {row}"} for row in range(ROWS)]
    ranges = [range_.removeprefix("bytes=").split("-") for _, range_ in here.served[2:] if range_]
    assert [int(end) - int(begin) < 500 for begin, end in ranges] == [True] * 3
    assert list(parquet.read_rows(name, [])) == [{}] * ROWS


def test_what_was_used_last_is_kept(
    served: tuple[hub.Hub, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for two groups of four rows: the third drives out the older one."""
    here, name = served
    monkeypatch.setattr(parquet, "CACHE_BYTES", 2 * GROUP * 3100)
    for row in (0, 4, 0, 8, 0):
        read(f"{name}::audio/{row}")
    assert len(here.served) == 2 + 3
    read(f"{name}::audio/4")
    assert len(here.served) == 2 + 4


def test_one_group_finds_room_however_large(
    served: tuple[hub.Hub, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, name = served
    monkeypatch.setattr(parquet, "CACHE_BYTES", 1)
    for row in (0, 1, 2, 4, 5):
        read(f"{name}::audio/{row}")
    assert len(here.served) == 2 + 2


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("sound/0", "expected a column 'sound', found none of that name; choose from"),
        ("audio/10", "expected a row below 10, found 10"),
        ("wide.x/0", "expected a column 'wide.x'"),
    ],
)
def test_what_is_not_in_a_file_is_one_line(
    served: tuple[hub.Hub, str], cell: str, told: str
) -> None:
    with pytest.raises(InputError, match=told) as caught:
        read(f"{served[1]}::{cell}")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_parquet_is_one_line(served: tuple[hub.Hub, str], tmp_path: Path) -> None:
    path = tmp_path / "root" / "org" / "data.v1" / FILE
    path.write_bytes(b"x" * path.stat().st_size)  # of the same commit
    with pytest.raises(InputError, match=r"expected a whole parquet file, found: .*on the hub$"):
        read(f"{served[1]}::audio/0")


def test_a_path_on_the_hub_is_no_audio(served: tuple[hub.Hub, str]) -> None:
    with pytest.raises(InputError, match="expected audio bytes, found the path 'line 2'"):
        read(f"{served[1]}::text/2")


# --- whom it asks ---------------------------------------------------------------------------------


def test_the_token_goes_to_the_hub_and_not_where_it_sends_us(
    served: tuple[hub.Hub, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, name = served
    here.gated.add("org/data.v1")
    monkeypatch.setenv("HF_TOKEN", hub.TOKEN)
    with hub.serve(tmp_path / "root") as other:
        here.elsewhere = other.url
        assert read(f"{name}::audio/0") == content(0)
    assert set(here.tokens) == {f"Bearer {hub.TOKEN}"}
    assert set(other.tokens) == {None}
    assert len(other.served) == 3 and here.served == []


def test_nobody_else_is_asked(served: tuple[hub.Hub, str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[Any] = set()
    look_up = socket.getaddrinfo

    def watch(host: Any, port: Any, *more: Any, **options: Any) -> Any:
        asked.add(f"http://{host}:{port}")
        return look_up(host, port, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", watch)
    read(f"{served[1]}::audio/0")
    assert asked <= {served[0].url}


# --- bad days -------------------------------------------------------------------------------------


@pytest.mark.parametrize("statuses", [[503], [429, 500, 502, 504], [503] * 6])
def test_a_busy_hub_is_asked_again(served: tuple[hub.Hub, str], statuses: list[int]) -> None:
    here, name = served
    here.busy[FILE] = list(statuses)
    assert read(f"{name}::audio/0") == content(0)
    assert len(here.tokens) == len(statuses) + 3


def test_a_body_that_was_cut_is_asked_for_again(served: tuple[hub.Hub, str]) -> None:
    here, name = served
    read(f"{name}::audio/0")
    here.cut_once.add(FILE)
    assert read(f"{name}::audio/9") == content(9)
    assert len(here.served) == 3 + 2


def test_a_hub_that_stays_busy_is_one_line_and_no_fault_of_the_file(
    served: tuple[hub.Hub, str],
) -> None:
    here, name = served
    here.busy[FILE] = [503] * 100
    with pytest.raises(UnreachableError, match="hub to answer, found: status 503, 7 times") as told:
        read(f"{name}::audio/0")
    assert len(here.tokens) == 7
    assert "\n" not in str(told.value) and not isinstance(told.value, InputError)


def test_threads_that_wait_share_the_failure(served: tuple[hub.Hub, str]) -> None:
    here, name = served
    read(f"{name}::audio/9")
    here.busy[FILE] = [503] * 7
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(read, f"{name}::audio/{row}") for row in range(4)]
        failed = [isinstance(one.exception(), UnreachableError) for one in asked]
    assert any(failed)
    assert read(f"{name}::audio/0") == content(0)


def test_a_network_that_is_down_is_no_fault_of_the_file(
    served: tuple[hub.Hub, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(served[0].url, nobody)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        with pytest.raises(UnreachableError, match="look at the network") as told:
            read(f"{served[1]}::audio/0")
    assert "\n" not in str(told.value)


def test_offline_says_what_to_do(
    served: tuple[hub.Hub, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UnreachableError, match="found HF_HUB_OFFLINE=1; unset it, or") as told:
        read(f"{served[1]}::audio/0")
    assert "blsp data shard" in str(told.value)
    assert served[0].requests == 0


@pytest.mark.parametrize(
    ("part", "other", "told"),
    [
        ("data/train", "data/dev", "no such file"),
        ("data.v1@", "data.v2@", "no such data set"),
        ("@", "@0000000", "no such commit"),
    ],
)
def test_what_is_not_there_is_one_line_at_once(
    served: tuple[hub.Hub, str], part: str, other: str, told: str
) -> None:
    here, name = served
    wrong = name.replace(part, other)
    if part == "@":
        head, _, rest = name.partition("@")
        wrong = f"{head}@{COMMIT}{rest[40:]}"
    with pytest.raises(InputError, match=f"that you may read, found {told}; check") as caught:
        read(f"{wrong}::audio/0")
    assert "\n" not in str(caught.value) and wrong in str(caught.value)
    assert here.requests == 1


def test_data_for_which_one_must_ask_is_one_line(served: tuple[hub.Hub, str]) -> None:
    here, name = served
    here.gated.add("org/data.v1")
    with pytest.raises(InputError, match="that asks for permission; check the name"):
        read(f"{name}::audio/0")


def test_what_is_sorted_by_length_stays_among_its_neighbours() -> None:
    there = [remote.find_neighbourhood(at, "hf://x") for at in (0, 255, 256, 600)]
    assert there == [1, 1, 2, 3]
    assert [remote.find_neighbourhood(at, "a.wav") for at in (0, 255, 256, 600)] == [0] * 4


# --- manifests ------------------------------------------------------------------------------------


def write_speech(root: Path, out: Path, *, damaged: int | None = None) -> Path:
    """Three hums on the hub in groups of two, and a manifest of them."""
    folder = root / "org" / "hums"
    cells = []
    for row in range(3):
        path = out / f"{row}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        wave = 0.3 * np.sin(np.arange(8000 + 800 * row) / (5 + row))
        soundfile.write(path, wave.astype(np.float32), 16_000)
        cells.append({"bytes": b"none" if row == damaged else path.read_bytes(), "path": None})
    (folder / "data").mkdir(parents=True)
    schema = pa.schema({"audio": pa.struct({"bytes": pa.binary(), "path": pa.string()})})
    table = pa.Table.from_pylist([{"audio": cell} for cell in cells], schema=schema)
    pq.write_table(table, folder / FILE, row_group_size=2)
    name = f"hf://datasets/org/hums@{hub.commit_of(folder)}/{FILE}"
    rows = [
        Utterance(id=f"{row}", audio=f"{name}::audio/{row}", duration=0.5 + 0.05 * row, text="on")
        for row in range(3)
    ]
    write_rows(out / "m.jsonl", rows, Meta(command="test", root="no/such/folder"))
    return out / "m.jsonl"


@pytest.fixture
def speech(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[hub.Hub, Path]]:
    manifest = write_speech(tmp_path / "root", tmp_path / "local")
    with hub.serve(tmp_path / "root") as here:
        hub.use(here, tmp_path / "cache", monkeypatch)
        yield here, manifest


def test_audio_on_the_hub_is_that_of_the_file(speech: tuple[hub.Hub, Path]) -> None:
    _, manifest = speech
    for row in read_manifest(manifest):
        here = manifest.parent / f"{row.id}.wav"
        assert np.array_equal(load_audio(row.audio, root=find_root(manifest)), load_audio(here))
        assert read_audio_info(row.audio) == read_audio_info(here)


def test_validate_decodes_what_is_on_the_hub(
    speech: tuple[hub.Hub, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    here, manifest = speech
    assert main(["data", "validate", "--decode", str(manifest)]) == 0
    assert len(here.served) == 2 + 2
    assert "all right" in capsys.readouterr().out


def test_validate_stops_where_the_hub_does_not_answer(
    speech: tuple[hub.Hub, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    here, manifest = speech
    here.busy[FILE] = [503] * 1000
    assert main(["data", "validate", "--decode", str(manifest)]) == 2
    assert len(here.tokens) == 7
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("blsp: hf://datasets/org/hums@") and "run this again" in told


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_shards_bring_the_audio_here(
    speech: tuple[hub.Hub, Path], tmp_path: Path, kind: str
) -> None:
    here, manifest = speech
    out = tmp_path / "packed"
    assert main(["data", "shard", str(manifest), "--out", str(out), "--format", kind]) == 0
    asked = here.requests
    rows = list(read_manifest(out / "m.jsonl"))
    for row in rows:
        wave = load_audio(row.audio, root=find_root(out / "m.jsonl"))
        assert np.array_equal(wave, load_audio(manifest.parent / f"{row.id}.wav"))
    assert here.requests == asked
    if kind == "tar":
        assert rows[2].audio.startswith("m-00000.tar::datasets/org/hums@")
        assert rows[2].audio.endswith(f"{FILE}/audio/2.wav")


@pytest.mark.parametrize(
    "argv",
    [
        ["convert", "m.jsonl", "--to", "csv", "--out", "out/m.csv"],
        ["filter", "m.jsonl", "--out", "out/m.jsonl", "--min-seconds", "0.1"],
        ["split", "m.jsonl", "--parts", "a=1.0", "--out", "out"],
    ],
)
def test_a_row_keeps_its_audio_through_other_tools(
    speech: tuple[hub.Hub, Path], monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    here, manifest = speech
    monkeypatch.chdir(manifest.parent)
    expected = [row.audio for row in read_manifest(manifest)]
    assert main(["data", *argv]) == 0
    [made] = [path for path in Path("out").iterdir() if path.suffix in (".csv", ".jsonl")]
    if made.suffix == ".csv":
        assert main(["data", "convert", str(made), "--to", "blsp", "--out", "back.jsonl"]) == 0
        made = Path("back.jsonl")
    assert [json.loads(line)["audio"] for line in made.read_text().splitlines()] == expected
    assert here.requests == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_reader_knows_the_footers_of_its_parent(speech: tuple[hub.Hub, Path]) -> None:
    here, manifest = speech
    audio = [row.audio for row in read_manifest(manifest)]
    load_audio(audio[0])
    asked = here.requests
    child = os.fork()
    if not child:
        os._exit(0 if len(load_audio(audio[2])) == 9600 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert here.requests == asked + 1
