"""The figure docs/curves.png from runs. (python -m alexnet_jax.communication draws the others.)

python scripts/figures.py NAME=RUN [NAME=RUN ...]
"""

import json
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

DOCS = Path(__file__).parent.parent / "docs"


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
    figure.savefig(DOCS / "curves.png", bbox_inches="tight", dpi=130)


if __name__ == "__main__":
    curves({name: Path(run) for name, run in (pair.split("=") for pair in sys.argv[1:])})
