"""The table as plots: the differences with their intervals, and what the exchange of the columns buys."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

from alexnet_jax.ablation.experiments import BASELINE
from alexnet_jax.ablation.table import Row
from alexnet_jax.config import Config, ModelConfig, diff
from alexnet_jax.networks import traffic
from alexnet_jax.networks.drawing import INK, LANES, drawn

NO_DIFFERENCE, DIFFERENCE, PAPER = INK, LANES[0], LANES[1]
OFF_THE_AXIS = 20.0
"""points; a network that learns nothing would make every other difference invisible"""


def forest(path: Path, rows: Sequence[Row], title: str) -> None:
    """Every difference with its interval, and the paper's beside it. Raises BadInput if it cannot be drawn."""
    with drawn(path, (7, 0.9 + 0.27 * len(rows))) as axes:
        for y, row in enumerate(reversed(rows)):
            colour = NO_DIFFERENCE if row.verdict not in ("higher", "lower") else DIFFERENCE
            if row.difference > OFF_THE_AXIS:
                right = axes.get_yaxis_transform()  # x as a fraction of the axis
                axes.text(0.99, y, f"{row.difference:+.1f} →", color=colour, ha="right", va="center", transform=right)
            else:
                if row.low is not None and row.high is not None:
                    axes.plot([row.low, row.high], [y, y], color=colour, linewidth=2)
                axes.plot([row.difference], [y], "o", color=colour, markersize=5)
                if row.one_crop is not None:
                    axes.plot([row.one_crop.difference], [y], "|", color=INK, markersize=8)
            if row.paper:
                axes.plot([row.paper[0]], [y], "d", color=PAPER, markersize=5, fillstyle="none")
        axes.plot([], [], "o-", color=DIFFERENCE, label="here, 95 %")
        axes.plot([], [], "o-", color=NO_DIFFERENCE, label="no difference after Holm's correction")
        axes.plot([], [], "|", color=INK, linestyle="none", label="with one crop")
        axes.plot([], [], "d", color=PAPER, fillstyle="none", label="the paper, on ImageNet")
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(rows)), [row.experiment.replace("_", " ") for row in reversed(rows)])
        axes.set(xlabel="top-1 error minus the baseline's, percentage points", ylim=(-0.7, len(rows) - 0.3))
        axes.set_title(title, pad=24)
        axes.grid(axis="x", color=INK, alpha=0.2)
        axes.legend(frameon=False, fontsize=8, ncol=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def bytes_exchanged(base: Config, config: Config) -> float | None:
    """Bytes that the columns send each other for one image of training, with a device for each column.

    None if the network differs from the base in more than its columns and where they meet.
    """
    only = {"model.columns", "model.meet", "seed"}
    if not isinstance(config.model, ModelConfig) or not only.issuperset(diff(base, config)):
        return None
    devices = traffic.Devices(1, config.model.columns)
    sent = traffic.plan(config, devices, config.optim.batch)
    return traffic.bytes_per_image(sent, devices, config.optim.batch)


def exchange(path: Path, rows: Sequence[Row], sent: Mapping[str, float], title: str) -> None:
    """The difference of the error over the bytes exchanged. Raises BadInput if it cannot be drawn."""
    shown = {row.experiment: row for row in rows}
    kilobytes = {name: sent[name] / 1000 for name in sorted(sent, key=sent.__getitem__) if name in {BASELINE, *shown}}
    styles = cycle(zip(LANES * 2, "osD^vPX*", strict=True))
    gap = 0.015 * max(kilobytes.values(), default=0)
    x = -gap
    with drawn(path, (7, 4)) as axes:
        for name, sent_here in kilobytes.items():
            x = max(sent_here, x + gap)  # side by side where one would hide the other
            label = f"{name.replace('_', ' ')}, {sent_here:.1f} kB"
            if name == BASELINE:
                axes.plot([x], [0], "o", color=INK, label=label)
                continue
            row, (colour, marker) = shown[name], next(styles)
            if row.low is not None and row.high is not None:
                axes.plot([x, x], [row.low, row.high], color=colour, linewidth=2)
            axes.plot([x], [row.difference], marker, color=colour, label=label)
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set(xlabel="kB exchanged for an image of training", ylabel="top-1 error minus the baseline's, points")
        axes.set_title(title)
        axes.grid(color=INK, alpha=0.2)
