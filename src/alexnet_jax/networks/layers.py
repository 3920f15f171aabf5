"""Layers as pure functions: convolution, response normalisation, pooling, dropout.

B batch  H,W height,width  C channels  N columns  U units. A map is one channel of an activation.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from alexnet_jax.config import Pool, ResponseNorm, pooled


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


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x_BHWC: Array, kernel_HWIO: Array, stride: int, padding: tuple[int, int]) -> Array:
    """Cross-correlation with zero padding, as in cuda-convnet's filter_acts.cu. Reverse mode only."""
    return _convolve(x_BHWC, kernel_HWIO, stride, padding)


def _convolve(x_BHWC: Array, kernel_HWIO: Array, stride: int, padding: tuple[int, int]) -> Array:
    return lax.conv_general_dilated(
        x_BHWC, kernel_HWIO, (stride, stride), (padding, padding), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _convolve_fwd(
    x_BHWC: Array, kernel_HWIO: Array, stride: int, padding: tuple[int, int]
) -> tuple[Array, tuple[Array, Array]]:
    # The barrier keeps the input for the gradient. Without it XLA repeats the pooling in another layout.
    x_BHWC = lax.optimization_barrier(x_BHWC)
    return _convolve(x_BHWC, kernel_HWIO, stride, padding), (x_BHWC, kernel_HWIO)


def _convolve_bwd(
    stride: int, padding: tuple[int, int], saved: tuple[Array, Array], g_BhwO: Array
) -> tuple[Array, Array]:
    x_BHWC, kernel_HWIO = saved
    (of_x,) = jax.vjp(lambda x: _convolve(x, kernel_HWIO, stride, padding), x_BHWC)[1](g_BhwO)

    def at_once(x_BHWC: Array, g_BhwO: Array) -> Array:
        kernel = kernel_HWIO.astype(g_BhwO.dtype)
        return jax.vjp(lambda kernel: _convolve(x_BHWC, kernel, stride, padding), kernel)[1](g_BhwO)[0]

    def in_parts(x_BHWC: Array, g_BhwO: Array) -> Array:
        # This gradient is a convolution whose kernel is all of g. On a CPU it takes up to five times as long once g is
        # larger than the caches, so the batch is cut into parts. Every part yields a sum as large as the kernel, so a
        # small kernel can have small parts.
        part = min(max(1 << 20, 8 * kernel_HWIO.size * kernel_HWIO.dtype.itemsize), 8 << 20)
        pictures = max(1, part // (math.prod(g_BhwO.shape[1:]) * g_BhwO.dtype.itemsize))
        starts = range(0, len(g_BhwO), pictures)
        x_BHWC, wide = (array.astype(jnp.promote_types(array.dtype, jnp.float32)) for array in (x_BHWC, g_BhwO))
        sums = [at_once(x_BHWC[start : start + pictures], wide[start : start + pictures]) for start in starts]
        return jax.tree.reduce(jnp.add, sums).astype(g_BhwO.dtype)

    return of_x, lax.platform_dependent(x_BHWC, g_BhwO, cpu=in_parts, default=at_once)


convolve.defvjp(_convolve_fwd, _convolve_bwd)


def convolve_locally(x_BHWC: Array, kernel_hwIO: Array, size: int, stride: int, padding: tuple[int, int]) -> Array:
    """Like `convolve`, but with separate kernels at every position (cuda-convnet's `local` layer).

    kernel: [h, w, C * size * size, out]; its third axis runs over channels, then rows, then columns.
    """
    return lax.conv_general_dilated_local(
        x_BHWC,
        kernel_hwIO,
        (stride, stride),
        (padding, padding),
        (size, size),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@jax.custom_vjp
def fully_connect(x_BC: Array, kernel_CU: Array) -> Array:
    """x @ kernel. Reverse mode only."""
    return x_BC @ kernel_CU


def _fully_connect_bwd(saved: tuple[Array, Array], g_BU: Array) -> tuple[Array, Array]:
    x_BC, kernel_CU = saved

    def plain(kernel_CU: Array, g_BU: Array) -> Array:
        return g_BU @ kernel_CU.T

    def on_cpu(kernel_CU: Array, g_BU: Array) -> Array:
        # Reading the kernel in its memory order takes half the time. The barriers keep XLA from transposing it again.
        return lax.optimization_barrier(kernel_CU @ lax.optimization_barrier(g_BU.T)).T

    return lax.platform_dependent(kernel_CU, g_BU, cpu=on_cpu, default=plain), x_BC.T @ g_BU


fully_connect.defvjp(lambda x_BC, kernel_CU: (x_BC @ kernel_CU, (x_BC, kernel_CU)), _fully_connect_bwd)


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


# ------------------------------------------------------------------------------------------------------- pooling


def pool(x_BHWC: Array, config: Pool, ragged: bool = True) -> Array:
    """Max or average pooling over size x size windows (section 3.4).

    Windows start at the top left. If `ragged`, the last one may extend past the border and covers fewer positions.
    """
    size, stride = config.size, config.stride
    if not ragged:
        H, W = ((pooled(side, config, ragged=False) - 1) * stride + size for side in x_BHWC.shape[1:3])
        x_BHWC = x_BHWC[:, :H, :W]
    if config.kind == "max":
        # With the barrier the windows read LRN's output. Without it XLA recomputes LRN in each window.
        x_BHWC = lax.optimization_barrier(x_BHWC)
        return _max_along(_max_along(x_BHWC, 2, size, stride), 1, size, stride)
    H, W = x_BHWC.shape[1:3]
    reach = [(0, _reach(side, config)) for side in (H, W)]
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    wide = x_BHWC.astype(jnp.promote_types(x_BHWC.dtype, jnp.float32))
    sums = lax.reduce_window(wide, np.zeros((), wide.dtype), lax.add, window, strides, [(0, 0), *reach, (0, 0)])
    counts_H, counts_W = (_positions(side, config) for side in (H, W))
    return (sums / jnp.asarray(np.outer(counts_H, counts_W)[None, :, :, None], wide.dtype)).astype(x_BHWC.dtype)


def _reach(side: int, config: Pool) -> int:
    """How far the last window extends past the border."""
    return max(0, (pooled(side, config) - 1) * config.stride + config.size - side)


def _positions(side: int, config: Pool) -> np.ndarray:
    """How many positions each window covers along one side."""
    starts = np.arange(pooled(side, config)) * config.stride
    return np.minimum(starts + config.size, side) - starts


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_along(x: Array, axis: int, size: int, stride: int) -> Array:
    """Max pooling along one axis. Two passes, along rows and then along columns, pool square windows.

    With this gradient they are 15 times faster on a CPU than XLA's select_and_scatter, and give the same numbers.
    """
    slices = _slices(x, axis, size, stride)
    return jax.tree.reduce(jnp.maximum, slices)


def _slices(x: Array, axis: int, size: int, stride: int) -> list[Array]:
    """The first elements of all windows, then the second, and so on."""
    config = Pool(size=size, stride=stride)
    count, reach = pooled(x.shape[axis], config), _reach(x.shape[axis], config)
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, reach)
    padded = jnp.pad(x, padding, constant_values=-jnp.inf) if reach else x
    return [
        lax.slice_in_dim(padded, start, start + (count - 1) * stride + 1, stride, axis=axis) for start in range(size)
    ]


def _max_along_fwd(x: Array, axis: int, size: int, stride: int) -> tuple[Array, tuple[Array, Array]]:
    y = _max_along(x, axis, size, stride)
    return y, (x, y)


def _max_along_bwd(axis: int, size: int, stride: int, saved: tuple[Array, Array], g: Array) -> tuple[Array]:
    x, y = saved
    length, count = x.shape[axis], y.shape[axis]
    # Each window's gradient goes to its first maximum, which is how select_and_scatter breaks ties.
    shares, taken = [], jnp.zeros(y.shape, bool)
    for element in _slices(x, axis, size, stride):
        first = (element == y) & ~taken
        taken |= first
        shares.append(jnp.where(first, g, 0))
    # Position m * stride + phase is element `phase` of window m, element `phase + stride` of window m - 1, and so on.
    blocks = max(count + (size - 1) // stride, -(-length // stride))
    phases = []
    for phase in range(stride):
        total = jnp.zeros(())
        for back, share in enumerate(shares[phase::stride]):
            padding = [(0, 0)] * x.ndim
            padding[axis] = (back, blocks - count - back)
            total = total + jnp.pad(share, padding)
        phases.append(jnp.broadcast_to(total, (*y.shape[:axis], blocks, *y.shape[axis + 1 :])))
    woven = jnp.stack(phases, axis=axis + 1).reshape(*x.shape[:axis], blocks * stride, *x.shape[axis + 1 :])
    return (lax.slice_in_dim(woven, 0, length, axis=axis).astype(x.dtype),)


_max_along.defvjp(_max_along_fwd, _max_along_bwd)


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
