"""The command line: what it prints, what it exits with, and what it does not import."""

import errno
import logging
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from blsp import __version__, cli, shipped
from blsp.cli import _NOISE, COMMANDS, main
from blsp.errors import InputError

HEAVY = {"torch", "transformers", "numpy", "datasets", "peft", "soundfile", "yaml", "matplotlib"}


def exists(target: str) -> bool:
    try:
        return find_spec(target.partition(":")[0]) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize(
    "statement", ["import blsp", "from blsp.cli import main; main(['doktor'])"]
)
def test_nothing_heavy_is_imported_before_a_command_needs_it(
    statement: str, checkout: Path
) -> None:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=True
    )
    assert HEAVY.isdisjoint(done.stdout.split())


@pytest.mark.parametrize(("name", "beginning"), _NOISE.items())
def test_what_is_of_use_to_nobody_is_not_printed(
    name: str, beginning: str, caplog: pytest.LogCaptureFixture
) -> None:
    main([])
    logger = logging.getLogger(name)
    logger.warning(f"{beginning} from %s.", "somewhere")
    logger.warning("something else")
    assert caplog.messages == ["something else"]


@pytest.mark.parametrize(("name", "beginning"), _NOISE.items())
def test_it_is_recognised_by_what_the_library_says(name: str, beginning: str) -> None:
    (folder,) = find_spec("bitsandbytes").submodule_search_locations  # type: ignore[union-attr]
    path = Path(folder).parent / Path(*name.split(".")).with_suffix(".py")
    said = path.read_text(encoding="utf-8")
    assert f'"{beginning}' in said
    assert "getLogger(__name__)" in said


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text and line in text for name, (_, line) in COMMANDS.items())
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert (caught.value.code, capsys.readouterr().out) == (0, f"blsp {__version__}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if not exists(COMMANDS[name][0]):
        pytest.skip(f"{COMMANDS[name][0]} is not in this version")
    try:
        code = main([name, "--help"])
    except SystemExit as done:
        code = done.code
    assert code == 0
    assert f"usage: blsp {name}" in capsys.readouterr().out


def test_an_unknown_command_is_one_line_with_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doktor"]) == 2
    assert capsys.readouterr().err == (
        "blsp: expected a command, found 'doktor'; did you mean 'doctor'?\n"
    )


@pytest.mark.parametrize("argv", [["--debug", "doktor"], ["doktor", "--debug"]])
def test_debug_shows_the_traceback(argv: list[str]) -> None:
    with pytest.raises(InputError):
        main(argv)


def test_an_unknown_option_before_the_command_is_refused() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--quick", "doctor"])
    assert caught.value.code == 2


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "run_prep", run)


def test_an_interruption_exits_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, KeyboardInterrupt())
    assert main(["prep"]) == 130
    assert capsys.readouterr().err == "blsp: interrupted\n"


def test_a_full_disk_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, OSError(errno.ENOSPC, "No space left on device", "a.jsonl"))
    assert main(["prep"]) == 2
    assert capsys.readouterr().err == (
        "blsp: expected room on the disk for a.jsonl, found it full; free some and run this again\n"
    )


def test_an_error_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, PermissionError(errno.EACCES, "Permission denied", "a.jsonl"))
    with pytest.raises(PermissionError):
        main(["prep"])


def test_a_program_at_the_edge_is_listed_and_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "toy.py").write_text('"""Toy benchmark."""\n')
    toy = ModuleType("eval.toy")
    toy.main = lambda argv: len(argv)  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "eval.toy", toy)
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path / "blsp")
    assert main(["bench"]) == 0
    assert capsys.readouterr().out == "usage: blsp bench BENCHMARK ...\n\ntoy  Toy benchmark.\n"
    assert main(["bench", "toy", "--seed", "1"]) == len(["--seed", "1"])
    assert main(["bench", "toys"]) == 2
    assert "did you mean 'toy'?" in capsys.readouterr().err


def test_a_recipe_is_listed_and_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "a.yaml").write_text("# Conv adapter\nname: a\n")
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path / "blsp")
    assert main(["recipes"]) == 0
    assert capsys.readouterr().out == "a  Conv adapter\n"
    assert main(["recipes", "copy", "a", "--to", str(tmp_path / "mine")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'mine' / 'a.yaml'}\n"


def test_an_empty_folder_is_said_to_be_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipes").mkdir()
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path / "blsp")
    assert main(["recipes"]) == 0
    assert capsys.readouterr().out == "no recipe ships with this version\n"
