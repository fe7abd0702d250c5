"""Make `learning-curves.png` of ``when-it-does-not-learn.md``: three runs on the tiny world.

    blsp quickstart --out runs/curves
    python docs/guides/learning_curves.py runs/curves

One run is the quickstart's, shortened, with AdamW and without optimal transport, as most recipes
train; one has a learning rate two hundred times too small; one has audio and words that do not
belong together. Needs some ten minutes on two CPU cores.
"""

import json
import subprocess
import sys
from pathlib import Path

from matplotlib.figure import Figure

SHORT = ("training.steps=450", "loss.pretraining_steps=320", "training.eval_steps=50")
PLAIN = (
    "training.optimizer=adamw",
    "training.learning_rate=1.5e-3",
    "loss.optimal_transport=0",
    "loss.pretraining=[ctc]",
)
KEYS = {"loss": "training loss", "eval_recovered": "recovered, development data"}


def main(run: Path) -> None:
    """Train the three, next to each other, and draw their logs."""
    broken = [str(mispair(path)) for path in sorted((run / "conversations").glob("train-*.jsonl"))]
    runs = {
        "healthy": (),
        "stuck (learning rate / 200)": ("training.learning_rate=7.5e-6",),
        "broken (audio of other words)": (f"data.train={json.dumps(broken)}",),
    }
    logs = {name: train(run, name.split()[0], changes) for name, changes in runs.items()}
    figure = Figure(figsize=(9, 3.4), dpi=110, layout="constrained")
    for panel, (key, title) in zip(figure.subplots(1, 2), KEYS.items(), strict=True):
        for name, rows in logs.items():
            points = [row for row in rows if key in row]
            steps, values = [row["step"] for row in points], [row[key] for row in points]
            panel.plot(steps, values, marker="o", markersize=3, label=name)
        panel.axvline(320, color="gray", linewidth=0.8, linestyle=":")
        panel.set(title=title, xlabel="step")
        panel.grid(alpha=0.3)
    figure.axes[0].set_yscale("log")
    figure.axes[1].set_ylim(-0.25, 1)
    figure.legend(*figure.axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(Path(__file__).with_name("learning-curves.png"))


def train(run: Path, name: str, changes: tuple[str, ...]) -> list[dict[str, float]]:
    """Run the quickstart's recipe with changes; return the rows of its log."""
    output = run / "curves" / name
    recipe = run / "checkpoint" / "recipe.yaml"
    changed = [f"training.output={output}", "training.log_steps=15", *SHORT]
    changed += [*PLAIN, *changes]
    if not (output / "checkpoint").exists():
        subprocess.run([sys.executable, "-m", "blsp", "train", recipe, *changed], check=True)
    lines = (output / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def mispair(path: Path) -> Path:
    """Write the conversations with each other's recordings; the words stay."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    parts = [find_audio(row) for row in rows]
    files = [(part["audio"], part["duration"]) for part in parts]
    for part, (audio, duration) in zip(parts, files[1:] + files[:1], strict=True):
        part.update(audio=audio, duration=duration)
    wrong = path.with_name(f"mispaired-{path.name}")
    wrong.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    meta = path.with_suffix(".meta.json")
    wrong.with_suffix(".meta.json").write_text(meta.read_text(encoding="utf-8"), encoding="utf-8")
    return wrong


def find_audio(row: dict) -> dict:
    """The one audio part of a conversation."""
    (part,) = (part for part in row["messages"][0]["content"] if part["type"] == "audio")
    return part


if __name__ == "__main__":
    main(Path(sys.argv[1]))
