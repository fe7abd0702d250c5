"""The statistics of a file as one HTML page: histograms, labels, and what made the file.

A `Statistics` enters, the text of a page leaves.
"""

from array import array
from html import escape
from pathlib import Path

from blsp.charts import draw_counts
from blsp.manifest import read_meta
from blsp.page import build_card, build_page, build_table, build_tile
from blsp.statistics import (
    LABELS,
    Statistics,
    build_histogram,
    compute_spread,
    describe_file,
    describe_spread,
    describe_variety,
    most_common,
)


def build_statistics_page(path: Path, found: Statistics) -> str:
    """Return the page of a file."""
    sections = [_headline(path, found), _histograms(found), _labels(found), _origin(path)]
    return build_page(f"blsp data stats {path.name}", sections)


def _headline(path: Path, found: Statistics) -> str:
    tiles = [
        build_tile("lines", f"{found.rows:,}", found.kind),
        build_tile("recordings", f"{found.recordings:,}", f"{found.without_words:,} without words"),
        build_tile("hours", f"{found.hours:,.2f}", "of audio"),
    ]
    for label in ("language", "speaker"):
        if label in found.labels:
            some = ", ".join(value for value, _ in most_common(found, label)[:3])
            tiles.append(build_tile(f"{label}s", f"{len(found.labels[label]):,}", escape(some)))
    return (
        f'<h1>{escape(path.name)}</h1><p class="dim">{escape(describe_file(found))}</p>'
        f'<div class="tiles">{"".join(tiles)}</div>'
    )


def _histograms(found: Statistics) -> str:
    cards = [_histogram(what, values) for what, values in found.values.items()]
    return f'<h2>Lengths and rates</h2><div class="grid">{"".join(cards)}</div>' if cards else ""


def _histogram(what: str, values: "array[float]") -> str:
    bars = [(one.label, one.size) for one in build_histogram(values)]
    note = f'<p class="dim">{describe_spread(compute_spread(values))}</p>'
    return build_card(what, draw_counts(bars, title=what) + note)


def _labels(found: Statistics) -> str:
    cards = [_label(found, label) for label in LABELS if label in found.labels]
    return f'<h2>Labels</h2><div class="grid">{"".join(cards)}</div>' if cards else ""


def _label(found: Statistics, label: str) -> str:
    rows = [
        [escape(value), f"{share.count:,}", f"{share.seconds / 3600:,.2f}"]
        for value, share in most_common(found, label)
    ]
    return build_card(
        f"{label}: {describe_variety(found, label)}", build_table([label, "count", "hours"], rows)
    )


def _origin(path: Path) -> str:
    meta = read_meta(path)
    if meta is None:
        return ""
    counts = "".join(
        f"<dt>{escape(what)}</dt><dd>{count:,}</dd>" for what, count in meta.counts.items()
    )
    return f"<h2>How it was made</h2><pre>{escape(meta.command)}</pre>" + (
        f"<dl>{counts}</dl>" if counts else ""
    )
