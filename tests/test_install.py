"""Which torch `make` installs, and the pins it installs everything else by."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import install
from blsp.errors import InputError

CONSTRAINTS = "tokenizers==0.23.3\ntorch==2.13.0\ntqdm==4.70.1\n"


@pytest.mark.parametrize("driver", [None, "580.65.06", "610.10"])
def test_the_pinned_torch_is_taken_without_a_driver_and_with_a_new_one(driver: str | None) -> None:
    assert install.choose_torch(CONSTRAINTS, driver, index="") == "torch==2.13.0"


def test_an_older_driver_names_the_line_to_use() -> None:
    with pytest.raises(InputError, match=r"found 550\.54; .* run make TORCH_INDEX=URL"):
        install.choose_torch(CONSTRAINTS, "550.54", index="")
    assert install.choose_torch(CONSTRAINTS, "550.54", index="https://x") == "torch==2.13.0"


def test_an_installed_torch_is_left_alone_by_dropping_its_pin_only() -> None:
    assert install.without_torch(CONSTRAINTS) == "tokenizers==0.23.3\ntqdm==4.70.1\n"


@pytest.mark.parametrize(
    ("installed", "torch", "said"),
    [
        ("2.11.0", None, "torch 2.11.0 stays; some 0.3 GB"),
        (None, "torch==2.13.0+cpu", "torch==2.13.0+cpu, there being no GPU; some 0.5 GB"),
        (None, "torch==2.13.0", "several GB"),
    ],
)
def test_the_size_is_said_first(installed: str | None, torch: str | None, said: str) -> None:
    assert said in install.describe_download(installed, torch)


def test_an_old_python_is_refused_with_the_line_to_use() -> None:
    with pytest.raises(InputError, match=r"expected Python 3\.11 or newer, found 3\.10 .* PYTHON="):
        install.check_python((3, 10))


def test_every_direct_requirement_is_pinned_inside_its_range(checkout: Path) -> None:
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + [
        line
        for extra in ("tensorboard", "tiny", "dev")
        for line in project["optional-dependencies"][extra]
    ]
    pins = read_pins(checkout)
    for requirement in map(Requirement, lines):
        if requirement.name != "blsp":
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])


def test_constraints_are_exact_pins_and_name_no_index(checkout: Path) -> None:
    lines = (checkout / "constraints.txt").read_text().splitlines()[1:]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)


def test_every_pinned_package_has_its_licence_listed(checkout: Path) -> None:
    listed = (checkout / "THIRD_PARTY.md").read_text()
    lacking = [
        name for name, pin in read_pins(checkout).items() if f"| {name} | {pin} |" not in listed
    ]
    assert lacking == []


def read_pins(checkout: Path) -> dict[str, str]:
    pairs = re.findall(r"^([\w.-]+)==(.+)$", (checkout / "constraints.txt").read_text(), re.M)
    return {canonicalize_name(name): version for name, version in pairs}
