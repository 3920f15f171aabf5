"""The figures of README and site: docs/network.png from the config, docs/curves.png from runs.

python scripts/figures.py network
python scripts/figures.py curves NAME=RUN [NAME=RUN ...]
"""

import json
import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from alexnet_jax.config.presets import preset
from alexnet_jax.networks import functional

DOCS = Path(__file__).parent.parent / "docs"
COLOURS = ("#2b6cb0", "#c05621")
EXCHANGE = "#6b46c1"


def network() -> None:
    """The two columns of cuda_convnet on their two devices, and what crosses between them."""
    figure, axes = plt.subplots(figsize=(12, 4.3))
    model = preset("cuda_convnet").model
    shapes = functional.activation_shapes(model)
    layers = [row.layer for row in functional.describe(model)]
    before = {"conv3": "pool2", "fc6": "pool5", "fc7": "fc6"}
    lanes, x = (1.0, -1.0), 1.6
    axes.text(0, 0, "image\n224 x 224 x 3", ha="center", va="center", fontsize=9)
    at = {}
    for layer in layers:
        x += 1.0 if layer in before else 0.0
        at[layer] = x
        if layer != "fc8":
            for lane, colour in zip(lanes, COLOURS, strict=True):
                box(axes, x, lane, colour, layer, halved(shapes[layer].shape[1:]))
        x += 1.45
    names = layers[:-1]
    for left, right in pairwise(names):
        for lane in lanes:
            arrow(axes, (at[left] + 0.55, lane), (at[right] - 0.55, lane), "#444444")
        if right in before:
            for start, end in (lanes, lanes[::-1]):
                arrow(axes, (at[left] + 0.55, start), (at[right] - 0.6, end), EXCHANGE)
            crossing = math.prod(shapes[before[right]].shape[1:]) // model.columns
            middle = (at[left] + at[right]) / 2
            axes.text(middle, 0.0, f"exchange\n{crossing:,}\neach way", **label())
    for lane in lanes:
        arrow(axes, (0.62, math.copysign(0.15, lane)), (at["conv1"] - 0.55, lane), "#444444")
        arrow(axes, (at["fc7"] + 0.55, lane), (at["fc8"] + 0.12, math.copysign(0.3, lane)), EXCHANGE)
    axes.text(at["fc8"] + 0.25, 0, f"fc8: sum of the\ncolumns' parts\n{model.classes:,} logits", **label())
    for lane, colour, device in zip(lanes, COLOURS, (0, 1), strict=True):
        edge = math.copysign(0.95, lane)
        axes.text(at["conv1"] - 0.55, lane + edge, f"column {device} on device {device}", color=colour, va="center")
    axes.set(xlim=(-0.8, at["fc8"] + 1.2), ylim=(-2.2, 2.2))
    axes.axis("off")
    save(figure, "network")


def halved(shape: tuple[int, ...]) -> str:
    """What one of the two columns holds."""
    return "x".join(map(str, (*shape[:-1], shape[-1] // 2)))


def box(axes: Axes, x: float, y: float, colour: str, name: str, shape: str) -> None:
    patch = FancyBboxPatch(
        (x - 0.53, y - 0.42), 1.06, 0.84, boxstyle="round,pad=0.04", facecolor=colour + "22", edgecolor=colour
    )
    axes.add_patch(patch)
    axes.text(x, y + 0.14, name, ha="center", va="center", fontsize=10, weight="bold", color=colour)
    axes.text(x, y - 0.2, shape, ha="center", va="center", fontsize=7.5)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.2})


def label() -> dict[str, Any]:
    box: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    return {"ha": "center", "va": "center", "fontsize": 8, "color": EXCHANGE, "bbox": box}


def curves(runs: dict[str, Path]) -> None:
    """Validation top-1 error over the epochs, and where ten crops end."""
    figure, axes = plt.subplots(figsize=(7, 3.6))
    for colour, (name, run) in zip(mpl.color_sequences["tab10"], runs.items(), strict=False):
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        one = [(line["epoch"], line["validation/top1_error"]) for line in lines if "validation/top1_error" in line]
        ten = [(line["epoch"], line["validation/ten_crops/top1_error"]) for line in lines
               if "validation/ten_crops/top1_error" in line]  # fmt: skip
        axes.plot(*zip(*one, strict=True), color=colour, linewidth=1.2, label=name)
        axes.plot(*zip(*ten, strict=True), "o", color=colour, markersize=6)
        axes.annotate(f"{ten[-1][1]:.1%}", ten[-1], (6, 0), textcoords="offset points", va="center", color=colour)
    axes.plot([], [], "o", color="#555555", label="ten crops, at the end")
    axes.set(xlabel="epoch", ylabel="validation top-1 error", yscale="log")
    axes.set_yticks(ticks := [0.08, 0.1, 0.12, 0.15, 0.2, 0.3, 0.4], [f"{tick:.0%}" for tick in ticks])
    axes.yaxis.set_minor_locator(mpl.ticker.NullLocator())
    axes.margins(x=0.09)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    save(figure, "curves")


def save(figure: Figure, name: str) -> None:
    figure.savefig(DOCS / f"{name}.png", bbox_inches="tight", dpi=130)


if __name__ == "__main__":
    if sys.argv[1] == "network":
        network()
    else:
        curves({name: Path(run) for name, run in (pair.split("=") for pair in sys.argv[2:])})
