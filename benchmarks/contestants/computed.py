"""What a network computes: logits, gradients and five updates.

`python computed.py DIRECTORY FILE float64` computes them on the CPU, from the task in DIRECTORY, and writes an .npz. In
place of float64 there may be a precision.
"""

import os
import sys
from typing import Any

if __name__ == "__main__":  # before JAX starts
    exact = sys.argv[3] == "float64"
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "JAX_ENABLE_X64": "true" if exact else "false"}
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from alexnet_jax.config import Precision
from alexnet_jax.networks import columns, functional
from alexnet_jax.training.optimiser import rates
from alexnet_jax.training.progress import Progress
from alexnet_jax.training.step import make_train_step, new_state
from contestants import ours

UPDATES = 5


def computed(directory: str, precision: Precision, mesh: Mesh | None = None) -> dict[str, np.ndarray]:
    """{"logits": .., "gradient of conv1/kernel": .., "update of conv1/kernel": ..}; in float64 if that is enabled."""
    _, config, arrays, host_images, labels = ours.given(directory)
    wide = jnp.zeros(1, float).dtype  # float64 if that is enabled
    params = ours.nested(arrays, wide)
    if mesh:
        params = columns.shard(params, config.model, mesh)
    images = jnp.asarray(host_images, wide)
    forward = functional.forward(config.model, mesh, precision)

    @jax.jit
    def gradients(params: Any, images: Any) -> Any:
        def loss(params: Any) -> Any:
            logits = forward(params, images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits

        return jax.grad(loss, has_aux=True)(params)

    of_params, logits = gradients(params, images)
    found = {"logits": logits} | named("gradient of", of_params)
    step = make_train_step(forward, lambda images, key, noisy: images, config.optim)
    state = jax.jit(lambda params: new_state(params, config.optim))(params)
    for _ in range(UPDATES):
        state, _ = step(state, images, labels, jax.random.key(0), rates(config.optim, 0.0, Progress()), 0.0)
    changes = jax.tree.map(lambda after, before: after - before, state.params, params)
    found |= named("update of", changes)
    return {name: np.asarray(array, np.float64) for name, array in found.items()}


def named(what: str, params: Any) -> dict[str, Any]:
    return {f"{what} {layer}/{kind}": array for layer, own in params.items() for kind, array in own.items()}


def furthest(found: dict[str, np.ndarray], exact: dict[str, np.ndarray], start: str) -> tuple[float, str]:
    """The largest relative L2 distance among the arrays whose names start with `start`, and the array's name."""
    return max(
        (float(np.linalg.norm(found[name] - exact[name]) / np.linalg.norm(exact[name])), name)
        for name in exact
        if name.startswith(start)
    )


if __name__ == "__main__":
    np.savez(sys.argv[2], **computed(sys.argv[1], "float32" if exact else sys.argv[3]))  # type: ignore[arg-type]
