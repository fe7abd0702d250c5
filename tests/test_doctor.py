"""The doctor: requirements against what is installed, and the table it prints."""

import pytest
from packaging.requirements import Requirement

from blsp import doctor
from blsp.doctor import check_core, check_extra, check_package, check_shipped
from blsp.findings import Finding, format_findings

LINES = ["torch>=2", "gradio>=6; extra == 'demo'", "no-such-package>1; extra == 'tiny'"]


def test_requirements_are_sorted_into_core_and_extras() -> None:
    core, extras = doctor.split_requirements(LINES, ["demo", "tiny"])
    assert [need.name for need in core] == ["torch"]
    assert {extra: [need.name for need in needs] for extra, needs in extras.items()} == {
        "demo": ["gradio"],
        "tiny": ["no-such-package"],
    }


def test_a_package_in_range_is_ok(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_version", lambda name: "2.13.0+cpu")
    assert check_package(Requirement("torch>=2.9,<3")) == Finding(
        state="ok", name="torch", found="2.13.0+cpu", advice="<3,>=2.9"
    )


def test_a_package_out_of_range_names_the_line_that_mends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "find_version", lambda name: "1.0")
    finding = check_package(Requirement("torch>=2.9"))
    assert (finding.state, finding.found) == ("bad", "1.0")
    assert finding.advice == "outside >=2.9: pip install 'torch>=2.9'"


def test_a_missing_package_names_the_line_that_installs_it() -> None:
    assert check_package(Requirement("no-such-package>=1")) == Finding(
        state="bad",
        name="no-such-package",
        found="missing",
        advice="pip install 'no-such-package>=1'",
    )


def test_a_package_without_metadata_is_not_called_healthy() -> None:
    [finding] = check_core([])
    assert (finding.state, finding.name, finding.found) == ("bad", "blsp", "not installed")


def test_a_missing_extra_is_a_note() -> None:
    finding = check_extra("tiny", [Requirement("no-such-package"), Requirement("pytest")])
    assert (finding.state, finding.found) == ("note", "lacks no-such-package")
    assert finding.advice == "pip install 'blsp[tiny]'"


def test_audio_formats_are_all_there_in_this_environment() -> None:
    [finding] = doctor.check_audio()
    assert finding.state == "ok"
    assert finding.found.endswith("reads WAV, FLAC, MP3, OGG, Opus")


def test_the_table_is_aligned_and_long_lines_without_advice_do_not_widen_it() -> None:
    findings = [
        Finding(state="ok", name="torch", found="2.13.0", advice="<3"),
        Finding(state="bad", name="trl", found="missing", advice="pip install trl"),
        Finding(state="note", name="disk", found="a long line that says where"),
    ]
    assert format_findings(findings) == (
        "  ok    torch  2.13.0   <3\n"
        "  bad   trl    missing  pip install trl\n"
        "  note  disk   a long line that says where"
    )


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("note", 0), ("bad", 1)])
def test_only_a_bad_finding_fails_the_command(
    state: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = Finding(state=state, name="x", found="y")  # pyright: ignore[reportArgumentType]
    for check in ("check_machine", "check_audio", "check_tiny", "check_recipes"):
        monkeypatch.setattr(doctor, check, lambda *_: [])
    monkeypatch.setattr(doctor, "check_core", lambda requirements: [finding])
    assert doctor.main([]) == code
    assert "1 to put right" in capsys.readouterr().out if code else True


def test_the_recipes_that_fit_are_told_from_their_headers() -> None:
    found = {finding.name: finding for finding in check_shipped("A card", 24 * 10**9)}
    assert found["qwen2.5-7b-4bit"].state == "ok"
    assert found["blsp-llama2-7b"].state == "note"
    assert found["blsp-llama2-7b"].found == "24.9 GB forecast, A card has 24 GB"
    assert not any(name.startswith("tiny/") for name in found)
