"""Stochastic gradient descent as section 5 writes it, Adam, and how their rates fall."""

from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from alexnet_jax.config import BadInput, OptimConfig, Schedule
from alexnet_jax.training.progress import Progress


class Rates(NamedTuple):
    """The rates of one step, arguments of the compiled step."""

    weights: Any
    biases: Any
    conv1: Any
    """multiplies both in conv1: 0 where it is frozen"""


def moments(config: OptimConfig, params: Any) -> Any:
    """What the rule remembers before the first step: velocities, or Adam's two means."""
    return optax.scale_by_adam().init(params) if config.rule == "adam" else jax.tree.map(jnp.zeros_like, params)


def update(config: OptimConfig, params: Any, moments: Any, gradients: Any, rates: Rates) -> tuple[Any, Any, Any]:
    """One step. Returns (params, moments, what was added to the parameters)."""

    def rate(path: tuple[Any, ...]) -> Any:
        return rate_of(config, rates, path[0].key, path[1].key)

    def decayed(path: tuple[Any, ...], w: Any, g: Any) -> Any:
        decay = decay_of(config, path[0].key, path[1].key)
        return g if decay is None else g + decay * w

    gradients = jax.tree.map_with_path(decayed, params, gradients)
    if config.rule == "adam":
        directions, moments = optax.scale_by_adam().update(gradients, moments)
        changes = jax.tree.map_with_path(lambda path, direction: -rate(path) * direction, directions)
    else:
        own_rates = jax.tree.map_with_path(lambda path, _: rate(path), params)
        # Behind the barrier XLA reads the velocity instead of computing it again, from copies of what it replaces.
        changes = moments = jax.lax.optimization_barrier(sgd(config.momentum, moments, gradients, own_rates))
    return jax.tree.map(jnp.add, params, changes), moments, changes


def rate_of(config: OptimConfig, rates: Rates, layer: str, kind: str) -> Any:
    """The rate of a layer's "kernel" or "bias"."""
    own = (rates.biases if kind == "bias" else rates.weights) * dict(config.layer_rates).get(layer, 1.0)
    return own * rates.conv1 if layer == "conv1" else own


def decay_of(config: OptimConfig, layer: str, kind: str) -> float | None:
    """Its weight decay; None where it has none."""
    if kind == "bias" and not config.decay_biases:
        return None
    return dict(config.layer_decays).get(layer, config.decay)


def sgd(momentum: float, velocity: Any, gradients: Any, rates: Any) -> Any:
    """The new velocity: v <- momentum v - rate (g + decay w), with the decay in `gradients` already.

    A parameter whose rate is 0 stands still, momentum and all (cuda-convnet's weights.cu). `optax.sgd` multiplies
    by the rate behind the velocity, which is another update as soon as the rate changes.
    """
    return jax.tree.map(lambda v, g, e: jnp.where(e > 0, momentum * v - e * g, 0), velocity, gradients, rates)


def check_layers(config: OptimConfig, layers: Collection[str]) -> None:
    """Raises BadInput where `layer_rates` or `layer_decays` name a layer that is not there."""
    for field in ("layer_rates", "layer_decays"):
        for layer, _ in getattr(config, field):
            if layer not in layers:
                raise BadInput(f"optim.{field} names {layer!r}; the network's layers are {', '.join(layers)}")


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
