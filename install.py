"""What `make` runs to fill the virtual environment: the torch that fits this machine, then blsp.

A plain `pip install` gets torch wrong twice: it fetches gigabytes of CUDA libraries for a machine
without a GPU, and a pinned torch replaces the one a user chose with care. So torch is decided
first: an installed one stays, a machine without an NVIDIA driver gets a CPU build where the index
has one, and a driver too old for the default build stops the installation with the line that works.

    python3 install.py .venv dev [INDEX_URL_FOR_TORCH]
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from blsp.errors import InputError
from blsp.hardware import find_nvidia_driver

ROOT = Path(__file__).resolve().parent
OLDEST_PYTHON = (3, 11)
OLDEST_DRIVER = 580  # what the default build, CUDA 13, asks for


def main() -> int:
    """Create the environment where it is missing, and install into it."""
    folder, extras, index = Path(sys.argv[1]), sys.argv[2], (*sys.argv[3:], "")[0]
    try:
        check_python(sys.version_info[:2])
        python = create_environment(folder)
        install(python, extras, index)
    except InputError as error:
        print(f"install: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


def check_python(version: tuple[int, ...]) -> None:
    """Refuse a Python that the dependencies do not support."""
    if version < OLDEST_PYTHON:
        raise InputError(
            f"expected Python {_dotted(OLDEST_PYTHON)} or newer, found {_dotted(version)} "
            f"({sys.executable}); run make PYTHON=/path/to/a/newer/python"
        )


def create_environment(folder: Path) -> Path:
    """Create a virtual environment unless there is one, and return its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        command = [sys.executable, "-m", "venv", str(folder)]
        if _own_torch():  # a machine or container that comes with its torch: use that one
            command.append("--system-site-packages")
        subprocess.run(command, check=True)
    return python


def install(python: Path, extras: str, index: str) -> None:
    """Install torch and blsp with pip, the versions being those of constraints.txt."""
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    installed = _torch_of(python)
    torch = None
    if not installed:
        torch = choose_torch(constraints, find_nvidia_driver(), index)
        torch = _cpu_build(python, torch, index) or torch
    print(describe_download(installed, torch), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "constraints.txt"
        path.write_text(constraints if torch else without_torch(constraints), encoding="utf-8")
        command = [str(python), "-m", "pip", "install", "-c", str(path)]
        command += _index_options(index)
        command += [torch] if torch else []
        subprocess.run([*command, "-e", f"{ROOT}[{extras}]"], check=True)


def choose_torch(constraints: str, driver: str | None, index: str) -> str:
    """Return the pinned requirement, or refuse where its default build cannot use the GPU."""
    pin = re.search(r"^torch==\S+$", constraints, re.MULTILINE)
    assert pin, "constraints.txt pins torch"
    if driver and int(driver.split(".")[0]) < OLDEST_DRIVER and not index:
        raise InputError(
            f"expected an NVIDIA driver {OLDEST_DRIVER} or newer, which the default build of "
            f"{pin[0]} needs, found {driver}; update the driver, or run "
            "make TORCH_INDEX=URL with the index of a CUDA 12 build from pytorch.org/get-started"
        )
    return pin[0]


def without_torch(constraints: str) -> str:
    """Return the constraints less the one on torch, so that pip leaves an installed torch alone."""
    return re.sub(r"^torch==.*\n", "", constraints, flags=re.MULTILINE)


def describe_download(installed: str | None, torch: str | None) -> str:
    """Return the line that says what is about to be downloaded; sizes were measured on Linux."""
    if installed:
        return f"install: torch {installed} stays; some 0.3 GB to download, 1 GB on disk"
    if torch and torch.endswith("+cpu"):
        return f"install: {torch}, there being no GPU; some 0.5 GB to download, 2 GB on disk"
    return (
        f"install: {torch}; on Linux its CUDA libraries make it several GB to download "
        "(TORCH_INDEX=URL can name an index with a CPU build)"
    )


def _cpu_build(python: Path, torch: str, index: str) -> str | None:
    if find_nvidia_driver() or index:
        return None
    requirement = f"{torch}+cpu"
    command = [str(python), "-m", "pip", "install", "--dry-run", "--no-deps", "-q", requirement]
    offered = subprocess.run(command, capture_output=True, check=False).returncode == 0
    return requirement if offered else None


def _index_options(index: str) -> list[str]:
    return ["--extra-index-url", index] if index else []


def _own_torch() -> str | None:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch_of(python: Path) -> str | None:
    code = "import importlib.metadata as m; print(m.version('torch'))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


if __name__ == "__main__":
    sys.exit(main())
