"""Where a loss stops being finite: the first activation, or the first gradient, that is not."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

from alexnet_jax.config import BadInput, Model
from alexnet_jax.networks import functional

ADVICE = "earlier checkpoints are kept; try a smaller --optim.rate in another --workdir"


class NotFinite(BadInput):
    """A loss is not finite. `step` is that of training whose place is still to be found."""

    def __init__(self, said: str, step: int | None = None) -> None:
        super().__init__(said)
        self.step = step


@contextmanager
def explained(where: Callable[[int], str]) -> Iterator[None]:
    """Adds `where(step)`, the place, to the sentence about a step that is not finite. Raises NotFinite."""
    try:
        yield
    except NotFinite as error:
        if error.step is None:
            raise
        raise NotFinite(f"{error}: {where(error.step)}; {ADVICE}") from None


def place(model: Model | None, activations: Any, loss: Any, gradients: dict[str, Any]) -> str:
    """The first number of a step that is not finite, in the order in which the step computes them.

    model: None if the network is the user's own, whose activations are unknown and {}.
    """
    order = list(functional.activation_shapes(model)) if model else []
    act, loss, gradient = jax.device_get(_largest((activations, loss, gradients)))
    for name in order:
        if not math.isfinite(act[name]):
            return f"the first activations that are not finite are those of {name}"
    before = "all activations are finite; " if order else ""
    if not math.isfinite(loss):
        return f"{before}the first number that is not is the loss"
    layers = [name for name in order if name in gradient] or list(gradient)
    named = {
        "/".join([layer, *(str(getattr(part, "key", part)) for part in path)]): float(size)
        for layer in reversed(layers)  # the way back begins with the logits
        for path, size in jax.tree.leaves_with_path(gradient[layer])
    }
    for name, size in named.items():
        if not math.isfinite(size):
            return f"{before}the first gradient that is not finite is that of {name}"
    largest = max(named, key=lambda name: named[name])
    return f"{before}all gradients are finite, and the largest, {named[largest]:.1e}, is that of {largest}"


@jax.jit
def _largest(tree: Any) -> Any:
    """The largest absolute value of each array; NaN if it holds one."""
    return jax.tree.map(lambda array: jnp.max(jnp.abs(array)), tree)
