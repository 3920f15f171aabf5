"""The table as a forest plot: every difference with its interval, and the paper's beside it."""

from collections.abc import Sequence
from pathlib import Path

from alexnet_jax.ablation.table import Row
from alexnet_jax.networks.drawing import INK, LANES, drawn

NO_DIFFERENCE, DIFFERENCE, PAPER = INK, LANES[0], LANES[1]


def draw(path: Path, rows: Sequence[Row], title: str) -> None:
    """Draws the rows into a .svg or .png. Raises BadInput if it cannot."""
    with drawn(path, (7, 0.9 + 0.27 * len(rows))) as axes:
        for y, row in enumerate(reversed(rows)):
            colour = NO_DIFFERENCE if row.verdict not in ("higher", "lower") else DIFFERENCE
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [y, y], color=colour, linewidth=2)
            axes.plot([row.difference], [y], "o", color=colour, markersize=5)
            if row.paper:
                axes.plot([row.paper[0]], [y], "d", color=PAPER, markersize=5, fillstyle="none")
        axes.plot([], [], "o-", color=DIFFERENCE, label="here, 95 %")
        axes.plot([], [], "o-", color=NO_DIFFERENCE, label="here, no difference after Holm's correction")
        axes.plot([], [], "d", color=PAPER, fillstyle="none", label="the paper, on ImageNet")
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(rows)), [row.experiment.replace("_", " ") for row in reversed(rows)])
        axes.set(xlabel="top-1 error minus the baseline's, percentage points", ylim=(-0.7, len(rows) - 0.3))
        axes.set_title(title, pad=24)
        axes.grid(axis="x", color=INK, alpha=0.2)
        axes.legend(frameon=False, fontsize=8, ncol=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
