"""`blsp prep iemocap` on a session of two dialogues."""

import json
from functools import partial
from pathlib import Path

import pytest

from blsp.manifest import find_root, read_manifest
from blsp.validation import validate
from tests.data_prep.conftest import run_prep, write_audio

HEADER = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\r\n\r\n"
NEUTRAL = (
    "[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]\r\n"
    "C-E2:\tNeutral;\t()\r\nC-F1:\tNeutral;\t()\r\nA-E3:\tval 3; act 2; dom  2;\t()\r\n\r\n"
)
WORDS = (
    "Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.\r\n"
    "Ses01F_impro01_M000 [007.5712-010.4750]: Do you have [LAUGHTER]  your forms?\r\n"
    "M: Yeah.\r\n"
    "Ses01F_impro01_M001 [010.9266-014.6649]: [BREATHING]\r\n"
    "Ses01F_impro01_MXX0 [015.0000-016.0000]: Aside.\r\n"
)
# turn -> emotion; the rest of the raters' line is the same for all
OTHERS = {"M000": "exc", "M001": "ang", "M002": "xxx", "F001": "fru"}


def rated(turn: str, emotion: str, dialogue: str = "Ses01F_impro01") -> str:
    return f"[7.57 - 10.47]\t{dialogue}_{turn}\t{emotion}\t[3.0000, 2.0000, 1.5000]\r\n\r\n"


def write_dialogue(session: Path, dialogue: str, ratings: str, words: str, *turns: str) -> Path:
    path = session / "dialog" / "EmoEvaluation" / f"{dialogue}.txt"
    for part, text in (("EmoEvaluation", ratings), ("transcriptions", words)):
        folder = session / "dialog" / part
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{dialogue}.txt").write_bytes(text.encode())
        (folder / f"._{dialogue}.txt").write_bytes(b"\xff")
    (path.parent / "Categorical").mkdir(exist_ok=True)
    (path.parent / "Categorical" / f"{dialogue}_e1_cat.txt").write_text("not read")
    for turn in turns:
        audio = session / "sentences" / "wav" / dialogue / f"{dialogue}_{turn}.wav"
        write_audio(audio, seconds=1.5)
    return path


def build(home: Path) -> Path:
    """The folder in which the archive was unpacked, with two sessions."""
    corpus = home / "corpora" / "IEMOCAP_full_release"
    ratings = HEADER + NEUTRAL + "".join(rated(*each) for each in OTHERS.items())
    write_dialogue(corpus / "Session1", "Ses01F_impro01", ratings, WORDS, "F000", *OTHERS)
    script = "Ses05M_script01_1b"
    ratings = HEADER + rated("F007", "sad", script)
    write_dialogue(corpus / "Session5", script, ratings, f"{script}_F007 [1.0-2.0]: No.", "F007")
    return home / "corpora"


prepare = partial(run_prep, "iemocap")


def emotions(path: Path) -> dict[str, str | None]:
    return {row.id[-4:]: row.emotion for row in read_manifest(path)}


def test_every_session_becomes_a_manifest_with_emotion_gender_and_ratings(
    root: Path, tmp_path: Path
) -> None:
    assert prepare(root, tmp_path) == 0
    names = sorted(path.name for path in tmp_path.glob("*.jsonl"))
    assert names == ["session1.jsonl", "session5.jsonl"]
    assert json.loads((tmp_path / "session1.jsonl").read_text().partition("\n")[0]) == {
        "id": "Ses01F_impro01_F000",
        "audio": "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav",
        "duration": 1.5,
        "text": "Excuse me.",
        "language": "en",
        "speaker": "Ses01F",
        "emotion": "neutral",
        "license": "research-only",
        "source": "IEMOCAP",
        "emotion_label": "neu",
        "gender": "female",
        "dialogue": "Ses01F_impro01",
        "style": "improvised",
        "valence": 2.5,
        "arousal": 2.5,
        "dominance": 2.5,
    }
    report = validate(tmp_path / "session5.jsonl")
    assert (report.rows, report.seconds, report.problems, report.warnings) == (1, 1.5, [], [])
    row = next(read_manifest(tmp_path / "session5.jsonl"))
    assert (row.id, row.speaker, row.extra["style"]) == (
        "Ses05M_script01_1b_F007",
        "Ses05F",
        "scripted",
    )
    assert (find_root(tmp_path / "session5.jsonl") / row.audio).exists()


def test_four_classes_count_excited_as_happy_and_leave_the_rest_out(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(root, tmp_path, "--splits", "session1")
    path = tmp_path / "session1.jsonl"
    assert emotions(path) == {"F000": "neutral", "M000": "happy", "M001": "angry"}
    out = capsys.readouterr().out
    assert "  dropped 1: no emotion that the raters agreed on\n" in out
    assert "  dropped 1: an emotion outside the four classes\n" in out
    assert ": fru\n" in out


def test_all_classes_stand_apart(root: Path, tmp_path: Path) -> None:
    prepare(root, tmp_path, "--splits", "session1", "--classes", "all")
    found = emotions(tmp_path / "session1.jsonl")
    assert found == {"F000": "neutral", "M000": "excited", "M001": "angry", "F001": "frustrated"}


def test_sounds_are_no_words_and_a_turn_of_sounds_alone_stays(root: Path, tmp_path: Path) -> None:
    prepare(root / "IEMOCAP_full_release", tmp_path, "--splits", "session1")
    texts = [row.text for row in read_manifest(tmp_path / "session1.jsonl")]
    assert texts == ["Excuse me.", "Do you have your forms?", None]


def test_missing_audio_is_counted(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    next(root.rglob("Ses01F_impro01_M000.wav")).unlink()
    assert prepare(root, tmp_path, "--splits", "session1") == 0
    out = capsys.readouterr().out
    assert f"{tmp_path}/session1.jsonl: 2 utterances" in out
    assert "  dropped 1: no audio file\n" in out


def test_a_second_run_with_other_classes_is_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(root, tmp_path)
    assert prepare(root, tmp_path, "--classes", "four") == 0
    assert prepare(root, tmp_path, "--classes", "all") == 2
    assert "delete it or choose another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (rated("F009", "joy"), ":2: expected an emotion of neu, hap, exc"),
        ("[1.0 - 2.0]\tneu\n", ":2: expected [start - end], turn, emotion and [V, A, D], found"),
    ],
)
def test_a_rating_of_another_form_is_named(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    session = root / "IEMOCAP_full_release" / "Session1"
    path = write_dialogue(session, "Ses01F_impro01", f"%\n{line}", WORDS)
    assert prepare(root, tmp_path, "--splits", "session1") == 2
    error = capsys.readouterr().err
    assert f"{path}{message}" in error
    assert error.count("\n") == 1


def test_a_dialogue_without_transcriptions_is_named(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next(root.rglob("transcriptions/Ses01F_impro01.txt"))
    path.unlink()
    assert prepare(root, tmp_path) == 2
    assert f"{path}: expected a text file, found: No such file" in capsys.readouterr().err
