"""Slices: who is in which, their scores by hand, and what is refused."""

import json
from dataclasses import replace
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

from blsp.benchmark import Benchmark
from blsp.errors import InputError
from blsp.metrics import wilson_interval
from blsp.report import write_report
from blsp.results import recompute
from blsp.running import run
from blsp.slices import (
    Sliced,
    find_bounds,
    find_edges,
    read_slices,
    slice_utterances,
    write_slices,
)
from blsp.testsets import TestSet

ACCENTS = ("scots", "scots", "irish", None)


def rows() -> list[Any]:
    extras = [{"accent": accent} if accent else {} for accent in ACCENTS]
    return [utterance(i, extra=extra, speaker=f"s{i % 2}") for i, extra in enumerate(extras)]


def score(tmp_path: Path, *by: str, longest: float | None = None) -> dict[str, Any]:
    """Speech misunderstands the second of four."""
    fakes = Fakes(write_spellings(tmp_path), lambda p, i: understand(p, WORDS[0 if i == 1 else i]))
    test_set = TestSet(
        condition="clean", utterances=tuple(rows()), root=write_spoken(tmp_path).parent
    )
    benchmark = Benchmark(tasks=TASKS[:2], sets=(test_set,), systems=("speech",), by=by)
    models = replace(fakes.models, trained_max_seconds=longest)
    return run(benchmark, models, tmp_path / "out")


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
    lengths = (0.5, 2.0, 2.1, 5.0, 10.0, 30.0, 30.1, 60.0, 119.0, 121.0)
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
        "30 to 60 s",
        "30 to 60 s",
        "60 to 120 s",
        "over 120 s",
    ]
    assert {row["slice"] for row in score(tmp_path, "duration")["slices"]} == {"0 to 2 s"}


@pytest.mark.parametrize(
    ("longest", "edges"),
    [
        (None, (2, 5, 10, 30, 60, 120)),
        (30.0, (2, 5, 10, 30, 60, 120)),  # is one already
        (17.5, (2, 5, 10, 17.5, 30, 60, 120)),
        (29.4, (2, 5, 10, 29.4, 60, 120)),  # nobody asks about 29.4 to 30 s
        (300.0, (2, 5, 10, 30, 60, 120, 300)),
    ],
)
def test_the_longest_recording_of_training_is_an_edge(
    longest: float | None, edges: tuple[float, ...]
) -> None:
    assert find_edges(longest) == edges
    if longest:
        found = slice_utterances(
            [utterance(0, duration=longest), utterance(1, duration=longest + 0.01)],
            "duration",
            trained_max_seconds=longest,
        )
        bounds = [find_bounds(name) for name in found.values()]
        assert bounds[0] and bounds[1] and bounds[0][1] == bounds[1][0] == longest


def test_what_is_cut_where_is_kept_with_the_run(tmp_path: Path) -> None:
    first = score(tmp_path, "duration", "speaker", longest=0.25)
    found = [row["slice"] for row in first["slices"] if row["by"] == "duration"]
    assert list(dict.fromkeys(found)) == ["0 to 0.25 s", "0.25 to 2 s"]
    (tmp_path / "out" / "run.json").write_text(  # nothing there says how long training was
        (tmp_path / "out" / "run.json").read_text().replace("max_new_tokens", "tokens")
    )
    again = recompute(tmp_path / "out")
    assert again["slices"] == json.loads(json.dumps(first["slices"]))
    kept = json.loads((tmp_path / "out" / "slices.json").read_text())
    assert (kept["edges"][0], kept["trained_max_seconds"]) == (0.25, 0.25)
    assert kept["slices"]["clean"]["duration"]["u3"] == "0.25 to 2 s"


def test_who_goes_on_without_the_checkpoint_cuts_at_the_same_edges(tmp_path: Path) -> None:
    first = score(tmp_path, "duration", longest=0.25)
    (tmp_path / "whisper" / "normalizer.json").unlink()
    (tmp_path / "whisper").rmdir()
    assert score(tmp_path, "duration")["slices"] == first["slices"]


def test_slices_of_an_older_run_are_read(tmp_path: Path) -> None:
    older = {"clean": {"duration": {"u0": "over 30 s"}}}
    (tmp_path / "slices.json").write_text(json.dumps(older))
    assert read_slices(tmp_path) == Sliced(slices=older)
    write_slices(tmp_path, Sliced(slices={"noisy": {"duration": {"u0": "0 to 2 s"}}}))
    assert set(read_slices(tmp_path).slices) == {"clean", "noisy"}


def test_scores_are_drawn_over_duration_with_the_longest_of_training_marked(tmp_path: Path) -> None:
    score(tmp_path, "duration", longest=0.25)
    html = write_report(tmp_path / "out").read_text().partition("Over duration")[2]
    section = html.partition("<h2>")[0]
    assert section.count("<svg") == 2  # asr and intent
    assert "longest recording of training, 0.25 s" in section
    # Slices meet in the middle of the picture, where the line stands: 44 to 314 wide.
    assert section.count('class="axis mark" d="M179.0 ') == 2
    assert [f">{edge}<" in section for edge in ("0", "0.25", "2")] == [True] * 3
    # Speech misunderstands the second of two in the first slice and nothing in the other.
    assert 'd="M111.5 10.0L246.5 160.0"' in section  # some errors, then none
    assert 'd="M111.5 85.0L246.5 10.0"' in section  # accuracy: 0.5, then 1


def test_without_slices_of_durations_nothing_is_drawn_over_them(tmp_path: Path) -> None:
    score(tmp_path, "accent")
    assert "Over duration" not in write_report(tmp_path / "out").read_text()


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
