"""`blsp prep tedlium` on STM files and long NIST SPHERE recordings."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from blsp.manifest import read_manifest, read_meta
from blsp.validation import validate
from data_prep.tedlium import clean
from tests.data_prep.conftest import run_prep

TALK = "911Mothers_2010W"
LINES = (
    ";; a comment\n"
    f"{TALK} 1 {TALK} 0.50 2.00 <NA> the fact that we have what most people consider an unusual "
    "friendship <unk> and it is\n"
    f"{TALK} 1 {TALK} 2.00 2.50 <o,f0,female> they 're {{NOISE}} here\n"
    f"{TALK} 1 {TALK} 2.50 2.80 <NA> ignore_time_segment_in_scoring\n"
    f"{TALK} 1 {TALK} 2.60 2.90 <NA> <unk>\n"
    f"{TALK} 1 {TALK} 90.00 95.00 <NA> after the end\n"
    f"{TALK} 1 {TALK} nothing\n"
)


def add_talk(folder: Path, name: str, lines: str) -> None:
    """A talk of three seconds; its lines end as in Windows."""
    for kind in ("stm", "sph"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    (folder / "stm" / f"{name}.stm").write_bytes(lines.replace("\n", "\r\n").encode())
    samples = np.random.default_rng(0).normal(0, 0.1, 48_000)
    path = folder / "sph" / f"{name}.sph"
    soundfile.write(path, samples, 16_000, format="NIST", subtype="PCM_16")


def build(home: Path) -> Path:
    """The folder in which release 3 was unpacked."""
    release = home / "TEDLIUM_release-3"
    add_talk(release / "data", TALK, LINES)
    add_talk(
        release / "legacy" / "test", "Talk_2009", f"Talk_2009 1 Speaker 0 3 <NA> yes {'a ' * 3}"
    )
    (release / "data" / "stm" / f"._{TALK}.stm").write_bytes(b"macOS")
    return home


prepare = partial(run_prep, "tedlium")


def test_a_segment_of_a_talk_becomes_a_row(corpus: Path, tmp_path: Path) -> None:
    assert prepare(corpus, tmp_path / "out") == 0
    path = tmp_path / "out" / "train.jsonl"
    assert path.read_text().partition("\n")[0] == (
        f'{{"id": "{TALK}-0000050-0000200", "audio": "data/sph/{TALK}.sph", "duration": 1.5, '
        '"text": "the fact that we have what most people consider an unusual friendship and it '
        f'is", "start": 0.5, "language": "en", "speaker": "{TALK}", '
        '"license": "CC-BY-NC-ND-3.0", "source": "TED-LIUM"}'
    )
    report = validate(path)
    assert (report.rows, report.problems, report.warnings) == (2, [], [])


def test_marks_are_left_out_and_apostrophes_joined(corpus: Path, tmp_path: Path) -> None:
    prepare(corpus, tmp_path / "out", "--splits", "train")
    _, row = read_manifest(tmp_path / "out" / "train.jsonl")
    assert (row.text, row.extra) == ("they're here", {"gender": "female"})


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("i 'm sure he 's gone", "i'm sure he's gone"),
        ("' cause you said ' em", "'cause you said 'em"),
        ("[NOISE] yes {SMACK} <unk>", "yes"),
    ],
)
def test_words_are_written_as_usual(words: str, text: str) -> None:
    assert clean(words) == text


def test_what_cannot_be_used_is_counted(corpus: Path, tmp_path: Path) -> None:
    prepare(corpus, tmp_path / "out", "--splits", "train")
    meta = read_meta(tmp_path / "out" / "train.jsonl")
    assert meta is not None
    assert meta.counts == {
        "written": 2,
        "ignore_time_segment_in_scoring": 1,
        "no words": 1,
        "a line that is no segment": 1,
        "a segment beyond the end of its audio": 1,
    }


def test_the_folders_of_release_2_are_found(tmp_path: Path) -> None:
    line = "Talk_2009 1 Speaker 0 3 <o,f0,male> yes\n"
    add_talk(tmp_path / "TEDLIUM_release2" / "dev", "Talk_2009", line)
    assert prepare(tmp_path / "TEDLIUM_release2", tmp_path / "out") == 0
    assert next(read_manifest(tmp_path / "out" / "dev.jsonl")).audio == "dev/sph/Talk_2009.sph"
