"""A run folder as one page: `report.html`, for dark and light, wide and narrow screens.

It shows what `results.json` says (systems side by side with intervals, the gap to the text bound
and to the cascade, sanity checks), how training went where a `log.jsonl` lies beside it, the
similarity of speech and text in one sentence (`similarity.json`: `text, tokens, values`), the worst
answers, and what produced it all. Nothing is loaded from anywhere; every text is escaped.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from blsp.audio import encode_audio, load_audio
from blsp.charts import Bar, Curve, draw_bars, draw_curves, draw_map, draw_scatter, series_of
from blsp.errors import InputError
from blsp.failures import average_losses, describe_losses, find_losses, find_worst
from blsp.files import atomic_path
from blsp.manifest import find_root, read_manifest
from blsp.page import build_card, build_page, build_table, build_tile
from blsp.prediction_log import PredictionLog
from blsp.results import (
    CASCADE,
    EMPTY,
    RANDOM,
    RESULTS,
    SANITY,
    SIMILARITY,
    SPEECH,
    WHISPER,
    asked,
    read_run,
)
from blsp.robustness import STYLES, draw_durations, draw_noise, is_leading, shown_systems
from blsp.slices import read_slices
from blsp.tasks import LOWER_IS_BETTER

REPORT, LOG = "report.html", "log.jsonl"

Row = Mapping[str, Any]


def write_report(
    folder: str | Path, *, training: Path | None = None, with_audio: bool = False
) -> Path:
    """Write ``report.html`` into a run folder and return its path.

    Args:
        folder: with ``results.json`` and ``predictions/``.
        training: folder whose ``log.jsonl`` is shown; by default the run's own.
        with_audio: whether the page holds the recordings of the worst answers, which makes it
            large, and as private as they are.

    Raises:
        InputError: no results there, or a file beside them that cannot be read.
    """
    folder = Path(folder)
    with atomic_path(folder / REPORT) as temporary:
        page = build_report(folder, training or folder, with_audio=with_audio)
        temporary.write_text(page, encoding="utf-8")
    return folder / REPORT


def build_report(folder: Path, training: Path, *, with_audio: bool = False) -> str:
    """Return the page."""
    results = read_run(folder, RESULTS)
    sections = [
        _headline(results),
        _scores(results),
        _sanity(results),
        _bars(results),
        draw_noise(results),
        draw_durations(results, read_slices(folder).trained_max_seconds),
        _slices(results),
        _losses(results, folder),
        _training(_load_lines(training / LOG)),
        _similarity(folder / SIMILARITY),
        _worst(results, folder, with_audio=with_audio),
        _origin(results),
    ]
    return build_page("blsp report", sections)


def _load(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: expected a JSON object, found none that can be read ({error}); name a folder "
            "that `blsp eval` wrote"
        ) from error


def _load_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            lines.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{path}:{number}: expected a JSON object a line, found {line[:40]!r}; delete it"
            ) from error
    return lines


# --- numbers --------------------------------------------------------------------------------------


def _groups(results: Row) -> dict[tuple[str, str, str], dict[str, Row]]:
    """(condition, task, metric) -> system -> row, as they were asked."""
    found: dict[tuple[str, str, str], dict[str, Row]] = {}
    conditions = [one["condition"] for one in results["sets"]]
    for row in sorted(results["rows"], key=lambda row: conditions.index(row["condition"])):
        key = (row["condition"], row["task"], row["metric"])
        found.setdefault(key, {})[row["system"]] = row
    return found


def _headline(results: Row) -> str:
    held_out = {task["name"] for task in results["tasks"] if task["held_out"]}
    ratios = [
        one
        for one in results["comparisons"]
        if one["second"] == CASCADE
        and is_leading(results, one["task"], one["metric"])
        and one["ratio"] is not None
    ]
    kinds = {
        "tasks trained for": [one for one in ratios if one["task"] not in held_out],
        "held-out tasks": [one for one in ratios if one["task"] in held_out],
    }
    tiles = [_ratio_tile(name, found) for name, found in kinds.items() if found]
    tiles += [
        build_tile(
            escape(f"speech WER, {row['condition']}"),
            f"{show_percent(row['value'])} %",
            _interval(row),
        )
        for row in results["rows"]
        if row["metric"] == "wer" and row["system"] == SPEECH
    ]
    failed = sum(not check["passed"] for check in results["checks"])
    if results["checks"]:
        mark = "bad" if failed else "good"
        total = len(results["checks"])
        text = f'<span class="{mark}">{total - failed} of {total}</span>'
        tiles.append(build_tile("sanity checks passed", text, "shuffled audio beats nothing"))
    unfinished = "" if results.get("finished", True) else '<p class="bad">Unfinished run.</p>'
    return (
        "<h1>Speech beside text</h1>"
        '<p class="dim">The same language model, prompts and decoding: it hears (speech), reads '
        "the true transcript (text bound), or reads Whisper's (cascade).</p>"
        f'{unfinished}<div class="tiles">{"".join(tiles)}</div>'
    )


def _ratio_tile(name: str, found: Sequence[Row]) -> str:
    worst = min(found, key=lambda one: one["ratio"])
    note = f"lowest: {worst['task']}, {worst['condition']}, {show_percent(worst['ratio'])}"
    # Where the cascade is at chance a ratio is huge, and would be most of a mean.
    share = f"{show_percent(median(one['ratio'] for one in found))} %"
    return build_tile(f"of the cascade, {name} (median)", share, escape(note))


def _scores(results: Row) -> str:
    names = shown_systems(results)
    compared = {
        (one["condition"], one["task"], one["metric"], one["first"], one["second"]): one
        for one in results["comparisons"]
    }
    pairs = list(dict.fromkeys(key[3:] for key in compared))
    rows = []
    for key, systems in _groups(results).items():
        cells = [show_value(systems.get(name)) for name in names]
        if WHISPER in systems and CASCADE in names:
            cells[names.index(CASCADE)] = show_value(systems[WHISPER])
        gaps = [_gap(compared.get((*key, *pair))) for pair in pairs]
        some = next(iter(systems.values()))
        rows.append([show_name(key, held_out=some["held_out"]), *cells, *gaps, str(some["n"])])
    head = ["task, metric", *names, *(" - ".join(pair) for pair in pairs), "n"]
    asked = sorted({row["metric"] for row in results["rows"]} & LOWER_IS_BETTER)
    lower = f"Lower is better for {', '.join(asked)}. " if asked else ""
    return (
        "<h2>Scores</h2>"
        + build_table(head, rows)
        + '<p class="dim">In percent, with 95 % intervals; '
        f"differences in points, paired on the same utterances, with p. {lower}The row "
        "<i>transcript</i> is what Whisper itself hears.</p>" + _counts(results)
    )


def _sanity(results: Row) -> str:
    verdicts = {
        (one["condition"], one["task"], one["metric"]): one["verdict"] for one in results["checks"]
    }
    rows = []
    for key, systems in _groups(results).items():
        if not is_leading(results, *key[1:]) or not any(name in systems for name in SANITY):
            continue
        verdict = verdicts.get(key, "")
        mark = "bad" if verdict == "better" else "good" if verdict == "inside" else "dim"
        cells = [show_value(systems.get(name)) for name in SANITY]
        held_out = next(iter(systems.values()))["held_out"]
        name = show_name(key, held_out=held_out)
        rows.append([name, *cells, f'<span class="{mark}">{escape(verdict)}</span>'])
    if not rows:
        return ""
    head = ["task, metric", *SANITY, "shuffled audio is"]
    return (
        "<h2>Sanity</h2>"
        + build_table(head, rows)
        + '<p class="dim">Shuffled audio is the recording '
        "of another utterance and must score inside the interval of that utterance's transcript "
        "(shuffled_text). <i>better</i> means that answers come from elsewhere than the sound; "
        "<i>worse</i>, that less is heard than is written.</p>"
    )


def _slices(results: Row) -> str:
    """A table for every field, folded: there may be many."""
    names, tables = shown_systems(results), []
    for field in dict.fromkeys(row["by"] for row in results.get("slices", [])):
        found: dict[tuple[str, ...], dict[str, Row]] = {}
        for row in results["slices"]:
            if row["by"] == field:
                key = (row["condition"], row["task"], row["metric"], row["slice"])
                found.setdefault(key, {})[row["system"]] = row
        rows = [
            [show_name(key[:3], held_out=False), escape(key[3])]
            + [show_value(systems.get(name)) for name in names]
            + [str(next(iter(systems.values()))["n"])]
            for key, systems in found.items()
            if set(names) & systems.keys()
        ]
        table = build_table(["task, metric", field, *names, "n"], rows)
        tables.append(f"<details><summary>By {escape(field)}</summary>{table}</details>")
    return f"<h2>Slices</h2>{''.join(tables)}" if tables else ""


def _counts(results: Row) -> str:
    names = ("missing", "truncated", "empty", "invalid", "without_words", "unparsed")
    names += ("without_reference",)
    rows = [
        [escape(f"{one['system']}, {one['task']}, {one['condition']}")]
        + [str(one["n"])]
        + [str(one.get(name, "")) for name in names]
        for one in results["counts"]
        if one["system"] not in (EMPTY, RANDOM) and any(one.get(name) for name in names)
    ]
    if not rows:
        return ""
    table = build_table(["system, task, condition", "n", *names], rows)
    return f"<details><summary>Answers cut, empty or invalid</summary>{table}</details>"


def show_name(key: Sequence[str], *, held_out: bool) -> str:
    """Condition, task and metric as the first cell of a row."""
    condition, task, metric = map(escape, key)
    tag = ' <span class="tag">held out</span>' if held_out else ""
    return f"<b>{task}</b> {metric} <small>{condition}</small>{tag}"


def show_value(row: Row | None) -> str:
    """A value with its interval; nothing where there is none."""
    return "" if row is None else f"{show_percent(row['value'])} <small>{_interval(row)}</small>"


def _gap(found: Row | None) -> str:
    if found is None:
        return ""
    ratio = "" if found["ratio"] is None else f", {found['ratio']:.1%}"
    text = f"p {found['p_value']:.3f}{ratio}"
    return f"{100 * found['difference']:+.1f} <small>{text}</small>"


def show_percent(value: float) -> str:
    """A fraction in percent."""
    return f"{100 * value:.1f}"


def _interval(row: Row) -> str:
    return f"{show_percent(row['ci_low'])} to {show_percent(row['ci_high'])}"


# --- pictures -------------------------------------------------------------------------------------


def _bars(results: Row) -> str:
    cards = []
    for (condition, task, metric), systems in _groups(results).items():
        if not is_leading(results, task, metric) or WHISPER in systems:
            continue
        bars = [
            Bar(
                label=name,
                value=row["value"],
                low=row["ci_low"],
                high=row["ci_high"],
                style=STYLES.get(name, "s-foreign"),
            )
            for name, row in systems.items()
        ]
        title = f"{task}, {metric}, {condition}"
        cards.append(build_card(title, draw_bars(bars, title=title)))
    return f'<h2>Systems side by side</h2><div class="grid">{"".join(cards)}</div>'


def _training(log: Sequence[Mapping[str, Any]]) -> str:
    """Curves of a training log: the loss, and each meter beside its floor and its ceiling."""
    lines = [_plain_names(line) for line in log]
    names = {
        "loss": [("loss", "loss", "s-speech"), ("eval_loss", "on unseen data", "s-bound")],
        "recovered": [("recovered", "recovered", "s-speech")],
    }
    for meter in ("kl", "agreement"):
        names[meter] = [
            (meter, "speech", "s-speech"),
            (f"{meter}_floor", "floor: another recording", "s-sanity"),
            (f"{meter}_ceiling", "ceiling: the transcript", "s-bound"),
        ]
    cards = [build_card(title, _curves(lines, wanted, title)) for title, wanted in names.items()]
    if not any(cards):
        return ""
    return f'<h2>Training</h2><div class="grid">{"".join(cards)}</div>'


def _plain_names(line: Mapping[str, Any]) -> dict[str, Any]:
    """Meters without the prefix under which an evaluation logs them."""
    found = {}
    for key, value in line.items():
        plain = key.removeprefix("eval_").removeprefix("eval/")
        found["eval_loss" if plain == "loss" and plain != key else plain] = value
    return found


def _curves(
    lines: Sequence[Mapping[str, Any]], wanted: Sequence[tuple[str, str, str]], title: str
) -> str:
    curves = [
        Curve(
            label=label,
            points=series_of(lines, key),
            style=style,
            broken=key.endswith(("_floor", "_ceiling")),
        )
        for key, label, style in wanted
    ]
    return draw_curves(curves, title=f"{title} over training steps")


def _similarity(path: Path) -> str:
    if not path.is_file():
        return ""
    found = _load(path)
    picture = draw_map(found["values"], found["tokens"], title=f"similarity: {found['text']}")
    return (
        "<h2>What it hears, beside what it would read</h2>"
        f'<p class="dim">“{escape(found["text"])}”: cosine of every speech embedding with every '
        "token of the transcript. In a model that hears, the dark cells run along a diagonal.</p>"
        f'<div class="card">{picture}</div>'
    )


# --- examples and origin --------------------------------------------------------------------------


def _worst(results: Row, folder: Path, *, with_audio: bool) -> str:
    log = PredictionLog(folder)
    blocks = []
    for task, condition in asked(results):
        examples = find_worst(log, task, condition, folder)
        ids = [example["id"] for example in examples]
        sounds = _load_sounds(results, condition, ids) if with_audio else {}
        if examples:
            title = escape(f"{task.name}, {condition}")
            shown = "".join(_example(one, sounds.get(one["id"], "")) for one in examples)
            blocks.append(f"<details><summary>{title}</summary>{shown}</details>")
    if not blocks:
        return ""
    return (
        "<h2>Worst answers</h2>"
        '<p class="dim">Where the model that hears scores furthest below the one that reads.</p>'
        + "".join(blocks)
    )


def _load_sounds(results: Row, condition: str, ids: Sequence[str]) -> dict[str, str]:
    """Id -> a player with the recording in it."""
    if not ids:
        return {}
    (manifest,) = [Path(s["manifest"]) for s in results["sets"] if s["condition"] == condition]
    root, sounds = find_root(manifest), {}
    for one in read_manifest(manifest):
        if one.id in ids:
            audio = load_audio(one.audio, start=one.start, duration=one.duration, root=root)
            sound = base64.b64encode(encode_audio(audio, container="FLAC")).decode()
            player = f'<audio controls src="data:audio/flac;base64,{sound}"></audio>'
            sounds[one.id] = f"<dt>recording</dt><dd>{player}</dd>"
    return sounds


def _losses(results: Row, folder: Path) -> str:
    """Errors of Whisper across, what speech loses up: a picture a task and condition."""
    log, cards = PredictionLog(folder), []
    for task, condition in asked(results):
        losses = find_losses(log, results, task, condition, folder)
        if losses:
            title = f"{task.name}, {task.metrics[0]}, {condition}"
            points = [(min(one.error_rate, 1.0), one.loss) for one in losses]
            picture = draw_scatter(points, average_losses(losses), title=title)
            said = f'<p class="dim">{escape(describe_losses(losses))}</p>'
            cards.append(build_card(title, picture + said))
    if not cards:
        return ""
    return (
        "<h2>Does speech fail where recognition fails?</h2>"
        '<p class="dim">A point is an utterance: across, the share of its words that Whisper\'s '
        "transcript has wrong (more than all counts as all); up, what speech loses of the score "
        "(0: right, 1: wrong). The line is the mean of utterances with about the same error rate. "
        "If it rises, speech fails where words are hard to hear; if it lies high on the left, the "
        f'cause is another.</p><div class="grid">{"".join(cards)}</div>'
    )


def _example(example: Mapping[str, str], sound: str) -> str:
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(text) or '<i>nothing</i>'}</dd>"
        for name, text in example.items()
    )
    return f"<dl>{rows}{sound}</dl>"


def _origin(results: Row) -> str:
    prompts = "".join(
        f"<dt>{escape(task['name'])}</dt><dd>{escape(' | '.join(task['prompts']))}</dd>"
        for task in results["tasks"]
        if task["name"] != "transcript"
    )
    keys = ("versions", "hardware", "seconds", "peak_memory_mb", "seed", "models", "sets")
    keys += ("scorers",)
    facts = {key: results[key] for key in keys if key in results}
    return (
        "<h2>How it was made</h2>"
        f"<pre>{escape(str(results.get('command', '')))}</pre>"
        f"<details><summary>Prompts</summary><dl>{prompts}</dl></details>"
        "<details><summary>Versions, models, decoding, data</summary>"
        f"<pre>{escape(json.dumps(facts, indent=1, ensure_ascii=False))}</pre></details>"
    )
