"""Experiments: Python files with a function `change(base)`, which returns the config that the experiment measures."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from alexnet_jax.config import BadInput, Config, names_in

BASELINE = "baseline"
Points = tuple[float, float]
"""a difference in percentage points: top-1 error, top-5 error"""


@dataclass(frozen=True)
class Experiment:
    """One difference from a base, and what others have measured for it."""

    name: str
    change: Callable[[Config], Config]
    paper: Points | None = None
    """the rise of the errors on ImageNet that the paper reports"""
    logs: Points | None = None
    """and that the notes in the code of 2012 report"""
    init: str | None = None
    """the run or the weights that its runs start from; {seed} in it stands for the seed"""

    def config(self, base: Config, seed: int) -> Config:
        """The config of one run. Raises BadInput if `change` returns none, and whatever it raises."""
        changed = self.change(base)
        if not isinstance(changed, Config):
            raise BadInput(f"change() of {self.name} returns a {type(changed).__name__}; return a Config")
        return replace(changed, seed=seed)


def baseline() -> Experiment:
    return Experiment(BASELINE, lambda base: base)


def load(path: Path) -> Experiment:
    """The experiment in a Python file, named after it.

    The file defines `change(base) -> Config`. It may define PAPER and LOGS_2012, (top-1, top-5) in points, and INIT,
    the weights to start from. Raises BadInput.
    """
    names = names_in(str(path))
    if not callable(names.get("change")):
        raise BadInput(f"{path} does not define change(base), a function from one Config to another")
    if path.stem == BASELINE:
        raise BadInput(f"{path} has the name of the baseline; give it another")
    return Experiment(path.stem, names["change"], names.get("PAPER"), names.get("LOGS_2012"), names.get("INIT"))
