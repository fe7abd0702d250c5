"""Slices: who is in which, their scores by hand, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_benchmark import (
    TASKS,
    WORDS,
    Fakes,
    understand,
    utterance,
    write_spellings,
    write_spoken,
)

from blsp.benchmark import Benchmark, run
from blsp.errors import InputError
from blsp.metrics import wilson_interval
from blsp.report import write_report
from blsp.results import recompute
from blsp.slices import slice_utterances
from blsp.testsets import TestSet

ACCENTS = ("scots", "scots", "irish", None)


def rows() -> list[Any]:
    extras = [{"accent": accent} if accent else {} for accent in ACCENTS]
    return [utterance(i, extra=extra, speaker=f"s{i % 2}") for i, extra in enumerate(extras)]


def score(tmp_path: Path, *by: str) -> dict[str, Any]:
    """Speech misunderstands the second of four."""
    fakes = Fakes(write_spellings(tmp_path), lambda p, i: understand(p, WORDS[0 if i == 1 else i]))
    test_set = TestSet(
        condition="clean", utterances=tuple(rows()), root=write_spoken(tmp_path).parent
    )
    benchmark = Benchmark(tasks=TASKS[:2], sets=(test_set,), systems=("speech",), by=by)
    return run(benchmark, fakes.models, tmp_path / "out")


def test_every_score_is_sliced_with_its_number_and_interval(tmp_path: Path) -> None:
    results = score(tmp_path, "accent", "speaker")
    found = {
        (row["by"], row["slice"]): row
        for row in results["slices"]
        if (row["task"], row["metric"]) == ("intent", "accuracy")
    }
    assert list(found) == [
        ("accent", "irish"),
        ("accent", "scots"),
        ("accent", "(none)"),
        ("speaker", "s0"),
        ("speaker", "s1"),
    ]
    assert [row["value"] for row in found.values()] == [1, 0.5, 1, 1, 0.5]
    scots = found["accent", "scots"]
    assert (scots["n"], scots["system"], scots["condition"]) == (2, "speech", "clean")
    assert (scots["ci_low"], scots["ci_high"]) == wilson_interval(1, 2)
    wer = {
        row["slice"]: row["value"]
        for row in results["slices"]
        if (row["by"], row["metric"]) == ("accent", "wer")
    }
    # "turn on the light" for "play some music": 4 edits to 4 + 3 words
    assert wer == {"irish": 0, "scots": pytest.approx(4 / 7), "(none)": 0}


def test_slices_are_scored_again_from_the_folder_alone(tmp_path: Path) -> None:
    first = score(tmp_path, "accent")
    assert recompute(tmp_path / "out") == json.loads(json.dumps(first))
    page = write_report(tmp_path / "out").read_text()
    assert "By accent" in page and "scots" in page


def test_without_a_field_nothing_is_sliced(tmp_path: Path) -> None:
    assert score(tmp_path)["slices"] == []
    assert not (tmp_path / "out" / "slices.json").exists()


def test_a_bin_of_durations_holds_its_end(tmp_path: Path) -> None:
    lengths = (0.5, 2.0, 2.1, 5.0, 10.0, 30.0, 30.1)
    found = [
        slice_utterances([utterance(0, duration=seconds)], "duration")["u0"] for seconds in lengths
    ]
    assert found == [
        "0 to 2 s",
        "0 to 2 s",
        "2 to 5 s",
        "2 to 5 s",
        "5 to 10 s",
        "10 to 30 s",
        "over 30 s",
    ]
    assert {row["slice"] for row in score(tmp_path, "duration")["slices"]} == {"0 to 2 s"}


def test_numbers_are_names_too() -> None:
    found = slice_utterances([utterance(i, extra={"snr": 5 * i}) for i in range(3)], "snr")
    assert found == {"u0": "0", "u1": "5", "u2": "10"}


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("speakr", "found none of 'speakr'; did you mean 'speaker'?"),
        ("translation", "expected one name at 'translation', found a dict for 'u0'"),
    ],
)
def test_a_field_that_slices_nothing_is_refused(field: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        slice_utterances(rows(), field)


def test_more_slices_than_anybody_reads_are_refused() -> None:
    many = [utterance(0, id=f"u{i}", speaker=f"s{i}") for i in range(201)]
    with pytest.raises(InputError, match="at most 200 slices, found 201 at 'speaker'"):
        slice_utterances(many, "speaker")
