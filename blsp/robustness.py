"""Scores over what makes hearing harder: noise, and length beyond what training had.

Each is a picture a task and test set for the report: systems as curves, in the metric that stands
for the task. What `results.json` says enters; HTML leaves.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blsp.charts import Curve, draw_curves
from blsp.page import build_card
from blsp.results import CASCADE, MAIN, SANITY, SPEECH, TEXT_BOUND, foreign_of, leads
from blsp.slices import DURATION, find_bounds

STYLES = {SPEECH: "s-speech", TEXT_BOUND: "s-bound", CASCADE: "s-cascade"}
STYLES |= dict.fromkeys(SANITY, "s-sanity")
"""System -> its class in the page's style; those from elsewhere are `s-foreign`."""

Row = Mapping[str, Any]
Points = dict[str, list[tuple[float, float]]]
"""System -> where and how high its points are."""


def is_leading(results: Row, task: str, metric: str) -> bool:
    """Whether a metric stands for a task."""
    (metrics,) = [one["metrics"] for one in results["tasks"] if one["name"] == task]
    return leads(metric, metrics)


def shown_systems(results: Row) -> list[str]:
    """The systems a reader asks about: ours but the sanity systems, then those from elsewhere."""
    found = dict.fromkeys(row["system"] for row in results["rows"])
    return [*(name for name in MAIN if name in found), *sorted(foreign_of(found))]


def draw_noise(results: Row) -> str:
    """Scores while noise grows, a picture for each manifest and task."""
    levels = {one["condition"]: one["noise"]["snr_db"] for one in results["sets"] if "noise" in one}
    manifests = {one["condition"]: one.get("manifest", "") for one in results["sets"]}
    found: dict[tuple[str, str, str], Points] = {}
    for row in sorted(results["rows"], key=lambda row: levels.get(row["condition"], 0.0)):
        if row["condition"] in levels and is_leading(results, row["task"], row["metric"]):
            key = (manifests[row["condition"]], row["task"], row["metric"])
            curves = found.setdefault(key, {})
            point = (levels[row["condition"]], row["value"])
            curves.setdefault(row["system"], []).append(point)
    cards = []
    for (manifest, task, metric), points in found.items():
        title = f"{task}, {metric}, {Path(manifest).stem}"
        picture = draw_curves(_curves(points), title=f"{title}, over decibels", unit="dB")
        cards.append(build_card(title, picture))
    note = "From left to right the noise gets weaker, in decibels below the speech."
    return _section("Under noise", note, cards)


def draw_durations(results: Row, trained_max_seconds: float | None) -> str:
    """Scores over duration, a picture for each test set and task that was sliced by it.

    Args:
        results: with slices.
        trained_max_seconds: where a line marks the longest recording of training.
    """
    shown = shown_systems(results)
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in results.get("slices", []):
        wanted = row["by"] == DURATION and is_leading(results, row["task"], row["metric"])
        if wanted and row["system"] in shown:
            key = (row["condition"], row["task"], row["metric"])
            found.setdefault(key, []).append(row)
    cards = []
    for (condition, task, metric), rows in found.items():
        title = f"{task}, {metric}, {condition}"
        cards.append(build_card(title, _draw_slices(rows, title, trained_max_seconds)))
    note = (
        "Each point is a slice, between the seconds on its left and on its right; slices are "
        "drawn equally wide, and hold as many utterances as the table of slices says."
    )
    if trained_max_seconds is not None:
        note += f" The broken line is the longest recording of training, {trained_max_seconds:g} s."
    return _section("Over duration", note, cards)


def _draw_slices(rows: Sequence[Row], title: str, mark: float | None) -> str:
    spans = {row["slice"]: bounds for row in rows if (bounds := find_bounds(row["slice"]))}
    at = set() if mark is None else {float(f"{mark:g}")}  # as the slices' names have it
    edges = sorted(at.union(*spans.values()))
    place = {edge: float(at) for at, edge in enumerate(edges)}
    points: Points = {}
    for row in sorted(rows, key=lambda row: spans[row["slice"]]):
        start, end = (place[each] for each in spans[row["slice"]])
        points.setdefault(row["system"], []).append(((start + end) / 2, row["value"]))
    ticks = [(at, f"{edge:g}".replace("inf", "")) for edge, at in place.items()]
    return draw_curves(
        _curves(points),
        title=f"{title}, over seconds",
        ticks=ticks,
        mark=place[at.pop()] if at else None,
    )


def _curves(points: Points) -> list[Curve]:
    return [
        Curve(
            label=name,
            points=some,
            style=STYLES.get(name, "s-foreign"),
            broken=name in SANITY,
        )
        for name, some in points.items()
    ]


def _section(title: str, note: str, cards: Sequence[str]) -> str:
    if not cards:
        return ""
    grid = f'<div class="grid">{"".join(cards)}</div>'
    return f'<h2>{title}</h2><p class="dim">{note}</p>{grid}'
