"""Writes what an ablation measured into the docstrings of experiments/, from experiments/results/*/table.json.

python scripts/measured.py
"""

import json
import re
from pathlib import Path
from typing import Any

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
IMAGES = {"fashion": "Fashion-MNIST", "clipart": "clipart"}
"""folders of results, and what their networks were trained on"""


def lines(experiment: str) -> list[str]:
    """A line for each set of images on which the experiment was measured with two seeds or more."""
    found = []
    for folder, images in IMAGES.items():
        table = EXPERIMENTS / "results" / folder / "table.json"
        rows: list[dict[str, Any]] = json.loads(table.read_text()) if table.exists() else []
        found += [
            f"Measured on {images}, {len(row['seeds'])} seeds: {row['difference']:+.2f} points of top-1 error (95 % "
            f"interval {row['low']:+.2f} to {row['high']:+.2f}); with one crop {row['one_crop']['difference']:+.2f}."
            for row in rows
            if row["experiment"] == experiment and row["low"] is not None
        ]
    return found


def with_measured(text: str, experiment: str) -> str:
    """The text of an experiment with these lines at the end of its docstring."""
    claim, code = re.sub(r"\n\nMeasured on [^\"]*", "\n", text, count=1).split('\n"""\n', 1)
    return "\n\n".join([claim, *filter(None, ["\n".join(lines(experiment))])]) + '\n"""\n' + code


if __name__ == "__main__":
    for path in sorted(EXPERIMENTS.glob("*.py")):
        path.write_text(with_measured(path.read_text(), path.stem))
