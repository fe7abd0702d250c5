"""`blsp prep folder`: audio beside text files, and tables, as people have them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blsp.cli import main as run_blsp
from blsp.manifest import Utterance, find_root, read_manifest, read_meta
from tests.data_prep.conftest import write_audio

Prepare = Callable[..., list[Utterance]]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "calls v1.2"
    folder.mkdir()
    return folder


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    """Run the program and return the rows of the one manifest it wrote."""

    def run(source: Path, *options: str) -> list[Utterance]:
        out = tmp_path / "out"
        assert run_blsp(["prep", "folder", str(source), "--out", str(out), *options]) == 0
        (manifest,) = out.glob("*.jsonl")
        return list(read_manifest(manifest))

    return run


@pytest.fixture
def refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the program on bad input and return its one line."""

    def run(source: Path, *options: str) -> str:
        out = tmp_path / "out"
        assert run_blsp(["prep", "folder", str(source), "--out", str(out), *options]) == 2
        assert not list(out.glob("*"))
        return capsys.readouterr().err.removeprefix("blsp: ").removesuffix("\n")

    return run


def write_table(folder: Path, text: str | bytes, name: str = "calls.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# --- audio beside .txt ----------------------------------------------------------------------------


def test_audio_with_a_text_beside_it_is_an_utterance(corpus: Path, prepare: Prepare) -> None:
    write_audio(corpus / "a.wav", seconds=1.0)
    (corpus / "a.txt").write_bytes("\ufeffGrüß dich,\r\nWelt.\r\n".encode())
    write_audio(corpus / "deep" / "er" / "a.FLAC", seconds=0.25)
    (corpus / "deep" / "er" / "a.TXT").write_text("noch eine")
    rows = prepare(corpus, "--language", "de", "--license", "CC0-1.0", "--source", "calls")
    labels: dict[str, Any] = {"language": "de", "license": "CC0-1.0", "source": "calls"}
    assert rows == [
        Utterance(id="a", audio="a.wav", duration=1.0, text="Grüß dich, Welt.", **labels),
        Utterance(
            id="deep/er/a", audio="deep/er/a.FLAC", duration=0.25, text="noch eine", **labels
        ),
    ]


def test_the_manifest_is_named_for_the_folder_and_finds_its_audio(
    corpus: Path, prepare: Prepare, tmp_path: Path
) -> None:
    write_audio(corpus / "a.wav")
    (corpus / "a.txt").write_text("one")
    prepare(corpus)
    manifest = tmp_path / "out" / "calls v1.2.jsonl"
    assert (find_root(manifest) / "a.wav").samefile(corpus / "a.wav")
    meta = read_meta(manifest)
    assert meta is not None
    assert meta.command == f"blsp prep folder '{corpus}' --out {tmp_path}/out"


def test_what_has_no_partner_or_no_words_is_counted_and_named(
    corpus: Path, prepare: Prepare, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("good", "mute", "alone-1", "alone-2", "alone-3", "alone-4"):
        write_audio(corpus / f"{name}.wav")
    (corpus / "good.txt").write_text("one")
    (corpus / "mute.txt").write_text(" \n")
    (corpus / "notes.txt").write_text("not a transcript")
    (corpus / "._good.wav").write_bytes(b"macOS")
    assert [row.id for row in prepare(corpus)] == ["good"]
    out = capsys.readouterr().out
    assert f"  dropped 1: no words\n    {corpus}/mute.txt: mute\n" in out
    assert f"  dropped 1: a .txt without audio\n    {corpus}/notes.txt\n" in out
    assert "  dropped 4: audio without a .txt\n" in out
    assert f"    {corpus}/alone-3.wav\n    and 1 more\n" in out


def test_a_file_name_of_another_encoding_is_left_out_and_written_out(
    corpus: Path, prepare: Prepare, capsys: pytest.CaptureFixture[str]
) -> None:
    audio = write_audio(corpus / "a.wav").read_bytes()
    (corpus / "a.txt").write_text("one")
    try:
        (corpus / "gr\udcfc\udcdf.wav").write_bytes(audio)
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    (corpus / "gr\udcfc\udcdf.txt").write_text("two")
    (corpus / "alone\udcfc.wav").write_bytes(audio)
    assert [row.id for row in prepare(corpus)] == ["a"]
    out = capsys.readouterr().out
    assert "  dropped 1: a file name that is not UTF-8\n" in out
    assert f"{corpus}/alone\\udcfc.wav\n" in out


def test_hidden_folders_are_passed_over(corpus: Path, prepare: Prepare) -> None:
    write_audio(corpus / "a.wav")
    (corpus / "a.txt").write_text("one")
    write_audio(corpus / ".trash" / "b.wav")
    (corpus / ".trash" / "b.txt").write_text("two")
    assert [row.id for row in prepare(corpus)] == ["a"]


def test_the_corpus_may_grow(corpus: Path, prepare: Prepare) -> None:
    for name in ("a", "b"):
        write_audio(corpus / f"{name}.wav")
        (corpus / f"{name}.txt").write_text(name)
        rows = prepare(corpus)
    assert [row.id for row in rows] == ["a", "b"]


def test_two_audio_files_of_one_name_are_refused(corpus: Path, refuse: Callable[..., str]) -> None:
    write_audio(corpus / "a.flac")
    write_audio(corpus / "a.wav")
    assert refuse(corpus) == (
        f"{corpus}/a.wav: expected one audio file of that name, found a.flac too; move one away"
    )


def test_another_encoding_is_named_with_its_line(corpus: Path, refuse: Callable[..., str]) -> None:
    write_audio(corpus / "a.wav")
    (corpus / "a.txt").write_bytes("eins\nzwei\ndrei für\n".encode("latin-1"))
    assert refuse(corpus) == (
        f"{corpus}/a.txt:3: expected UTF-8 text, found the byte b'\\xfc'; save it as UTF-8"
    )


def test_a_folder_with_a_table_points_to_it(corpus: Path, refuse: Callable[..., str]) -> None:
    write_audio(corpus / "a.wav")
    write_table(corpus, "audio,text\na.wav,one\n")
    assert refuse(corpus).endswith(f"found a table; name it: {corpus}/calls.csv")


def test_an_empty_folder_is_refused(corpus: Path, refuse: Callable[..., str]) -> None:
    assert refuse(corpus).endswith("found none; look into the corpus (it holds no recording)")


# --- tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("calls.csv", 'audio,text\nclips/a.wav,"one, two"\n'),
        ("calls.csv", '\ufeffPath;Sentence\r\nclips/a.wav;"one, two"\r\n\r\n'),
        ("calls.tsv", "path\tsentence\nclips/a.wav\tone, two\n"),
        ("calls.csv", "file_name|transcription\nclips/a.wav|one,  two"),
    ],
)
def test_the_header_tells_delimiter_and_columns(
    corpus: Path, prepare: Prepare, name: str, text: str
) -> None:
    write_audio(corpus / "clips" / "a.wav", seconds=1.0)
    rows = prepare(write_table(corpus, text, name))
    assert rows == [Utterance(id="clips/a", audio="clips/a.wav", duration=1.0, text="one, two")]


def test_other_columns_become_keys(corpus: Path, prepare: Prepare) -> None:
    write_audio(corpus / "a.wav", seconds=4.0)
    table = write_table(
        corpus,
        "id,audio,text,speaker,start,duration,intent,translation_de,accent\n"
        "x1,a.wav,hello,ann,0.5,1.25,greet,hallo,scottish\n"
        "x2,a.wav,bye,,2,,,,\n",
    )
    first, second = prepare(table, "--language", "en")
    assert first == Utterance(
        id="x1",
        audio="a.wav",
        start=0.5,
        duration=1.25,
        text="hello",
        speaker="ann",
        intent="greet",
        translation={"de": "hallo"},
        language="en",
        extra={"accent": "scottish"},
    )
    assert second == Utterance(
        id="x2", audio="a.wav", start=2.0, duration=2.0, text="bye", language="en"
    )


def test_quotation_marks_are_plain_between_tabs(corpus: Path, prepare: Prepare) -> None:
    write_audio(corpus / "a.wav")
    write_audio(corpus / "b.wav")
    text = 'audio\ttext\na.wav\t"Go," she said\nb.wav\t5" pipe\n'
    rows = prepare(write_table(corpus, text, "calls.tsv"))
    assert [row.text for row in rows] == ['"Go," she said', '5" pipe']


def test_absolute_paths_are_made_relative_to_the_audio_root(
    corpus: Path, prepare: Prepare, tmp_path: Path
) -> None:
    audio = write_audio(tmp_path / "elsewhere" / "deep" / "a.wav")
    table = write_table(corpus, f"audio,text\n{audio},one\n")
    (row,) = prepare(table, "--audio-root", str(tmp_path / "elsewhere"))
    assert row.audio == "deep/a.wav"


def test_a_root_behind_a_link_may_be_written_either_way(
    corpus: Path, prepare: Prepare, tmp_path: Path
) -> None:
    audio = write_audio(corpus / "a.wav")
    link = tmp_path / "link"
    link.symlink_to(corpus)
    table = write_table(corpus, f"id,audio,text\n1,{audio},one\n2,{link}/a.wav,two\n")
    rows = prepare(table, "--audio-root", str(link))
    assert [row.audio for row in rows] == ["a.wav", "a.wav"]


def test_lines_without_usable_audio_are_counted_and_named(
    corpus: Path, prepare: Prepare, capsys: pytest.CaptureFixture[str]
) -> None:
    write_audio(corpus / "a.wav", seconds=1.0)
    table = write_table(
        corpus,
        "id,audio,text,start,duration\n1,a.wav,one,,\n2,b.wav,two,,\n3,a.wav,,,\n4,,four,,\n"
        "5,a.wav,five,0.5,2\n",
    )
    assert [row.id for row in prepare(table)] == ["1"]
    out = capsys.readouterr().out
    assert f"  dropped 1: no audio file\n    {table}:3: " in out
    assert f"  dropped 1: no words\n    {table}:4: 3\n" in out
    assert f"  dropped 1: no audio named\n    {table}:5\n" in out
    assert f"    {table}:6: until 2.500 s in 1.000 s of a.wav\n" in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.wav,one\n", ":1: expected a header with a column for the audio (audio, path,"),
        ("audio,words\na.wav,one\n", "found 'audio,words'; write one"),
        ("audio,text,text\na.wav,one,1\n", ":1: expected a name of its own for every column"),
        ("audio,text,\na.wav,one,\n", "found '' 1 times; rename or remove it"),
        ("audio,text\na.wav,one, two\n", ":2: expected 2 cells as in the header, found 3; put a"),
        ("audio,text\n\na.wav\n", ":3: expected 2 cells as in the header, found 1;"),
        ('audio,text\na.wav,"one" two\n', ":2: expected cells between commas, found this: "),
        ('audio,text\na.wav,"one\nb.wav,two\n', ":2: expected cells between commas, found this: "),
        ("audio,text\na.wav,one\na.wav,two\n", ":3: expected every id once, found 'a' also at"),
        ("audio,text,start\na.wav,one,soon\n", ":2: start: expected seconds as a number, found"),
        ("audio,text,start\na.wav,one,-1\n", ":2: start: expected seconds of at least 0"),
        ("audio,text,languge\na.wav,one,en\n", "found 'languge'"),
        ("audio,text\n/b.wav,one\n", "name a folder that holds all of it: --audio-root DIR"),
        ("audio,text\n../calls v1.2/../b.wav,one\n", ":2: "),
        ("audio,text\na.wav,f\xfcr\n".encode("latin-1"), ":2: expected UTF-8 text, found the byte"),
        ("audio,text\na.wav,one\n".encode("utf-16"), ":1: expected UTF-8 text, found the byte"),
        ("", ":1: expected a header"),
    ],
)
def test_a_table_that_does_not_fit_names_the_line(
    corpus: Path, refuse: Callable[..., str], text: str | bytes, message: str
) -> None:
    write_audio(corpus / "a.wav")
    table = write_table(corpus, text)
    error = refuse(table)
    assert message in error
    assert str(table) in error
    assert "\n" not in error


def test_what_is_neither_folder_nor_table_is_refused(
    corpus: Path, refuse: Callable[..., str]
) -> None:
    assert refuse(corpus / "calls.json") == (
        f"{corpus}/calls.json: expected a folder, a .csv or a .tsv, found none of them; "
        "check the path"
    )
