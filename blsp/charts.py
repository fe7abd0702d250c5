"""Charts as inline SVG: bars of scores and counts, curves, points, and a map of similarities.

No script and no library: a chart is text in the page, takes its colours from the page's style (so
that it follows dark and light) and scales with the width it is given. Numbers and labels enter;
labels are escaped here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 320
_ROW, _LABEL = 22, 104
_LEFT, _TOP, _HEIGHT = 44, 10, 150
_SPREAD = (0.7548776662, 0.5698402910)  # their multiples fill a square evenly


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One value with its interval; ``style`` is a class of the page's style sheet."""

    label: str
    value: float
    low: float
    high: float
    style: str


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Values over steps; a broken line is a yardstick."""

    label: str
    points: Sequence[tuple[float, float]]
    style: str
    broken: bool = False


def draw_bars(bars: Sequence[Bar], *, title: str) -> str:
    """Horizontal bars, scaled to 1 or to the largest value above it; values in percent."""
    top = max([1.0, *(bar.value for bar in bars)])
    scale = (WIDTH - _LABEL - 56) / top
    rows = "".join(_draw_bar(bar, 4 + index * _ROW, scale) for index, bar in enumerate(bars))
    return _svg(rows, height=len(bars) * _ROW + 6, title=title)


def _draw_bar(bar: Bar, y: float, scale: float) -> str:
    width = bar.value * scale
    low, high = (_LABEL + min(x * scale, WIDTH - _LABEL - 4) for x in (bar.low, bar.high))
    middle = y + _ROW / 2 - 2
    return (
        f'<text x="{_LABEL - 6}" y="{middle + 4}" text-anchor="end">{escape(bar.label)}</text>'
        f'<rect class="{escape(bar.style)}" x="{_LABEL}" y="{y + 2}" width="{width:.1f}" '
        f'height="{_ROW - 8}" rx="2"/>'
        f'<path class="whisker" d="M{low:.1f} {middle - 4}v8M{low:.1f} {middle}H{high:.1f}'
        f'M{high:.1f} {middle - 4}v8"/>'
        f'<text x="{WIDTH}" y="{middle + 4}" text-anchor="end">{bar.value:.1%}</text>'
    )


def draw_counts(counts: Sequence[tuple[str, int]], *, title: str) -> str:
    """Horizontal bars of how many there are of each, scaled to the most frequent."""
    scale = (WIDTH - _LABEL - 72) / max([1, *(count for _, count in counts)])
    rows = "".join(
        f'<text x="{_LABEL - 6}" y="{14 + at * _ROW}" text-anchor="end">{escape(label)}</text>'
        f'<rect class="s-bound" x="{_LABEL}" y="{4 + at * _ROW}" width="{count * scale:.1f}" '
        f'height="{_ROW - 8}" rx="2"/>'
        f'<text x="{WIDTH}" y="{14 + at * _ROW}" text-anchor="end">{count:,}</text>'
        for at, (label, count) in enumerate(counts)
    )
    return _svg(rows, height=len(counts) * _ROW + 6, title=title)


def draw_curves(
    curves: Sequence[Curve],
    *,
    title: str,
    unit: str = "step",
    ticks: Sequence[tuple[float, str]] = (),
    mark: float | None = None,
) -> str:
    """Curves over steps, or what else ``unit`` names, in one pair of axes, with a legend.

    Points that are no number are left out: a log that grew while it went wrong must still be
    readable, so the axis follows finite values.

    Args:
        curves: what is drawn.
        title: said to those who do not see it.
        unit: of the axis, named at its right end.
        ticks: places on the axis and what stands below them, in place of its two ends.
        mark: where a broken line goes up.
    """
    kept = [(curve, [p for p in curve.points if math.isfinite(p[1])]) for curve in curves]
    kept = [(curve, points) for curve, points in kept if points]
    if not kept:
        return ""
    xs = [*(x for _, points in kept for x, _ in points), *(x for x, _ in ticks)]
    ys = [y for _, points in kept for _, y in points]
    axes = _Axes(min(xs), max(xs), min(0.0, *ys), max(ys))
    lines = "".join(_draw_curve(curve, points, axes) for curve, points in kept)
    legend = "".join(
        f'<text class="{escape(curve.style)} legend" x="{_LEFT}" '
        f'y="{_TOP + _HEIGHT + 32 + 15 * i}">'
        f"{'┄' if curve.broken else '━'} {escape(curve.label)} "
        f"({points[-1][1]:.4g})</text>"
        for i, (curve, points) in enumerate(kept)
    )
    height = _TOP + _HEIGHT + 34 + 15 * len(kept)
    ends = [(axes.left, f"{axes.left:.4g}"), (axes.right, f"{unit} {axes.right:.6g}")]
    if axes.left == axes.right:
        ends = ends[1:]
    frame = _draw_axes(axes, ticks or ends) + _draw_mark(axes, mark)
    return _svg(frame + lines + legend, height=height, title=title)


@dataclass(frozen=True)
class _Axes:
    left: float
    right: float
    bottom: float
    top: float

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies in the picture."""
        across = (x - self.left) / ((self.right - self.left) or 1)
        up = (y - self.bottom) / ((self.top - self.bottom) or 1)
        return _LEFT + across * (WIDTH - _LEFT - 6), _TOP + _HEIGHT - up * _HEIGHT


def _draw_axes(axes: _Axes, ticks: Sequence[tuple[float, str]]) -> str:
    bottom = _TOP + _HEIGHT
    return (
        f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{WIDTH - 6}"/>'
        f'<text x="{_LEFT - 4}" y="{_TOP + 8}" text-anchor="end">{axes.top:.3g}</text>'
        f'<text x="{_LEFT - 4}" y="{bottom}" text-anchor="end">{axes.bottom:.3g}</text>'
        + "".join(_draw_tick(axes, x, label) for x, label in ticks)
    )


def _draw_tick(axes: _Axes, x: float, label: str) -> str:
    """What stands below a place; at the ends of the axis it stays inside."""
    across, bottom = axes.place(x, axes.bottom)
    anchor = "start" if x == axes.left else "end" if x == axes.right else "middle"
    return (
        f'<text x="{across:.6g}" y="{bottom + 14:.6g}" text-anchor="{anchor}">'
        f"{escape(label)}</text>"
    )


def _draw_mark(axes: _Axes, x: float | None) -> str:
    if x is None:
        return ""
    across, _ = axes.place(x, axes.bottom)
    return (
        f'<path class="axis mark" d="M{across:.1f} {_TOP}V{_TOP + _HEIGHT}" '
        'stroke-dasharray="2 3"/>'
    )


def _draw_curve(curve: Curve, points: Sequence[tuple[float, float]], axes: _Axes) -> str:
    places = [axes.place(x, y) for x, y in points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    broken = ' stroke-dasharray="5 4"' if curve.broken else ""
    x, y = places[-1]
    return (
        f'<path class="curve {escape(curve.style)}" d="{path}"{broken}/>'
        f'<circle class="{escape(curve.style)}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>'
    )


def draw_scatter(
    points: Sequence[tuple[float, float]], line: Sequence[tuple[float, float]], *, title: str
) -> str:
    """Points between 0 and 1 on both axes, and a line through some means.

    Equal points are drawn a little apart, by their order alone, so that their number is seen.
    """
    axes = _Axes(0.0, 1.0, 0.0, 1.0)
    marks = []
    for index, point in enumerate(points):
        x, y = axes.place(*point)
        right, up = ((index * share % 1 - 0.5) * 10 for share in _SPREAD)
        marks.append(f'<circle class="point" cx="{x + right:.1f}" cy="{y + up:.1f}" r="2.5"/>')
    means = _draw_curve(Curve(label="mean", points=line, style="s-bound"), line, axes)
    height = _TOP + _HEIGHT + 24
    frame = _draw_axes(axes, [(0.0, "0"), (1.0, "word error rate 1")])
    return _svg(frame + "".join(marks) + means, height=height, title=title)


def draw_map(values: Sequence[Sequence[float]], tokens: Sequence[str], *, title: str) -> str:
    """Cosines of S speech positions (down) with T tokens (across); the darker the closer."""
    if not values or not values[0]:
        return ""
    side = max(4.0, min(22.0, 640 / len(tokens), 640 / len(values)))
    flat = [value for row in values for value in row if math.isfinite(value)]
    low, span = min(flat, default=0.0), (max(flat, default=0.0) - min(flat, default=0.0)) or 1.0
    cells = "".join(
        f'<rect class="cell" x="{30 + x * side:.1f}" y="{y * side:.1f}" width="{side:.1f}" '
        f'height="{side:.1f}" fill-opacity="{(value - low) / span:.2f}"/>'
        for y, row in enumerate(values)
        for x, value in enumerate(row)
        if math.isfinite(value)
    )
    bottom = len(values) * side + 6
    words = "".join(
        f'<text transform="translate({30 + (x + 0.6) * side:.1f} {bottom:.1f}) rotate(60)">'
        f"{escape(token)}</text>"
        for x, token in enumerate(tokens)
    )
    axis = f'<text transform="translate(16 {bottom - 6:.1f}) rotate(-90)">speech, in time →</text>'
    longest = max(len(token) for token in tokens)
    width = max(30 + len(tokens) * side + 3 * longest + 12, 120)
    return _svg(cells + words + axis, height=bottom + 7 * longest + 16, title=title, width=width)


def _svg(content: str, *, height: float, title: str, width: float = WIDTH) -> str:
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:{2 * width:.0f}px" '
        f'role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>{content}</svg>'
    )


def series_of(log: Sequence[Mapping[str, object]], key: str) -> list[tuple[float, float]]:
    """Return (step, value) of every line of a training log that has a number under a key."""
    found = []
    for line in log:
        step, value = line.get("step"), line.get(key)
        if isinstance(step, int | float) and isinstance(value, int | float):
            found.append((float(step), float(value)))
    return found
