"""Several runs as one page: what differs in words first, then all scores and differences.

A comparison (`blsp.comparison`) enters; HTML leaves, which loads nothing and in which every text is
escaped.
"""

from collections.abc import Mapping
from html import escape
from typing import Any

from blsp.charts import Bar, draw_bars
from blsp.comparison import LEVEL, RESAMPLES, name_entrant
from blsp.page import build_card, build_page, build_table
from blsp.report import show_name, show_percent, show_value
from blsp.results import SPEECH, foreign_of, leads
from blsp.tasks import LOWER_IS_BETTER

Row = Mapping[str, Any]


def build_comparison_page(found: Mapping[str, Any]) -> str:
    """Return the page."""
    names = ", ".join(run["name"] for run in found["runs"])
    head = f'<h1>Runs side by side</h1><p class="dim">{escape(names)}</p>'
    sections = [head, _words(found), _scores(found), _bars(found), _differences(found)]
    return build_page("blsp report", [*sections, _origin(found)])


def _words(found: Mapping[str, Any]) -> str:
    apart = [one["words"] for one in found["differences"] if one["better"]]
    others = [one["words"] for one in found["differences"] if not one["better"]]
    notes = [f"<p class='dim'>{escape(note)}</p>" for note in found["notes"]]
    nothing = "<p>No two of them are told apart.</p>" if found["differences"] else ""
    return (
        "<h2>What differs</h2>"
        + (_list(apart) or nothing)
        + (f"<details><summary>Not told apart</summary>{_list(others)}</details>" if others else "")
        + "".join(notes)
    )


def _list(lines: list[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def _groups(found: Mapping[str, Any]) -> dict[tuple[str, str, str], dict[str, Row]]:
    """(condition, task, metric) -> column -> row."""
    groups: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in found["rows"]:
        key = (row["condition"], row["task"], row["metric"])
        groups.setdefault(key, {})[name_entrant(row["run"], row["system"])] = row
    return groups


def _scores(found: Mapping[str, Any]) -> str:
    groups = _groups(found)
    columns = list(dict.fromkeys(column for group in groups.values() for column in group))
    rows = [
        [show_name(key, held_out=False)]
        + [show_value(group.get(column)) for column in columns]
        + [str(next(iter(group.values()))["n"])]
        for key, group in groups.items()
    ]
    return (
        "<h2>Scores</h2>"
        + build_table(["task, metric", *columns, "n"], rows)
        + '<p class="dim">In percent, with 95 % intervals. Lower is better for '
        f"{', '.join(sorted(LOWER_IS_BETTER))}.</p>"
    )


def _bars(found: Mapping[str, Any]) -> str:
    metrics = {task["name"]: task["metrics"] for task in found["tasks"]}
    cards = []
    for (condition, task, metric), group in _groups(found).items():
        if not leads(metric, metrics[task]):
            continue
        title = f"{task}, {metric}, {condition}"
        bars = [
            Bar(
                label=_shorten(name),
                value=row["value"],
                low=row["ci_low"],
                high=row["ci_high"],
                style=_style(row["system"]),
            )
            for name, row in group.items()
        ]
        cards.append(build_card(title, draw_bars(bars, title=title)))
    return f'<div class="grid">{"".join(cards)}</div>'


def _shorten(name: str) -> str:
    """What fits beside a bar: names of runs begin alike as often as they end alike."""
    return name if len(name) <= 16 else f"{name[:6]}…{name[-9:]}"


def _style(system: str) -> str:
    if system == SPEECH:
        return "s-speech"
    return "s-foreign" if foreign_of([system]) else "s-bound"


def _differences(found: Mapping[str, Any]) -> str:
    rows = [
        [
            show_name((one["condition"], one["task"], one["metric"]), held_out=False),
            escape(f"{one['first']} - {one['second']}"),
            f"{100 * one['difference']:+.1f} <small>{show_percent(one['ci_low'])} to "
            f"{show_percent(one['ci_high'])}</small>",
            f"{one['p_value']:.4f}",
            f"{one['p_holm']:.4f}",
            escape(one["better"] or "not told apart"),
            str(one["n"]),
        ]
        for one in found["differences"]
    ]
    if not rows:
        return ""
    head = ["task, metric", "difference of", "points", "p", "p after Holm", "better", "n"]
    return (
        "<h2>Differences</h2>"
        + build_table(head, rows)
        + f'<p class="dim">Paired bootstrap of utterances, {RESAMPLES:,} resamples, on the '
        "metrics that stand for their task; p values are corrected for the number of rows "
        f"(Holm), and below {LEVEL} two are told apart.</p>"
    )


def _origin(found: Mapping[str, Any]) -> str:
    entries = "".join(
        f"<dt>{escape(run['name'])}</dt><dd>{escape(run['folder'])}: {escape(run['command'])}</dd>"
        for run in found["runs"]
    )
    return f"<h2>How they were made</h2><dl>{entries}</dl>"
