"""The same networks in the most straightforward JAX: grouped convolutions, reduce_window and a power."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from alexnet_jax.config import Pool, ResponseNorm, TutorialConfig, pooled
from contestants.ours import given
from contestants.turns import Worker

Params = dict[str, Array]


def max_pool(x: Array, pool: Pool, ragged: bool) -> Array:
    reach = max(0, (pooled(x.shape[1], pool, ragged) - 1) * pool.stride + pool.size - x.shape[1])
    window, strides = (1, pool.size, pool.size, 1), (1, pool.stride, pool.stride, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, [(0, 0), (0, reach), (0, reach), (0, 0)])


def normalise(x: Array, norm: ResponseNorm, window: tuple[int, ...]) -> Array:
    """a / (k + alpha * sum of a^2 over the window)^beta."""
    padding = [(size // 2, size - 1 - size // 2) for size in window]
    sums = lax.reduce_window(jnp.square(x), 0.0, lax.add, window, (1,) * x.ndim, padding)
    return x * (norm.k + norm.alpha * sums) ** -norm.beta


def drop(x: Array, rate: float, scale: str, key: Array | None) -> Array:
    if key is None:
        return x * (1 - rate) if scale == "test" else x
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x if scale == "test" else x / (1 - rate), 0.0)


def network(model: Any, params: Params, x: Array, key: Array | None) -> Array:
    """images [B, H, W, C] -> logits [B, K] for a ModelConfig or a TutorialConfig. A key turns dropout on."""
    keys = iter([None] * 3 if key is None else jax.random.split(key, 3))
    tutorial = isinstance(model, TutorialConfig)
    columns = 1 if tutorial or model.lrn_across_columns else model.columns
    for name, layer in model.convs.items():
        groups = model.columns if name in ("conv2", "conv4", "conv5") else 1
        x = lax.conv_general_dilated(
            x, params[f"{name}/kernel"], (layer.stride,) * 2, (layer.padding,) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
        ) + params[f"{name}/bias"][None, None, None]  # fmt: skip
        for follow in layer.then:
            if follow == "activation":
                x = jax.nn.relu(x)
            elif follow == "pool":
                x = max_pool(x, model.pool, tutorial or name.replace("conv", "pool") in model.ragged)
            elif follow == "norm" and model.norm:
                window = (1, 1, 1, 1, model.lrn.n)
                x = normalise(x.reshape(*x.shape[:3], columns, -1), model.lrn, window).reshape(x.shape)
            elif follow == "map_norm" and model.norm:
                x = normalise(x, model.map_norm, (1, model.map_norm.n, model.map_norm.n, 1))
        if tutorial:
            x = drop(x, model.dropout, "train", next(keys))
    x = x.reshape(len(x), -1)
    for name in ("fc1", "fc2", "out") if tutorial else ("fc6", "fc7", "fc8"):
        if not tutorial and name in model.dropout_before:
            x = drop(x, model.dropout, model.dropout_scale, next(keys))
        x = x @ params[f"{name}/kernel"] + params[f"{name}/bias"][None]
        x = x if name == model.logits else jax.nn.relu(x)
    return x


def update(task: dict[str, Any], number: Array, name: str, w: Array, g: Array, moments: tuple[Array, ...]) -> Any:
    """A parameter after the step of that number, from 1, and its velocity, or Adam's two means."""
    rate, g = task["rates"][name], g + task["decays"][name] * w
    if task["rule"] == "sgd":
        velocity = task["momentum"] * moments[0] - rate * g
        return w + velocity, (velocity,)
    mean, square = 0.9 * moments[0] + 0.1 * g, 0.999 * moments[1] + 0.001 * g**2
    direction = mean / (1 - 0.9**number) / (jnp.sqrt(square / (1 - 0.999**number)) + 1e-8)
    return w - rate * direction, (mean, square)


def role(directory: str) -> Worker:
    task, config, arrays, *batch = given(directory)
    if jax.default_backend() != "cpu" and task["precision"] != "bfloat16":  # there the default may be TF32
        precisions = {"float32": "float32", "tf32": "tensorfloat32"}
        jax.config.update("jax_default_matmul_precision", precisions[task["precision"]])
    images, labels = map(jnp.asarray, batch)
    dtype = jnp.bfloat16 if task["precision"] == "bfloat16" else jnp.float32

    def fresh_params() -> Params:
        return {name: jnp.array(array) for name, array in arrays.items()}

    def logits(model: Any, params: Params, images: Array, key: Array | None) -> Array:
        low = {name: w.astype(dtype) for name, w in params.items()}
        return network(model, low, images.astype(dtype), key).astype(jnp.float32)

    def mean_loss(logits: Array, labels: Array) -> Array:
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()

    if task["work"] == "infer":
        forward, params = jax.jit(partial(logits, config.model, key=None)), fresh_params()
        return Worker(
            jax.default_backend(),
            lambda: [float(mean_loss(forward(params, images), labels))],
            lambda: None,
            lambda _: forward(params, images).block_until_ready(),
            lambda _: None,
        )

    def step_of(model: Any) -> Any:
        @partial(jax.jit, donate_argnums=0)
        def step(state: Any, images: Array, labels: Array) -> Any:
            number, params, moments = state
            key = jax.random.fold_in(jax.random.key(0), number) if model.dropout else None
            loss, slope = jax.value_and_grad(lambda p: mean_loss(logits(model, p, images, key), labels))(params)
            new = {name: update(task, number + 1, name, w, slope[name], moments[name]) for name, w in params.items()}
            params, moments = ({name: pair[part] for name, pair in new.items()} for part in (0, 1))
            return (number + 1, params, moments), loss

        return lambda state: step(state, images, labels)

    def fresh_state() -> Any:
        moments = 1 if task["rule"] == "sgd" else 2
        zeros = {name: tuple(jnp.zeros(w.shape) for _ in range(moments)) for name, w in arrays.items()}
        return jnp.int32(0), fresh_params(), zeros

    def losses() -> list[float]:
        step, state, found = step_of(replace(config.model, dropout=0.0)), fresh_state(), []
        for _ in range(3):
            state, loss = step(state)
            found.append(float(loss))
        return found

    step = step_of(config.model)
    return Worker(jax.default_backend(), losses, fresh_state, lambda state: step(state)[0], jax.block_until_ready)
