"""This package: its training step and forward pass as `train` and `evaluate` run them, on images already cropped."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from alexnet_jax.config import Precision, from_json
from alexnet_jax.networks import columns, functional
from alexnet_jax.training.optimiser import rates
from alexnet_jax.training.progress import Progress
from alexnet_jax.training.step import make_train_step, new_state
from contestants.turns import Worker


def given(directory: str) -> tuple[dict[str, Any], Any, dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """What `write_task` wrote: the task, its Config, parameters by "layer/kind", images and labels."""
    task = json.loads((Path(directory) / "task.json").read_text())
    batch = np.load(Path(directory) / "batch.npz")
    params = dict(np.load(Path(directory) / "params.npz"))
    return task, from_json(json.dumps(task["config"])), params, batch["images"], batch["labels"]


def nested(arrays: dict[str, np.ndarray], dtype: Any = None) -> Any:
    """{"conv1/kernel": ..} -> {"conv1": {"kernel": ..}}, on the device."""
    params: dict[str, dict[str, Array]] = {}
    for name, array in arrays.items():
        layer, kind = name.split("/")
        params.setdefault(layer, {})[kind] = jnp.array(array, dtype)
    return params


def role(directory: str, mesh_sizes: str) -> Worker:
    """`mesh_sizes`: D,C. JAX_NUM_CPU_DEVICES must provide D x C devices."""
    data, column = map(int, mesh_sizes.split(","))
    task, config, arrays, images, labels = given(directory)
    precision: Precision = task["precision"]
    mesh = columns.make_mesh(data, column)
    batch = columns.shard_batch({"image": images, "label": labels}, mesh, len(images))

    def fresh_params() -> Any:
        return columns.shard(nested(arrays), config.model, mesh)

    if task["work"] == "infer":
        forward, params = functional.forward(config.model, mesh, precision), fresh_params()

        def infer(_: Any) -> Array:
            # Waits for every device: a collective gives up if the process is suspended in the middle of it.
            return jax.block_until_ready(forward(params, batch["image"]))

        def loss() -> list[float]:
            return [float(optax.softmax_cross_entropy_with_integer_labels(infer(None), batch["label"]).mean())]

        return Worker(jax.default_backend(), loss, lambda: None, infer, lambda _: None)

    rate, key, noisy = rates(config.optim, 0.0, Progress()), jax.random.key(0), jnp.float32(0)

    def step_of(dropout: float) -> Any:
        forward = functional.forward(replace(config.model, dropout=dropout), mesh, precision)
        step = make_train_step(forward, lambda images, key, noisy: images, config.optim)
        return lambda state: step(state, batch["image"], batch["label"], key, rate, noisy)

    def fresh_state() -> Any:
        params = fresh_params()
        layout = columns.shardings(jax.eval_shape(lambda: new_state(params, config.optim)), mesh)
        return jax.jit(lambda params: new_state(params, config.optim), out_shardings=layout)(params)

    def losses() -> list[float]:
        step, state, found = step_of(dropout=0.0), fresh_state(), []
        for _ in range(3):
            state, metrics = jax.block_until_ready(step(state))
            found.append(float(metrics["loss"]))
        return found

    step = step_of(config.model.dropout)
    return Worker(jax.default_backend(), losses, fresh_state, lambda state: step(state)[0], jax.block_until_ready)
