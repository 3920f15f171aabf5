"""Stochastic gradient descent as section 5 writes it, and how its rates fall."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alexnet_jax.config import OptimConfig, Schedule
from alexnet_jax.training.progress import Progress


class Rates(NamedTuple):
    """The rates of one step, arguments of the compiled step."""

    weights: Any
    biases: Any
    conv1: Any
    """multiplies both in conv1: 0 where it is frozen"""


def sgd(config: OptimConfig, params: Any, velocity: Any, gradients: Any, rates: Rates) -> tuple[Any, Any]:
    """One step: v <- momentum v - decay rate w - rate g;  w <- w + v. Returns (params, velocity).

    A parameter whose rate is 0 stands still, momentum and all (cuda-convnet's weights.cu). `optax.sgd` multiplies
    by the rate behind the velocity, which is another update as soon as the rate changes.
    """

    def step(path: tuple[Any, ...], w: Any, v: Any, g: Any) -> tuple[Any, Any]:
        layer, kind = path[0].key, path[1].key
        rate = (rates.biases if kind == "bias" else rates.weights) * getattr(config.layer_rates, layer)
        if layer == "conv1":
            rate = rate * rates.conv1
        decay = 0.0 if kind == "bias" and not config.decay_biases else config.decay
        v = jnp.where(rate > 0, config.momentum * v - decay * rate * w - rate * g, 0)
        return w + v, v

    both = jax.tree.map_with_path(step, params, velocity, gradients)
    return tuple(jax.tree.transpose(jax.tree.structure(params), jax.tree.structure((0, 0)), both))


def fraction(schedule: Schedule, epoch: float, epochs: float, drops: int) -> float:
    """What a schedule multiplies its rate by at `epoch` (a fraction of one counts) of a run of `epochs`.

    `drops`: how often the plateau rule has dropped.
    """
    if schedule.kind == "steps":
        return schedule.factor ** -sum(epoch >= at for at in schedule.epochs)
    if schedule.kind == "staircase":  # dexp in cuda-convnet's lr.py
        stair = min(int(schedule.stairs * epoch / epochs), schedule.stairs - 1)
        return schedule.factor ** -(stair / max(1, schedule.stairs - 1))
    if schedule.kind == "plateau":
        return schedule.factor**-drops
    return 1.0


def rates(config: OptimConfig, epoch: float, progress: Progress) -> Rates:
    """The rates at `epoch`, given what the plateau rule has seen so far."""
    weights = fraction(config.schedule, epoch, config.epochs, progress.weights.drops)
    biases = fraction(config.bias_schedule, epoch, config.epochs, progress.biases.drops)
    frozen = config.freeze_conv1 is not None and epoch >= config.freeze_conv1
    return Rates(config.rate * weights, config.rate * config.bias_rate * biases, 0.0 if frozen else 1.0)
