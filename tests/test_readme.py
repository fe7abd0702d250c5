"""The README: its commands run, and its file tree is the one on disk."""

import re
import subprocess
from pathlib import Path

import pytest

from blsp.cli import main

README = Path(__file__).resolve().parent.parent / "README.md"
UNLISTED = {".git", ".gitignore", ".venv", "build", "dist", "runs"}


def blocks(language: str) -> list[str]:
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", README.read_text(), re.M | re.S)
    return [text for found, text in fences if found == language]


def commands() -> list[str]:
    lines = "".join(blocks("sh")).splitlines()
    return [line.partition("#")[0].strip() for line in lines]


@pytest.mark.parametrize("command", [line for line in commands() if line.startswith("make ")])
def test_a_make_target_exists(command: str, checkout: Path) -> None:
    dry = [*command.split(), "--dry-run"]
    done = subprocess.run(dry, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [line for line in commands() if line.startswith("blsp ")])
def test_a_blsp_command_runs_in_an_empty_folder(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """None of them needs or leaves anything."""
    monkeypatch.chdir(tmp_path)
    # 1: the doctor found something to put right, which is the machine's matter
    assert run(command.split()[1:]) in ((0, 1) if "doctor" in command else (0,))
    assert capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def run(words: list[str]) -> object:
    """The exit code; help leaves by an exception."""
    try:
        return main(words)
    except SystemExit as left:
        return left.code or 0


def test_no_command_is_of_another_kind() -> None:
    assert {command.split()[0] for command in commands()} == {"make", "blsp"}


def tree() -> dict[str, str]:
    """Path -> comment; two spaces of indentation are one folder down."""
    entries: dict[str, str] = {}
    folders: list[str] = []
    for line in blocks("")[-1].splitlines():
        name, comment = line.split(maxsplit=1)
        folders = folders[: (len(line) - len(line.lstrip())) // 2]
        entries["".join(folders) + name] = comment
        if name.endswith("/"):
            folders.append(name)
    return entries


def test_every_file_in_the_tree_exists(checkout: Path) -> None:
    assert [path for path in tree() if not (checkout / path).exists()] == []


def test_every_file_on_disk_is_in_the_tree(checkout: Path) -> None:
    """A folder whose files are not listed one by one stands for all of them."""
    listed = tree()
    whole = [path for path in listed if path.endswith("/") and not expanded(path, listed)]
    on_disk = [
        path.relative_to(checkout).as_posix()
        for top in checkout.iterdir()
        if top.name not in UNLISTED and "cache" not in top.name and "egg-info" not in top.name
        for path in ([top] if top.is_file() else top.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]
    lacking = [p for p in on_disk if p not in listed and not p.startswith(tuple(whole))]
    assert lacking == []


def expanded(folder: str, listed: dict[str, str]) -> bool:
    return any(path.startswith(folder) and path != folder for path in listed)
