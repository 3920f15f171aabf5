"""Layers as pure functions: activation, response normalisation, batch norm's averages, dropout masks.

Convolutions and matrix products are in `products`, pooling in `pooling`.

B batch  H,W height,width  C channels  N columns  U units. A map is one channel of an activation.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from alexnet_jax.config import ResponseNorm


def activation(name: str) -> Callable[[Array], Array]:
    """The activation that `model.activation` names (section 3.1)."""
    function: Callable[[Array], Array] = getattr(jax.nn, name)
    return function


def in_columns(layer: Callable[..., Array], columns: int, *arrays: Array) -> Array:
    """Applies `layer` to each column's slice of the last axes separately, and concatenates the results."""
    if columns == 1:
        return layer(*arrays)
    # One plain convolution per column, as the gradient of a grouped one is 3 to 4 times slower in XLA.
    parts = zip(*(jnp.split(array, columns, axis=-1) for array in arrays), strict=True)
    return jnp.concatenate([layer(*part) for part in parts], axis=-1)


# ---------------------------------------------------------------------------------------- response normalisation


def lrn(x_BHWC: Array, norm: ResponseNorm, columns: int) -> Array:
    """Local response normalisation across the maps of each column (section 3.3): f - n//2 .. f + n//2, clipped.

    A window never crosses a column's border (cuda-convnet's conv_util.cu).
    """
    x_BHWNC = x_BHWC.reshape(*x_BHWC.shape[:-1], columns, -1)
    return response_norm(x_BHWNC, (4,), norm.n, norm.k, norm.alpha, norm.beta).reshape(x_BHWC.shape)


def map_norm(x_BHWC: Array, norm: ResponseNorm) -> Array:
    """Response normalisation across n x n positions of the same map (rnorm in cuda-convnet's layer.py)."""
    return response_norm(x_BHWC, (1, 2), norm.n, norm.k, norm.alpha, norm.beta)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4, 5))
def response_norm(x: Array, axes: tuple[int, ...], n: int, k: float, alpha: float, beta: float) -> Array:
    """x / (k + alpha * sum of x^2 over a window of n along each of `axes`)^beta. Reverse mode only.

    With a bfloat16 input, the sum and the power are float32.
    """
    return _response_norm_fwd(x, axes, n, k, alpha, beta)[0]


def _response_norm_fwd(
    x: Array, axes: tuple[int, ...], n: int, k: float, alpha: float, beta: float
) -> tuple[Array, tuple[Array, Array]]:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    scale = k + alpha * _window_sum(wide * wide, axes, n)
    return (wide * _power(scale, beta)).astype(x.dtype), (x, scale)


def _response_norm_bwd(
    axes: tuple[int, ...], n: int, k: float, alpha: float, beta: float, saved: tuple[Array, Array], g: Array
) -> tuple[Array]:
    x, scale = saved
    wide = x.astype(scale.dtype)
    g_power = g * _power(scale, beta)
    inner = _window_sum(g_power * wide / scale, axes, n, transposed=True)
    return ((g_power - (2 * alpha * beta) * wide * inner).astype(x.dtype),)


response_norm.defvjp(_response_norm_fwd, _response_norm_bwd)


def _power(scale: Array, beta: float) -> Array:
    """scale^-beta."""
    if beta == 0.75:  # several times cheaper than a general power
        root = lax.rsqrt(scale)
        return root * jnp.sqrt(root)
    return scale**-beta


def _window_sum(x: Array, axes: tuple[int, ...], n: int, transposed: bool = False) -> Array:
    """Sums over i - n//2 .. i - n//2 + n - 1 along each axis, clipped: shifted adds, which XLA fuses."""
    before = n // 2
    after = n - 1 - before
    for axis in axes:
        low, high = (after, before) if transposed else (before, after)
        padding = [(0, 0)] * x.ndim
        padding[axis] = (low, high)
        padded, length = jnp.pad(x, padding), x.shape[axis]
        x = sum(
            (lax.slice_in_dim(padded, shift, shift + length, axis=axis) for shift in range(1, n)),
            start=lax.slice_in_dim(padded, 0, length, axis=axis),
        )
    return x


# ---------------------------------------------------------------------------------------------------- batch norm


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def tracked(running: Array, new: Array, kept: float) -> Array:
    """`new`. The gradient by `running` is what makes it a running average if it is subtracted: running - new, times
    1 - kept. So a pure function of parameters can keep statistics, on any layout.
    """
    return new


def _tracked_fwd(running: Array, new: Array, kept: float) -> tuple[Array, Array]:
    return new, (1 - kept) * (running - new)


def _tracked_bwd(kept: float, change: Array, g: Array) -> tuple[Array, Array]:
    return change, g


tracked.defvjp(_tracked_fwd, _tracked_bwd)


# ------------------------------------------------------------------------------------------------------- dropout


def dropout_mask(key: Array, index_B: Array, column_N: Array, units: int, rate: float) -> Array:
    """True for units that are kept: [B, N * units], each with probability 1 - rate (section 4.2).

    A mask depends only on the key, the image's index in the global batch and the column: the same on every layout.
    """

    def draw(index: Array, column: Array) -> Array:
        own = jax.random.fold_in(jax.random.fold_in(key, index), column)
        return jax.random.bernoulli(own, 1 - rate, (units,))

    B, N = len(index_B), len(column_N)
    # One row for each image and column: XLA compiles a mask with two short leading axes far more slowly.
    mask_RU = jax.vmap(draw)(jnp.repeat(index_B, N), jnp.tile(column_N, B))
    return mask_RU.reshape(B, N * units)
