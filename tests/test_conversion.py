"""`blsp data convert`: manifests of NeMo and tables become ours, and ours become them."""

import json
from pathlib import Path

import pytest

from blsp.cli import main
from blsp.manifest import Entity, Meta, Utterance, find_root, read_manifest, write_rows

ROWS = [
    Utterance(id="a", audio="in/a.wav", duration=1.5, text='say "hi", you', start=2.0),
    Utterance(
        id="b",
        audio="b.wav",
        duration=2.0,
        text="zwei",
        language="de",
        entities=(Entity(type="n", filler="zwei"),),
        translation={"en": "two"},
    ),
]


def run(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[int, str]:
    code = main(["data", "convert", *map(str, argv)])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def write_ours(folder: Path) -> Path:
    write_rows(folder / "m.jsonl", ROWS, Meta(command="test", root="audio"))
    return folder / "m.jsonl"


def test_ours_becomes_nemos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "nemo" / "m.json"
    code, told = run(capsys, write_ours(tmp_path), "--to", "nemo", "--out", out)
    assert (code, told) == (0, f"{out}: 2 rows (nemo)\n")
    first, second = map(json.loads, out.read_text().splitlines())
    assert first == {
        "id": "a",
        "audio_filepath": "../audio/in/a.wav",
        "duration": 1.5,
        "text": 'say "hi", you',
        "offset": 2.0,
    }
    assert second["lang"] == "de"


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "nemo.jsonl"])
def test_there_and_back_again_is_the_same(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, ours = tmp_path / name, tmp_path / "back" / "ours.jsonl"
    to = ["--to", "nemo"] if name == "nemo.jsonl" else []
    assert run(capsys, write_ours(tmp_path), "--out", theirs, *to)[0] == 0
    assert run(capsys, theirs, "--out", ours, "--root", tmp_path / "audio")[0] == 0
    assert list(read_manifest(ours)) == ROWS
    assert find_root(ours).resolve() == tmp_path / "audio"
    assert find_root(tmp_path / "m.jsonl") == tmp_path / "audio"  # its side file is its own still


def test_nemos_absolute_paths_and_offsets_are_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audio = str(tmp_path / "audio" / "a.wav")
    rows = [
        {"audio_filepath": audio, "duration": 1, "text": "on", "speaker": 7},
        {"audio_filepath": audio, "duration": 1, "text": "off", "offset": 2.5},
    ]
    path = tmp_path / "n.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(capsys, path, "--out", tmp_path / "m.jsonl")[0] == 0
    assert list(read_manifest(tmp_path / "m.jsonl")) == [
        Utterance(id="audio/a", audio="audio/a.wav", duration=1, text="on", speaker="7"),
        Utterance(id="audio/a@2.5", audio="audio/a.wav", duration=1, text="off", start=2.5),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("n.json", '{"audio_filepath": "/else/a.wav", "duration": 1}', ":1: expected audio inside"),
        ("n.json", '{"audio_filepath": "a.wav"}', ":1: expected a duration, found audio; `blsp"),
        ("n.json", '{"audio_filepath": "a.wav", "duration": "x"}', "expected seconds above 0"),
        ("n.json", '{"audio_filepath": "a.wav", "duration": 1}\n' * 2, ":2: expected every id"),
        ("n.json", '{"audio_filepath": "a.wav", "duration": 1}\n{', ":2: expected a JSON object"),
        ("t.csv", "audio,duration\na.wav\n", ":2: 1 cells, not 2; expected as many cells"),
        ("t.csv", "audio,duration\n", "expected at least one row, found none"),
        ("t.tsv", "file\tduration\na\t1\n", ":2: expected 'audio_filepath' or 'audio'"),
        ("o.jsonl", '{"id": "a"}', "expected a file to turn from or into a manifest of blsp"),
        ("c.jsonl", '{"id": "a", "messages": []}', "expected a manifest, found conversations"),
    ],
)
def test_what_cannot_be_ours_is_one_line(
    name: str, content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(content)
    code, told = run(capsys, tmp_path / name, "--out", tmp_path / "out" / "m.jsonl")
    assert code == 2 and message in told and told.count("\n") == 1
    assert not (tmp_path / "out" / "m.jsonl").exists()


def test_a_file_that_is_there_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text("mine")
    code, told = run(capsys, write_ours(tmp_path), "--out", tmp_path / "t.csv")
    assert code == 2 and "expected no file yet, found one" in told
    assert (tmp_path / "t.csv").read_text() == "mine"


def test_nemo_reads_no_archives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = Utterance(id="a", audio="x.tar::a.wav", duration=1.0, text="on")
    write_rows(tmp_path / "m.jsonl", [row], Meta(command="test"))
    code, told = run(capsys, tmp_path / "m.jsonl", "--to", "nemo", "--out", tmp_path / "n.json")
    assert code == 2 and "found 'x.tar::a.wav', which NeMo does not read" in told
