"""`blsp prep librispeech` on a tree as the archives unpack it."""

import json
from functools import partial
from pathlib import Path

import pytest

from blsp import preparation
from blsp.manifest import find_root, read_manifest, read_meta
from blsp.validation import validate
from tests.data_prep.conftest import build_librispeech, run_prep

CHAPTER = "LibriSpeech/dev-clean/1272/141231"


def build(home: Path) -> Path:
    """The folder in which the archives of two splits were unpacked."""
    return build_librispeech(home / "corpora", ("dev-clean", "test-clean"))


prepare = partial(run_prep, "librispeech")


def test_every_split_becomes_a_manifest(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "manifests"
    assert prepare(corpus, out) == 0
    assert sorted(path.name for path in out.glob("*.jsonl")) == [
        "dev-clean.jsonl",
        "test-clean.jsonl",
    ]
    assert (out / "test-clean.jsonl").read_text().partition("\n")[0] == (
        '{"id": "121-121726-0000", "audio": "test-clean/121/121726/121-121726-0000.flac", '
        '"duration": 1.8, "text": "also a popular contrivance", "language": "en", '
        '"speaker": "121", "license": "CC-BY-4.0", "source": "LibriSpeech"}'
    )
    report = validate(out / "dev-clean.jsonl")
    assert (report.rows, report.seconds, report.problems, report.warnings) == (2, 3.6, [], [])
    _, second = read_manifest(out / "dev-clean.jsonl")
    assert second.text == "a man said to the universe sir i exist"
    assert (find_root(out / "dev-clean.jsonl") / second.audio).samefile(
        corpus / CHAPTER / "1272-141231-0000.flac"
    )


def test_the_corpus_itself_may_be_named(corpus: Path, tmp_path: Path) -> None:
    assert prepare(corpus / "LibriSpeech", tmp_path / "out", "--splits", "dev-clean") == 0
    assert next(read_manifest(tmp_path / "out" / "dev-clean.jsonl")).audio.startswith("dev-clean/")


def test_what_is_said_counts_hours_and_names_the_licence(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(corpus, tmp_path, "--splits", "dev-clean")
    assert capsys.readouterr().out.splitlines() == [
        "LibriSpeech: CC BY 4.0, https://www.openslr.org/12 (credit its authors)",
        f"{tmp_path}/dev-clean.jsonl: 2 utterances, 0.00 h",
    ]


def test_capitals_are_kept_on_request_and_the_side_file_says_which(
    corpus: Path, tmp_path: Path
) -> None:
    prepare(corpus, tmp_path, "--splits", "test-clean", "--case", "keep")
    path = tmp_path / "test-clean.jsonl"
    assert next(read_manifest(path)).text == "ALSO A POPULAR CONTRIVANCE"
    meta = read_meta(path)
    assert meta is not None
    assert meta.command.endswith("--splits test-clean --case keep")


def test_restored_transcripts_replace_the_capitals(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    restored = tmp_path / "pc"
    restored.mkdir()
    row = {
        "audio_filepath": "dev-clean/1272/141231/1272-141231-0000.flac",
        "duration": 1.8,
        "text": "A man said to the universe, Sir, I exist.",
        "text_raw": "A man said to the universe:\n“Sir, I exist!”",
    }
    (restored / "dev-clean.json").write_text(json.dumps(row) + "\n")
    prepare(corpus, tmp_path, "--splits", "dev-clean", "--transcripts", str(restored))
    texts = [utterance.text for utterance in read_manifest(tmp_path / "dev-clean.jsonl")]
    assert texts == ["A man said to the universe, Sir, I exist."]
    assert "  dropped 1: not in LibriSpeech-PC\n" in capsys.readouterr().out
    assert prepare(corpus, tmp_path, "--case", "lower", "--transcripts", str(restored)) == 2


def test_what_cannot_be_used_is_left_out_counted_and_named(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chapter = corpus / CHAPTER
    transcripts = chapter / "1272-141231.trans.txt"
    (chapter / "1272-141231-0002.flac").write_bytes(b"fLaC but not really")
    (chapter / "1272-141231-0009.flac").write_bytes(b"")
    (chapter / "._1272-141231-0000.flac").write_bytes(b"macOS")
    (chapter / "._1272-141231.trans.txt").write_bytes(b"\xff\xfe")
    more = "1272-141231-0002 BROKEN\r\n1272-141231-0003 NOT THERE\r\n\r\n1272-141231-0004\r\n"
    transcripts.write_bytes(transcripts.read_bytes() + more.encode())
    assert prepare(corpus, tmp_path, "--splits", "dev-clean") == 0
    out = capsys.readouterr().out
    assert f"{tmp_path}/dev-clean.jsonl: 2 utterances" in out
    assert f"  dropped 1: no words\n    {transcripts}:5: 1272-141231-0004\n" in out
    assert f"  dropped 1: audio without a transcript\n    {chapter}/1272-141231-0009.flac\n" in out
    assert f"  dropped 1: audio that cannot be read\n    {transcripts}:2: " in out
    assert f"  dropped 1: no audio file\n    {transcripts}:3: " in out
    assert len(list(read_manifest(tmp_path / "dev-clean.jsonl"))) == 2


def test_an_interrupted_run_keeps_what_is_finished_and_does_the_rest(
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read_info, calls = preparation.read_audio_info, []

    def interrupt(source: str, *, root: Path) -> object:
        calls.append(source)
        if source.startswith("test-clean"):
            raise KeyboardInterrupt
        return read_info(source, root=root)

    monkeypatch.setattr(preparation, "read_audio_info", interrupt)
    assert prepare(corpus, tmp_path / "out") == 130
    assert [path.name for path in (tmp_path / "out").glob("*.jsonl")] == ["dev-clean.jsonl"]
    assert not list((tmp_path / "out").glob(".*"))
    first = (tmp_path / "out" / "dev-clean.jsonl").stat()
    monkeypatch.undo()

    capsys.readouterr()
    assert prepare(corpus, tmp_path / "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("dev-clean.jsonl: 2 utterances, 0.00 h (there since an earlier run)")
    assert lines[2].endswith("test-clean.jsonl: 2 utterances, 0.00 h")
    again = (tmp_path / "out" / "dev-clean.jsonl").stat()
    assert (again.st_ino, again.st_mtime_ns) == (first.st_ino, first.st_mtime_ns)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--splits", "dev-claen"], "found 'dev-claen'; did you mean 'dev-clean'?"),
        (["--splits", "dev-clean", "--case", "keep"], "delete it or choose another --out"),
        (["--transcripts", "nowhere"], "expected a text file, found: No such file or directory"),
    ],
)
def test_what_a_user_can_get_wrong_is_one_line(
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    prepare(corpus, tmp_path, "--splits", "dev-clean")
    out = tmp_path if "--transcripts" not in options else tmp_path / "other"
    assert prepare(corpus, out, *options) == 2
    assert message in capsys.readouterr().err


def test_a_split_without_usable_audio_leaves_no_manifest(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in corpus.rglob("*.flac"):
        path.unlink()
    assert prepare(corpus, tmp_path / "out", "--splits", "test-clean") == 2
    error = capsys.readouterr().err
    assert "test-clean.jsonl: expected at least one recording with its words, found none" in error
    assert "look into the corpus (2 no audio file: " in error
    assert not list((tmp_path / "out").iterdir())
