"""What all preparations share: JSON of any size, long recordings, rows never all in memory."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from blsp import corpora, preparation
from blsp.audio import save_audio
from blsp.corpora import (
    Candidate,
    Dropped,
    Item,
    Row,
    read_cells,
    read_objects,
    read_table,
)
from blsp.errors import InputError
from blsp.manifest import read_manifest, read_meta
from blsp.preparation import (
    add_label_options,
    build_parser,
    choose_one,
    prepare_splits,
    read_labels,
    write_choices,
    write_manifest,
)


def candidate(name: str, **values: object) -> Candidate:
    given = {"where": f"list:{name}", "id": name, "audio": "long.wav", "text": "words"} | values
    return Candidate(**given)  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with one recording of four seconds."""
    save_audio(tmp_path / "long.wav", np.ones(4 * 16_000, dtype=np.float32) / 2)
    return tmp_path


# --- JSON of any size -----------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_objects_are_read_wherever_a_block_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(corpora, "_BLOCK", block)
    rows = [{"id": "a", "text": "], [ {"}, {"n": 1.25, "inner": [{"b": "ü"}]}, {}]
    path = tmp_path / "corpus.json"
    path.write_text(json.dumps({"audio_count": 3, "audios": rows, "after": [1]}, indent=1))
    assert list(read_objects(path, "audios")) == rows


def test_an_empty_list_has_no_objects(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"audios": []}')
    assert list(read_objects(tmp_path / "x.json", "audios")) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"audio": []}', "under 'audios', found none"),
        (b'{"audios": [{"a": 1}, {"b": ', "found it cut or broken"),
        (b'{"audios": [1]}', "found 1;"),
        (b'{"audios": ["\xff"]}', "expected UTF-8 text"),
    ],
)
def test_a_file_that_is_not_the_corpus_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match="expected") as caught:
        list(read_objects(tmp_path / "x.json", "audios"))
    assert message in str(caught.value)


# --- tables ---------------------------------------------------------------------------------------


def test_a_cell_in_quotes_holds_commas_and_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b'\xef\xbb\xbfid, text\r\n\r\n1, "a, ""b""\nc" \r\n2,d\r\n')
    assert list(read_table(path, ["text"], delimiter=",")) == [
        Row(f"{path}:4", {"id": "1", "text": 'a, "b"\nc'}),
        Row(f"{path}:5", {"id": "2", "text": "d"}),
    ]


def test_between_tabs_a_cell_is_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text('1\t"a" and, b\n2\t " \n')
    cells = [cells for _, cells in read_cells(tmp_path / "x.tsv", delimiter="\t")]
    assert cells == [["1", '"a" and, b'], ["2", ' " ']]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ":1: expected a header with id, text, found ''"),
        ("id,words\n", ":1: expected a header with id, text, found 'id,words'"),
        ('id,text\n1,"' + "a" * 140_000, ":2: expected cells of a table, found: field larger"),
    ],
)
def test_a_table_of_another_form_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        list(read_table(tmp_path / "x.csv", ["id", "text"], delimiter=","))


# --- measuring ------------------------------------------------------------------------------------


def test_a_long_recording_is_measured_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []
    read_info = preparation.read_audio_info

    def watch(source: str, *, root: Path) -> object:
        measured.append(source)
        return read_info(source, root=root)

    monkeypatch.setattr(preparation, "read_audio_info", watch)
    segments = (candidate(str(at), start=at / 1000, duration=0.5) for at in range(2_500))
    tally = write_manifest(root / "out.jsonl", segments, root=root, command="x")
    assert (measured, tally.counts) == (["long.wav"], {"written": 2_500})


def test_rows_are_written_while_the_corpus_is_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "_CHUNK", 10)
    ahead: list[int] = []

    def read() -> Iterator[Item]:
        for at in range(100):
            written = sum(1 for _ in root.glob(".out.jsonl.*.tmp"))
            ahead.append(written)
            yield candidate(str(at), duration=1.0)

    write_manifest(root / "out.jsonl", read(), root=root, command="x")
    assert ahead == [1] * 100  # the file is open while the generator still gives


def test_what_is_left_out_is_counted_in_the_side_file(root: Path) -> None:
    items = [
        candidate("a"),
        candidate("b", text=" "),
        candidate("c", start=3.0, duration=2.0),
        candidate("d", audio="missing.wav"),
        Dropped("not speech", "list:5"),
        Dropped("not speech", "list:6"),
    ]
    write_manifest(root / "out.jsonl", items, root=root, command="x")
    meta = read_meta(root / "out.jsonl")
    assert meta is not None
    assert meta.counts == {
        "written": 1,
        "no words": 1,
        "not speech": 2,
        "a segment beyond the end of its audio": 1,
        "no audio file": 1,
    }


def test_a_recording_that_nobody_wrote_down_is_kept(root: Path) -> None:
    write_manifest(root / "out.jsonl", [candidate("a", text=None)], root=root, command="x")
    assert [one.text for one in read_manifest(root / "out.jsonl")] == [None]


def test_two_segments_of_a_recording_may_not_share_an_id(root: Path) -> None:
    same = [candidate("a", where="list: recording"), candidate("a", where="list: recording")]
    with pytest.raises(InputError, match="expected every id once, found 'a'"):
        write_manifest(root / "out.jsonl", same, root=root, command="x")


def test_a_segment_without_length_is_counted(root: Path) -> None:
    segments = [candidate("a"), candidate("b", start=1.0, duration=0.0)]
    tally = write_manifest(root / "out.jsonl", segments, root=root, command="x")
    assert tally.counts == {"written": 1, "a segment without length": 1}


def test_a_file_that_is_shorter_than_the_corpus_says_was_cut(root: Path) -> None:
    told = [candidate("whole", file_seconds=4.4), candidate("cut", file_seconds=4.6)]
    tally = write_manifest(root / "out.jsonl", told, root=root, command="x")
    assert tally.counts == {"written": 1, "audio that was cut": 1}
    assert [row.id for row in read_manifest(root / "out.jsonl")] == ["whole"]


# --- splits ---------------------------------------------------------------------------------------


def prepare(root: Path, splits: dict[str, list[Item]], *argv: str) -> int:
    parser = build_parser("kin", "A corpus.")
    add_label_options(parser)
    options = parser.parse_args([str(root), "--out", str(root / "out"), *argv])
    readers = {name: (lambda items=items: iter(items)) for name, items in splits.items()}
    return prepare_splits(
        options, readers, program="kin", root=root, expected="audio", choices=write_choices(options)
    )


def test_a_split_without_usable_audio_does_not_keep_the_others_from_being_written(
    root: Path,
) -> None:
    gone = [candidate("a", audio="gone.wav")]
    splits = {"bad": gone, "dev": [candidate("b")], "worse": [], "test": [candidate("c")]}
    with pytest.raises(InputError) as caught:
        prepare(root, splits)
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{root}/out/bad.jsonl: expected at least one recording")
    assert second.startswith(f"{root}/out/worse.jsonl: expected at least one recording")
    assert {path.name for path in (root / "out").glob("*.jsonl")} == {"dev.jsonl", "test.jsonl"}


def test_a_split_that_is_not_there_is_said_before_anything_is_written(root: Path) -> None:
    with pytest.raises(InputError, match=r"--splits: expected one in .*, found 'tset'"):
        prepare(root, {"dev": [candidate("a")]}, "--splits", "dev", "tset")
    assert not (root / "out").exists()


def test_what_is_said_of_all_recordings_is_part_of_the_command(root: Path) -> None:
    said = ["--language", "en", "--license", "own words", "--source", "calls", "--untranscribed"]
    assert prepare(root, {"dev": [candidate("a")]}, *said) == 0
    meta = read_meta(root / "out" / "dev.jsonl")
    assert meta is not None
    assert meta.command == shlex.join(
        ["blsp", "prep", "kin", str(root), "--out", f"{root}/out", "--splits", "dev", *said]
    )


def test_a_program_has_the_labels_that_its_corpus_does_not_say() -> None:
    parser = build_parser("kin", "A corpus.")
    parser.add_argument("--column", action="append")
    add_label_options(parser, without="source")
    given = ["--license", "CC0-1.0", "--column", "a=b", "--column", "c=d"]
    options = parser.parse_args(["in", "--out", "out", *given])
    assert read_labels(options) == {"license": "CC0-1.0"}
    assert write_choices(options, "column") == [*given[2:], *given[:2]]
    with pytest.raises(SystemExit):
        parser.parse_args(["in", "--out", "out", "--source", "calls"])


# --- tables and choices ---------------------------------------------------------------------------


def test_a_table_is_read_by_name_and_its_quotes_mean_nothing(tmp_path: Path) -> None:
    table = tmp_path / "x.tsv"
    table.write_bytes(b'\xef\xbb\xbfpath\ttext\r\na.wav\t"Who?\r\n\r\nb.wav\r\nc.wav\tY"es\r\n')
    assert list(read_table(table, ["text", "path"])) == [
        Row(f"{table}:2", {"path": "a.wav", "text": '"Who?'}),
        Dropped("a line that does not fit the header", f"{table}:4: 1 cells, not 2"),
        Row(f"{table}:5", {"path": "c.wav", "text": 'Y"es'}),
    ]


def test_a_table_without_a_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("path\ttext\n")
    with pytest.raises(InputError, match="expected a header with path, words, found 'path"):
        list(read_table(tmp_path / "x.tsv", ["path", "words"]))


@pytest.mark.parametrize(
    ("asked", "found", "message"),
    [
        (None, ["de", "en"], "expected one of the 2 in corpus, found None; choose from de, en"),
        ("en_uk", ["en_us", "de_de"], "found 'en_uk'; did you mean 'en_us'?"),
    ],
)
def test_one_of_several_must_be_named(asked: str | None, found: list[str], message: str) -> None:
    with pytest.raises(InputError, match="--language: expected one") as caught:
        choose_one("--language", asked, found, root=Path("corpus"))
    assert message in str(caught.value)


def test_the_only_one_need_not_be_named() -> None:
    assert choose_one("--language", None, ["de"], root=Path("corpus")) == "de"
