"""The update rules: SGD as section 5 writes it, Adam and their relatives; and how their learning rates change."""

import math
from collections.abc import Collection
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from alexnet_jax.config import BadInput, OptimConfig, Schedule
from alexnet_jax.networks.products import computed_once
from alexnet_jax.training.progress import Progress

Optimiser: TypeAlias = OptimConfig | optax.GradientTransformation
"""the rule of a config, or an Optax transformation that replaces it and brings its own rates and decay"""


class Rates(NamedTuple):
    """The learning rates of one step, arguments of the compiled step."""

    weights: Any
    biases: Any
    conv1: Any
    """factor for both rates of conv1; 0 freezes it"""


def moments(optim: Optimiser, params: Any) -> Any:
    """The rule's state before the first step: velocities, or Adam's two means."""
    if not isinstance(optim, OptimConfig):
        return optim.init(params)
    if optim.rule in ("sgd", "lars"):
        return jax.tree.map(jnp.zeros_like, params)
    return _adam(optim).init(params)


STATISTICS = ("running_mean", "running_variance")
"""the running averages of batch norm, whose gradients are their changes"""
OFFSETS = ("bias", "scale")
"""what has the biases' rates: a batch norm's scale, too"""


def update(optim: Optimiser, params: Any, moments: Any, gradients: Any, rates: Rates) -> tuple[Any, Any, Any]:
    """One step. Returns (params, moments, what was added to the parameters)."""
    statistics = jax.tree.map_with_path(lambda path, _: names_of(path)[1] in STATISTICS, params)
    by_rule = jax.tree.map(lambda known, g: jnp.zeros_like(g) if known else g, statistics, gradients)
    changes, moments = _by_rule(optim, params, moments, by_rule, rates)
    changes = jax.tree.map(lambda known, change, g: -g if known else change, statistics, changes, gradients)
    return optax.apply_updates(params, changes), moments, changes


def _by_rule(optim: Optimiser, params: Any, moments: Any, gradients: Any, rates: Rates) -> tuple[Any, Any]:
    """(what the rule adds to the parameters, moments)."""
    if not isinstance(optim, OptimConfig):
        changes, moments = optim.update(gradients, moments, params)
        return changes, moments

    def with_decay(values: Any) -> Any:
        decays = jax.tree.map_with_path(lambda path, _: decay_of(optim, *names_of(path)) or 0.0, params)
        return jax.tree.map(lambda decay, w, g: g + decay * w if decay else g, decays, params, values)

    own_rates = jax.tree.map_with_path(lambda path, _: rate_of(optim, rates, *names_of(path)), params)
    if optim.rule == "lars":
        own_rates = jax.tree.map_with_path(partial(trusted, optim), own_rates, params, gradients)
    if optim.rule in ("sgd", "lars", "adam"):
        gradients = with_decay(gradients)
    if optim.rule in ("sgd", "lars"):
        # Otherwise XLA's CPU compiler computes the new velocity again, from copies of the old one.
        changes = moments = jax.tree.map(computed_once, sgd(optim.momentum, moments, gradients, own_rates))
    else:
        directions, moments = _adam(optim).update(gradients, moments)
        if optim.rule in ("adamw", "lamb"):  # their means leave the decay out
            directions = with_decay(directions)
        if optim.rule == "lamb":
            directions, _ = optax.scale_by_trust_ratio().update(directions, optax.EmptyState(), params)
        changes = jax.tree.map(lambda rate, direction: -rate * direction, own_rates, directions)
    return changes, moments


def _adam(optim: OptimConfig) -> optax.GradientTransformation:
    return optax.scale_by_adam(eps=1e-6 if optim.rule == "lamb" else 1e-8)  # as in each paper


def rate_of(config: OptimConfig, rates: Rates, layer: str, kind: str) -> Any:
    """The learning rate of a layer's "kernel", "bias" or "scale"."""
    own = (rates.biases if kind in OFFSETS else rates.weights) * dict(config.layer_rates).get(layer, 1.0)
    return own * rates.conv1 if layer == "conv1" else own


def decay_of(config: OptimConfig, layer: str, kind: str) -> float | None:
    """The weight decay of a layer's "kernel", "bias" or "scale"; None if it has none."""
    if kind in STATISTICS or (kind in OFFSETS and not config.decay_biases):
        return None
    return dict(config.layer_decays).get(layer, config.decay)


def names_of(path: tuple[Any, ...]) -> tuple[str, str]:
    """The names of a parameter's layer and of the parameter in it. A user's own network may nest them deeper."""
    names = [str(getattr(part, "key", part)) for part in path]
    return names[0], names[-1]


def sgd(momentum: float, velocity: Any, gradients: Any, rates: Any) -> Any:
    """The new velocity: v <- momentum v - rate (g + decay w). `gradients` already include the decay.

    A rate of 0 freezes a parameter, momentum included (cuda-convnet's weights.cu). `optax.sgd` multiplies the velocity
    by the rate instead, which is a different update once the rate changes.
    """
    return jax.tree.map(lambda v, g, e: jnp.where(e > 0, momentum * v - e * g, 0), velocity, gradients, rates)


def trusted(config: OptimConfig, path: tuple[Any, ...], rate: Any, w: Any, g: Any) -> Any:
    """The rate of LARS: a kernel's rate times trust |w| / (|g| + decay |w|), any other unchanged.

    You, Gitman and Ginsburg 2017, algorithm 1. `optax.lars` divides by |g + decay w| instead.
    """
    layer, kind = names_of(path)
    if kind in OFFSETS:
        return rate
    size = optax.tree.norm(w)  # not of w.ravel(), for which columns would send each other their kernels
    below = optax.tree.norm(g) + (decay_of(config, layer, kind) or 0.0) * size
    return rate * jnp.where((size > 0) & (below > 0), config.trust * size / below, 1.0)


def check_layers(config: OptimConfig, layers: Collection[str]) -> None:
    """Raises BadInput if `layer_rates` or `layer_decays` name a layer that the network does not have."""
    for field in ("layer_rates", "layer_decays"):
        for layer, _ in getattr(config, field):
            if layer not in layers:
                raise BadInput(f"optim.{field} names {layer!r}; the network's layers are {', '.join(layers)}")


def fraction(schedule: Schedule, epoch: float, epochs: float, drops: int) -> float:
    """The factor by which a schedule multiplies its rate at `epoch`, which may be fractional, of a run of `epochs`.

    `drops`: how often the plateau rule has lowered the rate.
    """
    risen = min(1.0, epoch / schedule.warmup) if schedule.warmup else 1.0
    return risen * _without_warmup(schedule, epoch, epochs, drops)


def _without_warmup(schedule: Schedule, epoch: float, epochs: float, drops: int) -> float:
    if schedule.kind == "steps":
        return schedule.factor ** -sum(epoch >= at for at in schedule.epochs)
    if schedule.kind == "staircase":  # dexp in cuda-convnet's lr.py
        stair = min(int(schedule.stairs * epoch / epochs), schedule.stairs - 1)
        return schedule.factor ** -(stair / max(1, schedule.stairs - 1))
    if schedule.kind == "plateau":
        return schedule.factor**-drops
    if schedule.kind == "poly":
        return (1 - min(1.0, epoch / epochs)) ** schedule.power
    if schedule.kind == "cosine":
        done = max(0.0, epoch - schedule.warmup) / max(epochs - schedule.warmup, 1e-9)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return 1.0


def rates(config: OptimConfig, epoch: float, progress: Progress) -> Rates:
    """The rates at `epoch`. `progress` holds the state of the plateau rule."""
    of_weights, of_biases = config.schedules
    weights = fraction(of_weights, epoch, config.epochs, progress.weights.drops)
    biases = fraction(of_biases, epoch, config.epochs, progress.biases.drops)
    frozen = config.freeze_conv1 is not None and epoch >= config.freeze_conv1
    return Rates(config.rate * weights, config.rate * config.bias_rate * biases, 0.0 if frozen else 1.0)
