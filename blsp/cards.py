"""Scores for other pages: a Markdown table, and the `model-index` of a model card.

Both are written beside `report.html`, so that a README or a card on the Hugging Face hub shows the
numbers that were measured. Values are in percent, as most cards have them. `results.json` or
`comparison.json` enters; `table.md` and `model-index.yaml` leave.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index

from blsp.comparison import name_entrant
from blsp.files import atomic_path
from blsp.results import MAIN, SPEECH, foreign_of

TABLE, INDEX = "table.md", "model-index.yaml"

Row = Mapping[str, Any]


def write_cards(folder: Path, found: Mapping[str, Any]) -> None:
    """Write both files.

    Args:
        folder: where to.
        found: the content of ``results.json`` or of ``comparison.json``.
    """
    for name, text in ((TABLE, build_markdown(found)), (INDEX, build_model_index(found))):
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def build_markdown(found: Mapping[str, Any]) -> str:
    """Return a table: a line a task, condition and metric, a column a system."""
    rows = [row for row in found["rows"] if row["system"] in MAIN or foreign_of([row["system"]])]
    columns = list(dict.fromkeys(_column(row) for row in rows))
    cells = {(*_key(row), _column(row)): row for row in rows}
    lines = [["task", "condition", "metric", *columns, "n"]]
    lines.append(["---"] * 3 + ["---:"] * (len(columns) + 1))
    for key in dict.fromkeys(_key(row) for row in rows):
        some = [cells.get((*key, column)) for column in columns]
        lines.append([*key, *map(_show, some), str(max(row["n"] for row in some if row))])
    table = "".join(f"| {' | '.join(map(_escape, line))} |\n" for line in lines)
    notes = [one["words"] for one in found.get("differences", [])] + list(found.get("notes", []))
    listed = "".join(f"- {_escape(note)}\n" for note in notes)
    return f"{table}\nIn percent, with 95 % intervals.\n" + (f"\n{listed}" if listed else "")


def build_model_index(found: Mapping[str, Any]) -> str:
    """Return YAML for the head of a model card: the speech model and systems from elsewhere."""
    models: dict[str, list[Row]] = {}
    for row in found["rows"]:
        if row["system"] == SPEECH or foreign_of([row["system"]]):
            models.setdefault(_model_name(found, row), []).append(row)
    metrics = {task["name"]: task["metrics"] for task in found["tasks"]}
    index = [
        one
        for name, rows in models.items()
        for one in eval_results_to_model_index(
            name, [_result(row, metrics[row["task"]]) for row in rows]
        )
    ]
    return yaml.safe_dump({"model-index": index}, sort_keys=False, allow_unicode=True)


def _result(row: Row, metrics: Sequence[str]) -> EvalResult:
    low, high = (round(100 * row[key], 2) for key in ("ci_low", "ci_high"))
    return EvalResult(
        task_type=find_task_type(metrics),
        task_name=row["task"],
        dataset_type=row["condition"],
        dataset_name=row["condition"],
        metric_type=row["metric"],
        metric_value=round(100 * row["value"], 2),
        metric_name=f"{row['metric']} in percent ({low:g} to {high:g}, n = {row['n']})",
    )


def find_task_type(metrics: Sequence[str]) -> str:
    """What the hub calls such a task."""
    if {"wer", "cer"} & set(metrics):
        return "automatic-speech-recognition"
    if "bleu" in metrics:
        return "translation"
    return "audio-classification" if "accuracy" in metrics else "audio-text-to-text"


def _model_name(found: Mapping[str, Any], row: Row) -> str:
    """Of several runs the entrant; of one the checkpoint's folder, or the system from elsewhere."""
    if "run" in row or row["system"] != SPEECH:
        return _column(row)
    return Path(found.get("models", {}).get("checkpoint", SPEECH)).name or SPEECH


def _column(row: Row) -> str:
    return name_entrant(row["run"], row["system"]) if "run" in row else row["system"]


def _key(row: Row) -> tuple[str, str, str]:
    return row["task"], row["condition"], row["metric"]


def _show(row: Row | None) -> str:
    if row is None:
        return ""
    value, low, high = (100 * row[key] for key in ("value", "ci_low", "ci_high"))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
