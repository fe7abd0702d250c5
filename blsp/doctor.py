"""`blsp doctor`: what is installed against what is asked for, and what this machine can do.

It answers the first question of most bug reports. The ranges come from the installed package's own
metadata, so they are written once, in pyproject.toml. The machine enters, and a recipe if one is
named; a table leaves, and exit code 1 when something that every command needs, or the recipe, is
missing or out of range. No host is asked, unless a recipe names a model that is not here.
"""

import argparse
import importlib.metadata
import platform
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from packaging.requirements import Requirement

from blsp import __version__
from blsp.findings import Finding, format_findings
from blsp.hardware import find_nvidia_driver, find_training_memory, measure_bf16_speedup
from blsp.shipped import PACKAGE, find_shipped, list_recipes

_FORECAST = re.compile(r"takes ([\d.]+) GB, forecast")
"""What the header of a recipe says; a test computes it anew."""

NEEDED_FORMATS = ("WAV", "FLAC", "MP3", "OGG")


def main(argv: Sequence[str]) -> int:
    """Print the report; return 1 when the core is not in order."""
    parser = argparse.ArgumentParser(prog="blsp doctor", description="Look this machine over.")
    parser.add_argument("recipe", nargs="?", help="say too whether this recipe can be run here")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="model.llm=...")
    options = parser.parse_args(argv)
    print(f"blsp {__version__}, Python {platform.python_version()}, {platform.platform()}")
    core, extras = read_requirements()
    sections: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("packages", lambda: check_core(core)),
        ("extras", lambda: [check_extra(name, needs) for name, needs in extras.items()]),
        ("machine", check_machine),
        ("audio", check_audio),
        ("tiny world", check_tiny),
        (
            f"recipe {options.recipe}" if options.recipe else "recipes",
            lambda: check_recipes(core, options.recipe, options.overrides),
        ),
    ]
    bad = 0
    for title, check in sections:
        findings = check()
        if not findings:
            continue
        bad += sum(finding.state == "bad" for finding in findings)
        print(f"\n{title}\n{format_findings(findings)}", flush=True)
    print(f"\n{bad} to put right" if bad else "\nall right")
    return 1 if bad else 0


def read_requirements() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """Return the core requirements and those of each extra, from the installed metadata."""
    try:
        metadata = importlib.metadata.metadata("blsp")
    except importlib.metadata.PackageNotFoundError:
        return [], {}
    return split_requirements(
        metadata.get_all("Requires-Dist") or [], metadata.get_all("Provides-Extra") or []
    )


def split_requirements(
    lines: Iterable[str], extras: Iterable[str]
) -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """Sort the `Requires-Dist` lines of a package into core and extras."""
    requirements = [Requirement(line) for line in lines]

    def wanted(requirement: Requirement, extra: str) -> bool:
        return requirement.marker is None or requirement.marker.evaluate({"extra": extra})

    core = [requirement for requirement in requirements if wanted(requirement, "")]
    return core, {
        extra: [need for need in requirements if need not in core and wanted(need, extra)]
        for extra in extras
    }


def check_core(requirements: list[Requirement]) -> list[Finding]:
    """One finding a package that every command needs."""
    if not requirements:
        advice = "run `make` in a checkout, or pip install blsp"
        return [Finding(state="bad", name="blsp", found="not installed", advice=advice)]
    return [check_package(requirement) for requirement in requirements]


def check_package(requirement: Requirement) -> Finding:
    """Compare the installed version of one package with its range."""
    name, wanted = requirement.name, str(requirement.specifier)
    version = find_version(name)
    if version is None:
        advice = f"pip install '{name}{wanted}'"
        return Finding(state="bad", name=name, found="missing", advice=advice)
    if not requirement.specifier.contains(version, prereleases=True):
        advice = f"outside {wanted}: pip install '{name}{wanted}'"
        return Finding(state="bad", name=name, found=version, advice=advice)
    return Finding(state="ok", name=name, found=version, advice=wanted)


def check_extra(extra: str, requirements: list[Requirement]) -> Finding:
    """One finding an extra; a missing one is no fault, since each is optional."""
    lacking = [need.name for need in requirements if check_package(need).state == "bad"]
    if lacking:
        found = f"lacks {', '.join(lacking)}"
        return Finding(state="note", name=extra, found=found, advice=f"pip install 'blsp[{extra}]'")
    versions = (f"{need.name} {find_version(need.name)}" for need in requirements)
    return Finding(state="ok", name=extra, found=", ".join(versions))


def find_version(package: str) -> str | None:
    """Return the installed version of a package, without importing it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_machine() -> list[Finding]:
    """Driver, GPU, bfloat16 and disk."""
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    driver = find_nvidia_driver()
    return [
        Finding(state="note", name="NVIDIA driver", found=driver or "none"),
        *(_check_torch() if find_version("torch") else []),
        Finding(state="note", name="disk", found=f"{free:.0f} GB free in {Path.cwd()}"),
    ]


def _check_torch() -> list[Finding]:
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    findings = [Finding(state="note", name="torch build", found=build)]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(index)
            found = f"{gpu.name}, {gpu.total_memory / 1e9:.0f} GB"
            findings.append(Finding(state="note", name=f"GPU {index}", found=found))
        bf16 = "yes" if torch.cuda.is_bf16_supported() else "no"
        findings.append(Finding(state="note", name="bf16 on the GPU", found=bf16))
    speedup = measure_bf16_speedup()
    found = f"{speedup:.1f} times the speed of fp32 on {torch.get_num_threads()} threads"
    return [*findings, Finding(state="note", name="bf16 on the CPU", found=found)]


def check_audio() -> list[Finding]:
    """libsndfile, and whether it reads the formats we promise."""
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the wheel lacks a libsndfile for this system
        return [
            Finding(
                state="bad", name="libsndfile", found=str(error), advice="pip install soundfile"
            )
        ]
    formats = set(soundfile.available_formats())
    has = {name: name in formats for name in NEEDED_FORMATS}
    has["Opus"] = "OPUS" in soundfile.available_subtypes("OGG") if has["OGG"] else False
    found = f"{soundfile.__libsndfile_version__} reads {', '.join(n for n in has if has[n])}"
    lacking = [name for name in has if not has[name]]
    advice = f"cannot read {', '.join(lacking)}: install a newer soundfile" if lacking else ""
    return [
        Finding(state="bad" if lacking else "ok", name="libsndfile", found=found, advice=advice)
    ]


def check_tiny() -> list[Finding]:
    """eSpeak NG and the foundation models that the embedded world needs."""
    weights = sorted((PACKAGE / "tiny" / "weights").rglob("*.safetensors"))
    megabytes = sum(path.stat().st_size for path in weights) / 1e6
    found = f"{len(weights)} files, {megabytes:.1f} MB" if weights else "not in this version"
    return [
        _check_espeak(),
        Finding(state="ok" if weights else "note", name="weights", found=found),
    ]


def _check_espeak() -> Finding:
    try:
        import espeakng_loader
    except ImportError:
        return Finding(
            state="note",
            name="eSpeak NG",
            found="missing (only the tiny world speaks)",
            advice="pip install 'blsp[tiny]'",
        )
    data = Path(espeakng_loader.get_data_path())
    found = f"{'data in' if data.is_dir() else 'no data in'} {data}"
    return Finding(state="ok" if data.is_dir() else "note", name="eSpeak NG", found=found)


def check_recipes(
    core: list[Requirement], recipe: str | None, overrides: Sequence[str]
) -> list[Finding]:
    """Whether a recipe can be run here; without one, which of the shipped ones fit."""
    if any(find_version(requirement.name) is None for requirement in core):
        return []  # what looks at recipes imports them all, and they are called missing above
    if recipe is None:
        device, room = find_training_memory()
        if device == "RAM":
            found = "no GPU: quickstart and the tiny recipes run here, real ones would take days"
            return [Finding(state="note", name="real recipes", found=found)]
        return check_shipped(device, room)
    from blsp.readiness import check_recipe

    return check_recipe(recipe, overrides)


def check_shipped(device: str, room: int) -> list[Finding]:
    """Which shipped recipes fit into so many bytes, by the forecasts in their headers."""
    findings = []
    for name in list_recipes():
        text = (find_shipped("recipes") / f"{name}.yaml").read_text(encoding="utf-8")
        forecast = _FORECAST.search(" ".join(text.replace("#", " ").split()))
        if forecast is None:
            continue
        fits = float(forecast[1]) * 1e9 <= room
        found = f"{forecast[1]} GB forecast, {device} has {room / 1e9:.0f} GB"
        advice = "" if fits else "does not fit"
        # Nobody asked to run it: what does not fit is nothing to put right.
        findings.append(
            Finding(state="ok" if fits else "note", name=name, found=found, advice=advice)
        )
    return findings
