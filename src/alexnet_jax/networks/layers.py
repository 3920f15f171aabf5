"""Layers as pure functions: convolution, response normalisation, pooling, dropout.

B batch  H,W height,width  C channels  N columns  U units. A map is one channel of an activation.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

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


@jax.custom_vjp
def computed_once(x: Array) -> Array:
    """x, computed once on a CPU. There XLA would compute it again in every operation that reads it."""
    return lax.platform_dependent(x, cpu=lax.optimization_barrier, default=lambda x: x)


computed_once.defvjp(lambda x: (computed_once(x), None), lambda _, g: (computed_once(g),))


def convolve(x_BHWC: Array, kernel_HWIO: Array, stride: int, padding: tuple[int, int]) -> Array:
    """Cross-correlation with zero padding, as in cuda-convnet's filter_acts.cu. Reverse mode only.

    Its gradients have the precision (`jax.default_matmul_precision`) that is set here, not where they are computed.
    """
    return _convolution(x_BHWC, kernel_HWIO, stride, padding, _precision())


def _precision() -> str | None:
    precision: str | None = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return precision


def _plain(x_BHWC: Array, kernel_HWIO: Array, stride: int, padding: tuple[int, int], precision: str | None) -> Array:
    return lax.conv_general_dilated(
        x_BHWC,
        kernel_HWIO,
        (stride, stride),
        (padding, padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


def _by_blocks(
    x_BHWC: Array, kernel_HWIO: Array, stride: int, padding: tuple[int, int], precision: str | None
) -> Array:
    """The same as `_plain`, with blocks of stride x stride pixels as channels.

    A GPU's matrix units read eight and more channels at a time: conv1, which has 3, takes a sixth of the time. The
    kernel is extended with zeros to a whole number of blocks.
    """
    size = kernel_HWIO.shape[0]
    window = -(-size // stride)  # in blocks
    sides = x_BHWC.shape[1:3]
    rows, columns = ((side + sum(padding) - size) // stride + window for side in sides)
    room = [
        (padding[0], count * stride - padding[0] - side, 0) for side, count in zip(sides, (rows, columns), strict=True)
    ]
    padded_BHWC = lax.pad(x_BHWC, jnp.zeros((), x_BHWC.dtype), ((0, 0, 0), *room, (0, 0, 0)))
    more = (0, window * stride - size)
    kernel_OHWI = jnp.pad(jnp.moveaxis(kernel_HWIO, -1, 0), ((0, 0), more, more, (0, 0)))
    return lax.conv_general_dilated(
        _blocks(padded_BHWC, rows, columns, stride),
        _blocks(kernel_OHWI, window, window, stride),
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "OHWI", "NHWC"),
        precision=precision,
    )


def _blocks(x_BHWC: Array, rows: int, columns: int, side: int) -> Array:
    """[B, rows * side, columns * side, C] -> [B, rows, columns, side * side * C]."""
    B, *_, C = x_BHWC.shape
    x = x_BHWC.reshape(B, rows, side, columns, side, C)
    return jnp.swapaxes(x, 2, 3).reshape(B, rows, columns, side * side * C)


def _convolve(x_BHWC: Array, kernel_HWIO: Array, stride: int, padding: tuple[int, int], precision: str | None) -> Array:
    plain, by_blocks = (
        partial(form, stride=stride, padding=padding, precision=precision) for form in (_plain, _by_blocks)
    )
    if stride == 1 or x_BHWC.shape[-1] >= 8:
        return plain(x_BHWC, kernel_HWIO)
    return lax.platform_dependent(x_BHWC, kernel_HWIO, cpu=plain, default=by_blocks)


_convolution = jax.custom_vjp(_convolve, nondiff_argnums=(2, 3, 4))


def _convolution_fwd(
    x_BHWC: Array, kernel_HWIO: Array, stride: int, padding: tuple[int, int], precision: str | None
) -> tuple[Array, tuple[Array, Array]]:
    # The gradient reads the input too. XLA's CPU compiler would repeat the pooling in another layout.
    x_BHWC = computed_once(x_BHWC)
    return _convolve(x_BHWC, kernel_HWIO, stride, padding, precision), (x_BHWC, kernel_HWIO)


def _convolution_bwd(
    stride: int, padding: tuple[int, int], precision: str | None, saved: tuple[Array, Array], g_BhwO: Array
) -> tuple[Array, Array]:
    x_BHWC, kernel_HWIO = saved
    (of_x,) = jax.vjp(lambda x: _convolve(x, kernel_HWIO, stride, padding, precision), x_BHWC)[1](g_BhwO)

    def at_once(x_BHWC: Array, g_BhwO: Array) -> Array:
        kernel = kernel_HWIO.astype(g_BhwO.dtype)
        return jax.vjp(lambda kernel: _convolve(x_BHWC, kernel, stride, padding, precision), kernel)[1](g_BhwO)[0]

    def in_parts(x_BHWC: Array, g_BhwO: Array) -> Array:
        return _kernel_gradient_in_parts(x_BHWC, g_BhwO, kernel_HWIO, stride, padding, precision).astype(g_BhwO.dtype)

    return of_x, lax.platform_dependent(x_BHWC, g_BhwO, cpu=in_parts, default=at_once)


_convolution.defvjp(_convolution_fwd, _convolution_bwd)


def _kernel_gradient_in_parts(
    x_BHWC: Array,
    g_BhwO: Array,
    kernel_HWIO: Array,
    stride: int,
    padding: tuple[int, int],
    precision: str | None,
) -> Array:
    """The gradient by the kernels, for XLA's CPU compiler.

    It is a convolution whose kernel is all of g. On a CPU it takes up to five times as long once g is larger than the
    caches, so the batch is cut into parts. Every part yields a sum as large as the kernel, so a small kernel can have
    small parts. A loop over them keeps the program small. In a loop XLA's CPU compiler does not change a convolution
    into the one order of axes that it computes fast (a matter of 36 times), so it is written in that order here.
    """
    bytes_of_part = min(max(1 << 20, 8 * kernel_HWIO.size * kernel_HWIO.dtype.itemsize), 8 << 20)
    images = max(1, bytes_of_part // (math.prod(g_BhwO.shape[1:]) * g_BhwO.dtype.itemsize))
    loops = (len(x_BHWC) - 1) // images
    first = len(x_BHWC) - loops * images
    x_BHWC, g_BhwO = (array.astype(jnp.promote_types(array.dtype, jnp.float32)) for array in (x_BHWC, g_BhwO))
    after = [
        kernel + (maps - 1) * stride - side - padding[0]
        for kernel, maps, side in zip(kernel_HWIO.shape[:2], g_BhwO.shape[1:3], x_BHWC.shape[1:3], strict=True)
    ]

    def part(start: ArrayLike, images: int) -> Array:
        x, g = (lax.dynamic_slice_in_dim(array, start, images) for array in (x_BHWC, g_BhwO))
        return lax.conv_general_dilated(
            jnp.transpose(x, (3, 1, 2, 0)),
            jnp.transpose(g, (1, 2, 0, 3)),
            (1, 1),
            [(padding[0], end) for end in after],
            rhs_dilation=(stride, stride),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=precision,
        )

    total_IHWO = part(0, first)
    if loops:
        total_IHWO = lax.fori_loop(
            0, loops, lambda count, total: total + part(first + count * images, images), total_IHWO
        )
    return jnp.transpose(total_IHWO, (1, 2, 0, 3))


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


def fully_connect(x_BC: Array, kernel_CU: Array) -> Array:
    """x @ kernel. Reverse mode only. Its gradients have the precision that is set here, as in `convolve`."""
    return _product(x_BC, kernel_CU, _precision())


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x_BC: Array, kernel_CU: Array, precision: str | None) -> Array:
    return jnp.matmul(x_BC, kernel_CU, precision=precision)


def _product_bwd(precision: str | None, saved: tuple[Array, Array], g_BU: Array) -> tuple[Array, Array]:
    x_BC, kernel_CU = saved
    multiply = partial(jnp.matmul, precision=precision)

    def plain(kernel_CU: Array, g_BU: Array) -> Array:
        return multiply(g_BU, kernel_CU.T)

    def on_cpu(kernel_CU: Array, g_BU: Array) -> Array:
        # Reading the kernel in its memory order takes half the time. The barriers keep XLA from transposing it again.
        return lax.optimization_barrier(multiply(kernel_CU, lax.optimization_barrier(g_BU.T))).T

    return lax.platform_dependent(kernel_CU, g_BU, cpu=on_cpu, default=plain), multiply(x_BC.T, g_BU)


_product.defvjp(lambda x, kernel, precision: (_product(x, kernel, precision), (x, kernel)), _product_bwd)


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
        return _max_pool(x_BHWC, size, stride)
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


def _max_along_each(x_BHWC: Array, size: int, stride: int) -> Array:
    """Max pooling along rows, then along columns. Each window's gradient goes to its first maximum, row by row."""
    # Otherwise XLA's CPU compiler computes LRN again in each window.
    return _max_along(_max_along(computed_once(x_BHWC), 2, size, stride), 1, size, stride)


_max_pool = jax.custom_vjp(_max_along_each, nondiff_argnums=(1, 2))


def _max_pool_fwd(x_BHWC: Array, size: int, stride: int) -> tuple[Array, Any]:
    y_BhwC, along_each = jax.vjp(lambda x: _max_along_each(x, size, stride), x_BHWC)
    elements = [part for rows in _slices(x_BHWC, 1, size, stride) for part in _slices(rows, 2, size, stride)]
    return y_BhwC, (along_each, _first_maximum(elements), x_BHWC)


def _first_maximum(elements: list[Array]) -> Array:
    """The number of each window's first maximum, found from the elements alone.

    Comparing them with the maximum would not do: XLA may compute both from scratch, with roundings of their own.
    """
    best, number_type = elements[0], np.min_scalar_type(len(elements))
    first = jnp.zeros(best.shape, number_type)
    for number, element in enumerate(elements[1:], 1):
        first = jnp.where(element > best, number_type.type(number), first)
        best = jnp.maximum(element, best)
    return first


def _max_pool_bwd(size: int, stride: int, saved: Any, g_BhwC: Array) -> tuple[Array]:
    along_each, first_BhwC, x_BHWC = saved
    (H, W), (h, w) = x_BHWC.shape[1:3], g_BhwC.shape[1:3]

    def at_once(first_BhwC: Array, g_BhwC: Array) -> Array:
        # A GPU does all this in one operation, from the number of each window's first maximum.
        total, wide = jnp.zeros(()), g_BhwC.astype(jnp.promote_types(g_BhwC.dtype, jnp.float32))
        for number in range(size * size):
            # Element (row, column) of the first window; those of the others follow in steps of `stride`.
            row, column = divmod(number, size)
            places = (
                (row, H - row - (h - 1) * stride - 1, stride - 1),
                (column, W - column - (w - 1) * stride - 1, stride - 1),
            )
            share = jnp.where(first_BhwC == number, wide, 0)
            total = total + lax.pad(share, jnp.zeros((), share.dtype), ((0, 0, 0), *places, (0, 0, 0)))
        return total.astype(g_BhwC.dtype)

    return (lax.platform_dependent(first_BhwC, g_BhwC, cpu=lambda _, g: along_each(g)[0], default=at_once),)


_max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_along(x: Array, axis: int, size: int, stride: int) -> Array:
    """Max pooling along one axis.

    With this gradient two passes are 15 times faster on a CPU than XLA's select_and_scatter, and give the same numbers.
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


def _max_along_fwd(x: Array, axis: int, size: int, stride: int) -> tuple[Array, Array]:
    return _max_along(x, axis, size, stride), x


def _max_along_bwd(axis: int, size: int, stride: int, x: Array, g: Array) -> tuple[Array]:
    length, count = x.shape[axis], g.shape[axis]
    # Each window's gradient goes to its first maximum, which is how select_and_scatter breaks ties.
    first = _first_maximum(_slices(x, axis, size, stride))
    shares = [jnp.where(first == number, g, 0) for number in range(size)]
    # Position m * stride + phase is element `phase` of window m, element `phase + stride` of window m - 1, and so on.
    blocks = max(count + (size - 1) // stride, -(-length // stride))
    phases = []
    for phase in range(stride):
        total = jnp.zeros(())
        for back, share in enumerate(shares[phase::stride]):
            padding = [(0, 0)] * x.ndim
            padding[axis] = (back, blocks - count - back)
            total = total + jnp.pad(share, padding)
        phases.append(jnp.broadcast_to(total, (*g.shape[:axis], blocks, *g.shape[axis + 1 :])))
    woven = jnp.stack(phases, axis=axis + 1).reshape(*x.shape[:axis], blocks * stride, *x.shape[axis + 1 :])
    return (lax.slice_in_dim(woven, 0, length, axis=axis).astype(x.dtype),)


_max_along.defvjp(_max_along_fwd, _max_along_bwd)


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
