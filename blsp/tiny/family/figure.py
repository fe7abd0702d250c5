"""The comparison as a picture: held-out scores of every entrant beside text bound and cascade.

Drawn by matplotlib, which the extra `tiny` brings, as the learning curves are. Rows enter; a PNG
leaves.
"""

from pathlib import Path

from blsp.results import CASCADE, TEXT_BOUND
from blsp.tiny.family.data import CLEAN, NOISY
from blsp.tiny.family.report import Standing


def draw_figure(standing: Standing, path: Path) -> None:
    """Held-out scores by recipe, clean and at 5 dB, beside text bound and cascade."""
    from matplotlib.figure import Figure

    rows = list(standing.rows.items())
    figure = Figure(figsize=(8, 1.6 + 0.34 * len(rows)), dpi=110, layout="constrained")
    panel = figure.subplots()
    for condition, colour, shift in ((CLEAN, "tab:blue", 0.12), (NOISY, "tab:orange", -0.12)):
        found = [row.measure("held_out", condition) for _, row in rows]
        panel.errorbar(
            [100 * one.value for one in found],
            [-index + shift for index in range(len(rows))],
            xerr=[
                [100 * (one.value - one.ci_low) for one in found],
                [100 * (one.ci_high - one.value) for one in found],
            ],
            fmt="o",
            markersize=4,
            capsize=2,
            color=colour,
            label=f"speech, {condition}",
        )
        for row in standing.yardsticks:
            if row.title in (TEXT_BOUND, CASCADE):
                style = "-" if row.title == TEXT_BOUND else "--"
                value = 100 * row.measure("held_out", condition).value
                label = f"{row.title}, {condition}"
                panel.axvline(value, color=colour, linestyle=style, linewidth=1, label=label)
    panel.set_yticks([-index for index in range(len(rows))], [name for name, _ in rows])
    panel.set(xlabel="held-out questions answered word for word, %", xlim=(-2, 102))
    panel.grid(axis="x", alpha=0.3)
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path, format="png")
