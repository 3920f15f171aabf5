"""Products with kernels: convolution and matrix product, with the gradients that each kind of device computes fast.

B batch  H,W height,width  C,I,O channels  U units; lower case for the output's height and width.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike


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
