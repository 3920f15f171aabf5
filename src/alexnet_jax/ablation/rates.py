"""The learning rate that suits a network: doubled and halved until both neighbours of the best are worse."""

from collections.abc import Mapping

DOUBLINGS = 6
"""the farthest that the search goes from where it began"""


def candidates(first: float) -> list[float]:
    """The rates that a search from here can come to, rising."""
    return [float(f"{first * 2.0**doublings:.3g}") for doublings in range(-DOUBLINGS, DOUBLINGS + 1)]


def search(first: float, measured: Mapping[float, float]) -> tuple[float, list[float]]:
    """The best rate that is measured, and the rates that must be measured before it is known to be the best.

    first: where the search begins. measured: {rate: what is to be small}; infinite for a run that diverged.

    >>> search(0.1, {})
    (0.1, [0.1, 0.2])
    >>> search(0.1, {0.1: 0.3, 0.2: 0.4})
    (0.1, [0.05])
    >>> search(0.1, {0.1: 0.3, 0.2: 0.4, 0.05: 0.5})
    (0.1, [])
    """
    rates = candidates(first)
    tried = [at for at, rate in enumerate(rates) if rate in measured]
    if not tried:
        return rates[DOUBLINGS], rates[DOUBLINGS : DOUBLINGS + 2]
    best = min(tried, key=lambda at: measured[rates[at]])
    return rates[best], [rates[at] for at in (best - 1, best + 1) if at in range(len(rates)) and at not in tried]
