"""The state of a run besides its arrays. Every checkpoint holds it, so that the run continues exactly."""

from dataclasses import asdict, dataclass, field
from typing import Any

from alexnet_jax.config import Schedule


@dataclass
class Plateau:
    """Section 5: the learning rate is divided by ten when the validation error stops improving."""

    best: float = 1.0
    """the lowest validation top-1 error so far"""
    waited: int = 0
    """epochs since then, or since the last drop"""
    drops: int = 0

    def see(self, error: float, schedule: Schedule) -> None:
        """Takes one epoch's validation top-1 error into account."""
        if error < self.best:
            self.best, self.waited = error, 0
            return
        self.waited += 1
        if self.waited >= schedule.patience and self.drops < schedule.drops:
            self.drops, self.waited = self.drops + 1, 0


@dataclass
class Progress:
    weights: Plateau = field(default_factory=Plateau)
    """of the weights' rate"""
    biases: Plateau = field(default_factory=Plateau)
    """of the biases' rate"""
    best_error: float | None = None
    """the lowest validation top-1 error so far, which is the `best` checkpoint's"""
    window: dict[str, float] = field(default_factory=dict)
    """sums over the steps since the last line of the log"""
    owed: list[int] = field(default_factory=list)
    """the validations, by their number of crops, that a signal has put off until the run continues"""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "Progress":
        return cls(**saved | {name: Plateau(**saved[name]) for name in ("weights", "biases")})
