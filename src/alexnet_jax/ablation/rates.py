"""The learning rate that suits a network: doubled and halved until both neighbours of the best are worse."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

DOUBLINGS = 6
"""the farthest that the search goes from where it began"""
CLOSE = 1.2
"""Rates that are up to this many times as bad as the best after one seed are tried with all seeds."""


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


def choose(
    first: float, trials: Mapping[float, Mapping[int, float]], seeds: Sequence[int], useless: float = math.inf
) -> tuple[float, list[tuple[float, int]]]:
    """The best rate by the mean over seeds, and the (rate, seed) that must be tried before it is known to be the best.

    trials: {rate: {seed: what is to be small}}. A rate is tried with the first seed, and with the others if it comes
    close to the best. useless: a mean from which on a rate counts as diverged. Networks that have hardly learnt differ
    by chance, and the search must not end among them.

    >>> choose(0.1, {0.1: {0: 0.30}, 0.2: {0: 0.29}, 0.4: {0: 0.9}, 0.05: {0: 0.5}}, seeds=[0, 1])
    (0.2, [(0.1, 1), (0.2, 1)])
    """
    means = {rate: fmean(by_seed.values()) for rate, by_seed in trials.items()}
    measured = {rate: mean if mean < useless else math.inf for rate, mean in means.items()}
    best, untried = search(first, measured)
    if untried:
        return best, [(rate, seeds[0]) for rate in untried]
    close = [rate for rate, mean in measured.items() if mean <= CLOSE * measured[best]]
    further = [(rate, seed) for seed in seeds for rate in close if seed not in trials[rate]]
    return best, further if len(close) > 1 else []
