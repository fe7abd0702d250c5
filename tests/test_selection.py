"""`blsp data filter` and `split`: which rows go where, and what is said."""

import json
from pathlib import Path

import pytest

from blsp.cli import main
from blsp.manifest import (
    AudioPart,
    Conversation,
    Message,
    Meta,
    TextPart,
    Utterance,
    find_root,
    read_conversations,
    read_manifest,
    read_meta,
    write_rows,
)
from blsp.selection import choose_part, parse_parts

ROWS = [
    Utterance(id="short", audio="a.wav", duration=0.5, text="yes", language="en"),
    Utterance(id="long", audio="b.wav", duration=40.0, text="a b", language="en"),
    Utterance(id="fast", audio="c.wav", duration=1.0, text="a b c d e f g", language="de"),
    Utterance(id="mute", audio="d.wav", duration=2.0, text=None, language="de"),
    Utterance(id="good", audio="e.wav", duration=2.0, text="turn on", extra={"noise": 3}),
]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "m.jsonl"
    write_rows(path, ROWS, Meta(command="test", root="../audio", llm="tiny"))
    return path


def run(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[int, str]:
    code = main(["data", *map(str, argv)])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


@pytest.mark.parametrize(
    ("conditions", "kept"),
    [
        ("--min-seconds 1", "long fast mute good"),
        ("--max-seconds 2", "short fast mute good"),
        ("--max-words-per-second 2", "short long good"),
        ("--min-words-per-second 1", "short fast good"),
        ("--language en", "short long"),
        ("--language en --language de", "short long fast mute"),
        ("--where language=de", "fast mute"),
        ("--where language!=de", "short long good"),
        ("--where text!=", "short long fast good"),
        ("--where text=", "mute"),
        ("--where noise=3", "good"),
        ("--min-seconds 1 --language de --where text!=", "fast"),
    ],
)
def test_rows_that_pass_are_kept(
    conditions: str,
    kept: str,
    manifest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "f.jsonl"
    assert run(capsys, "filter", manifest, "--out", out, *conditions.split())[0] == 0
    assert [row.id for row in read_manifest(out)] == kept.split()


def test_what_is_dropped_is_counted_by_its_first_reason(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "f.jsonl"
    asked = "--min-seconds", "1", "--max-seconds", "30", "--where", "language=de"
    assert run(capsys, "filter", manifest, "--out", out, *asked) == (
        0,
        f"{out}: 2 of {manifest} written\n"
        "  dropped 1: below 1 s\n  dropped 1: above 30 s\n  dropped 1: not language=de\n",
    )


def test_rows_keep_their_keys_and_the_side_file_its_root(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "er" / "f.jsonl"
    run(capsys, "filter", manifest, "--out", out, "--where", "noise=3")
    assert list(read_manifest(out)) == [ROWS[-1]]
    meta = read_meta(out)
    assert meta and (meta.root, meta.llm) == ("../../audio", "tiny")
    assert meta.counts == {"written": 1, "not noise=3": 4}
    assert find_root(out).resolve() == tmp_path / "audio"


def build_chat(name: str, *languages: str) -> Conversation:
    heard = [
        AudioPart(audio=f"{name}.wav", duration=1.0 + at, transcript="on", language=language)
        for at, language in enumerate(languages)
    ]
    reply = Message(role="assistant", content=(TextPart(text="ok"),))
    messages = (Message(role="user", content=(TextPart(text="Hear:"), *heard)), reply)
    return Conversation(id=name, messages=messages)


@pytest.mark.parametrize(
    ("conditions", "kept"),
    [("--language en", "one"), ("--max-seconds 1", "one text"), ("--where id!=one", "two text")],
)
def test_conversations_are_chosen_by_all_their_recordings(
    conditions: str, kept: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [build_chat("one", "en"), build_chat("two", "en", "de"), build_chat("text")]
    write_rows(tmp_path / "c.jsonl", rows, Meta(command="test"))
    out = tmp_path / "f.jsonl"
    assert run(capsys, "filter", tmp_path / "c.jsonl", "--out", out, *conditions.split())[0] == 0
    assert [row.id for row in read_conversations(out)] == kept.split()


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ([], "expected a condition, found none"),
        (["--where", "speaker"], "expected KEY=VALUE or KEY!=VALUE, found 'speaker'"),
        (["--min-seconds", "3", "--max-seconds", "2"], "expected at least --min-seconds 3"),
        (["--language", "fr"], "found none among 5 (5 language is not fr)"),
    ],
)
def test_a_filter_that_cannot_be_is_one_line(
    conditions: list[str],
    message: str,
    manifest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, told = run(capsys, "filter", manifest, "--out", tmp_path / "f.jsonl", *conditions)
    assert code == 2 and message in told and told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_file_of_another_command_stays(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["filter", manifest, "--out", tmp_path / "f.jsonl", "--language"]
    assert run(capsys, *words, "en")[0] == 0
    assert run(capsys, *words, "en")[0] == 0
    code, told = run(capsys, *words, "de")
    assert code == 2 and "expected no file yet, or that of `" in told
    assert [row.id for row in read_manifest(tmp_path / "f.jsonl")] == ["short", "long"]


def test_a_manifest_is_not_filtered_onto_itself(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "filter", manifest, "--out", manifest, "--language", "en")[0] == 2
    assert list(read_manifest(manifest)) == ROWS


# --- split ----------------------------------------------------------------------------------------


def test_a_part_goes_by_the_hash_of_the_value() -> None:
    """BLAKE2b of 'a' begins with 0x40f8, that is 0.254, and of 'b' with 0x8472, 0.517."""
    shares = {"first": 0.25, "second": 0.25, "third": 0.5}
    assert [choose_part(value, shares) for value in "ab"] == ["second", "third"]


def write_many(path: Path, count: int, **options: str) -> Path:
    rows = [
        Utterance(id=f"u{at}", audio=f"{at}.wav", duration=1.0, text="on", speaker=f"s{at % 40}")
        for at in range(count)
    ]
    write_rows(path, rows, Meta(command="test"))
    return path


def read_ids(path: Path) -> set[str]:
    return {row.id for row in read_manifest(path)}


def test_parts_hold_every_row_once_and_their_shares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write_many(tmp_path / "m.jsonl", 2000), tmp_path / "parts"
    code, told = run(capsys, "split", path, "--out", out, "--parts", "train=0.8,dev=0.2")
    assert code == 0 and "warning" not in told
    train, dev = read_ids(out / "train.jsonl"), read_ids(out / "dev.jsonl")
    assert not train & dev and len(train | dev) == 2000
    assert 360 < len(dev) < 440
    assert f"{out}/dev.jsonl: {len(dev)} lines, {len(dev) / 3600:.2f} h of audio\n" in told
    assert find_root(out / "dev.jsonl").resolve() == tmp_path


def test_rows_added_later_move_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = "--parts", "train=0.8,dev=0.2"
    for count in (100, 200):
        path = write_many(tmp_path / f"{count}.jsonl", count)
        run(capsys, "split", path, "--out", tmp_path / str(count), *parts)
    for name in ("train.jsonl", "dev.jsonl"):
        assert read_ids(tmp_path / "100" / name) < read_ids(tmp_path / "200" / name)


def test_no_speaker_is_in_two_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_many(tmp_path / "m.jsonl", 400)
    asked = "--parts", "a=0.5,b=0.5", "--by", "speaker"
    assert run(capsys, "split", path, "--out", tmp_path, *asked)[0] == 0
    speakers = [{row.speaker for row in read_manifest(tmp_path / f"{name}.jsonl")} for name in "ab"]
    assert not speakers[0] & speakers[1] and len(speakers[0] | speakers[1]) == 40


def test_shares_that_are_far_off_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """'a' is in the first half and has one row of ten, 'b' in the second."""
    rows = [
        Utterance(id=f"{at}", audio="a.wav", duration=1, text="on", speaker="b" if at else "a")
        for at in range(10)
    ]
    write_rows(tmp_path / "m.jsonl", rows, Meta(command="test"))
    asked = "--parts", "first=0.5,second=0.5", "--by", "speaker"
    code, told = run(capsys, "split", tmp_path / "m.jsonl", "--out", tmp_path, *asked)
    assert code == 0
    assert f"warning: {tmp_path}/first.jsonl: expected 50.0%, found 10.0% of the rows" in told


@pytest.mark.parametrize(
    "parts", ["a=0.5", "a=0.5,a=0.5", "a=x,b=1", "a=0,b=1", "../a=1", "a", "a=0.5,b=0.6", "a=nan"]
)
def test_parts_that_cannot_be_are_refused(parts: str) -> None:
    with pytest.raises(ValueError, match="--parts: expected"):
        parse_parts(parts)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--parts", "a=0.5,b=0.5", "--by", "speakr"], "m.jsonl:1: expected the field 'speakr'"),
        (["--parts", "a=0.9999999,b=0.0000001"], "expected rows for every part, found none for"),
    ],
)
def test_a_split_that_cannot_be_leaves_nothing(
    asked: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write_many(tmp_path / "m.jsonl", 10), tmp_path / "parts"
    code, told = run(capsys, "split", path, "--out", out, *asked)
    assert code == 2 and message in told and told.count("\n") == 1
    assert list(out.iterdir()) == []


def test_recordings_of_a_conversation_stay_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [build_chat(name, "en", "en") for name in "abcdefgh"]
    write_rows(tmp_path / "c.jsonl", rows, Meta(command="test"))
    asked = "--parts", "x=0.5,y=0.5", "--by", "audio"
    assert run(capsys, "split", tmp_path / "c.jsonl", "--out", tmp_path, *asked)[0] == 0
    lines = (tmp_path / "x.jsonl").read_text().splitlines()
    lines += (tmp_path / "y.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["id"] for line in lines) == list("abcdefgh")
