"""Each layer against slow NumPy code written from the formula."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from alexnet_jax.config import Pool, ResponseNorm, pooled
from alexnet_jax.networks import layers, pooling, products


def slow_lrn(x: np.ndarray, norm: ResponseNorm, columns: int) -> np.ndarray:
    y, width = np.empty_like(x), x.shape[-1] // columns
    for c in range(x.shape[-1]):
        first = c // width * width
        low, high = max(first, c - norm.n // 2), min(first + width, c - norm.n // 2 + norm.n)
        y[..., c] = x[..., c] / (norm.k + norm.alpha * (x[..., low:high] ** 2).sum(-1)) ** norm.beta
    return y


def slow_map_norm(x: np.ndarray, norm: ResponseNorm) -> np.ndarray:
    y = np.empty_like(x)
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            rows = slice(max(0, i - norm.n // 2), i - norm.n // 2 + norm.n)
            cols = slice(max(0, j - norm.n // 2), j - norm.n // 2 + norm.n)
            total = (x[:, rows, cols] ** 2).sum((1, 2))
            y[:, i, j] = x[:, i, j] / (norm.k + norm.alpha * total) ** norm.beta
    return y


def slow_pool(x: np.ndarray, config: Pool) -> np.ndarray:
    H, W = (pooled(side, config) for side in x.shape[1:3])
    y = np.empty((len(x), H, W, x.shape[-1]), x.dtype)
    for i in range(H):
        for j in range(W):
            rows, cols = (slice(at * config.stride, at * config.stride + config.size) for at in (i, j))
            window = x[:, rows, cols]
            y[:, i, j] = window.max((1, 2)) if config.kind == "max" else window.mean((1, 2))
    return y


def numeric_gradient(f: Callable[[np.ndarray], np.ndarray], x: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Of sum(g * f(x)), by central differences in float64."""
    gradient = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        for sign in (1, -1):
            moved = x.copy()
            moved[at] += sign * 1e-5
            gradient[at] += sign * (g * f(moved)).sum() / 2e-5
    return gradient


def gradient(f: Callable[[jax.Array], jax.Array], x: np.ndarray | jax.Array, g: np.ndarray | jax.Array) -> np.ndarray:
    return np.asarray(jax.jit(lambda x, g: jax.vjp(f, x)[1](g)[0])(x, g))  # one program compiles faster than many


pool = jax.jit(pooling.pool, static_argnums=1)
NORMS = [ResponseNorm(), ResponseNorm(k=1.0, n=5, alpha=0.3, beta=0.75), ResponseNorm(k=1.5, n=4, alpha=0.2, beta=0.5)]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("columns", [1, 2])
def test_lrn_equals_the_formula_and_stays_within_a_column(norm: ResponseNorm, columns: int) -> None:
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, g = rng.normal(0, 3, (2, 2, 1, 2, 12))[0], rng.normal(size=(2, 1, 2, 12))
        y = layers.lrn(jnp.asarray(x), norm, columns)
        np.testing.assert_allclose(y, slow_lrn(x, norm, columns), rtol=1e-12)
        expected = numeric_gradient(lambda x: slow_lrn(x, norm, columns), x, g)
        np.testing.assert_allclose(
            gradient(lambda x: layers.lrn(x, norm, columns), x, g), expected, rtol=1e-6, atol=1e-9
        )


def test_lrn_equals_an_example_by_hand() -> None:
    """Six maps in two columns, k = 2, alpha = 1, beta = 0.75: maps 2 and 3 are not neighbours."""
    x = jnp.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).reshape(1, 1, 1, 6)
    y = layers.lrn(x, ResponseNorm(alpha=1.0), 2).ravel()
    left, right = 2 + 1 + 4 + 9, 2 + 16 + 25 + 36
    np.testing.assert_allclose(y, [*(np.arange(1, 4) / left**0.75), *(np.arange(4, 7) / right**0.75)], rtol=1e-6)


def test_map_norm_equals_the_formula() -> None:
    rng, norm = np.random.default_rng(1), ResponseNorm(k=1.0, alpha=0.1)
    with jax.enable_x64(True):
        x, g = rng.normal(0, 3, (1, 7, 6, 2)), rng.normal(size=(1, 7, 6, 2))
        np.testing.assert_allclose(layers.map_norm(jnp.asarray(x), norm), slow_map_norm(x, norm), rtol=1e-12)
        expected = numeric_gradient(lambda x: slow_map_norm(x, norm), x, g)
        np.testing.assert_allclose(gradient(lambda x: layers.map_norm(x, norm), x, g), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize("shape", [(9, 7), (8, 11), (3, 3), (2, 5)])
@pytest.mark.parametrize(("size", "stride"), [(3, 2), (2, 2), (3, 1), (3, 3), (5, 2)])
def test_pool_equals_the_formula(kind: str, shape: tuple[int, int], size: int, stride: int) -> None:
    config = Pool(kind, size, stride)
    x = np.random.default_rng(2).normal(size=(2, *shape, 3)).astype(np.float32)
    np.testing.assert_allclose(pool(x, config), slow_pool(x, config), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(9, 7), (8, 11), (3, 3), (2, 5)])
@pytest.mark.parametrize(("size", "stride"), [(3, 2), (2, 2), (3, 1), (3, 3), (5, 2)])
def test_the_gradient_of_max_pooling_is_that_of_reduce_window(
    shape: tuple[int, int], size: int, stride: int, platform: str
) -> None:
    """Small whole numbers have many ties, as after a ReLU. The first maximum of a window gets the gradient."""
    config, rng = Pool("max", size, stride), np.random.default_rng(3)
    x = rng.integers(0, 3, (2, *shape, 3)).astype(np.float32)
    H, W = (pooled(side, config) for side in shape)
    g = rng.integers(-9, 10, (2, H, W, 3)).astype(np.float32)
    reach = [(0, max(0, (n - 1) * stride + size - side)) for n, side in zip((H, W), shape, strict=True)]

    def plain(x: jax.Array) -> jax.Array:
        window, strides = (1, size, size, 1), (1, stride, stride, 1)
        return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, [(0, 0), *reach, (0, 0)])

    np.testing.assert_array_equal(pool(x, config), plain(jnp.asarray(x)))
    np.testing.assert_array_equal(gradient(lambda x: pooling.pool(x, config), x, g), gradient(plain, x, g))


def test_no_gradient_of_max_pooling_is_lost_where_xla_computes_its_input_twice() -> None:
    """The compiled forward pass computes a batch norm for the maximum and again for the gradient, and rounds apart.

    JAX 0.10 lost a quarter of this gradient while the layer looked for the element that is equal to the maximum.
    """
    rng = np.random.default_rng(0)
    images, scale = rng.normal(size=(16, 3, 3, 128)), rng.normal(size=(1, 1, 1, 128))

    @jax.jit
    def loss(x: jax.Array) -> jax.Array:
        mean, square = x.mean((0, 1, 2), keepdims=True), jnp.square(x).mean((0, 1, 2), keepdims=True)
        y = (x - mean) * jax.lax.rsqrt(square - jnp.square(mean) + 1e-4) * scale + scale
        return jnp.square(pooling.pool(jnp.maximum(y, 0), Pool())).sum()

    with jax.enable_x64(True):
        apart, together = jax.grad(loss)(images), jax.jit(jax.grad(loss))(images)
    np.testing.assert_allclose(apart, together, rtol=1e-9, atol=1e-12)


def test_the_gradient_of_average_pooling_equals_a_numeric_one() -> None:
    config, rng = Pool("average", 3, 2), np.random.default_rng(4)
    with jax.enable_x64(True):
        x, g = rng.normal(size=(1, 6, 5, 2)), rng.normal(size=(1, 3, 2, 2))
        expected = numeric_gradient(lambda x: slow_pool(x, config), x, g)
        np.testing.assert_allclose(gradient(lambda x: pooling.pool(x, config), x, g), expected, rtol=1e-6, atol=1e-9)


def test_conv1_pads_224_pixels_with_three_zeros_below_and_right(platform: str) -> None:
    """A kernel of ones counts the pixels in its window: 11 rows and columns at the first position, 8 at the last."""
    kernel, picture = jnp.ones((11, 11, 1, 1)), jnp.ones((1, 224, 224, 1))
    y = products.convolve(picture, kernel, stride=4, padding=(0, 3))[0, :, :, 0]
    assert y.shape == (55, 55)
    assert (y[0, 0], y[54, 0], y[0, 54], y[54, 54]) == (121, 88, 88, 64)


def test_convolution_equals_the_sum_over_each_window() -> None:
    rng = np.random.default_rng(5)
    x, kernel = rng.normal(size=(2, 6, 6, 3)), rng.normal(size=(3, 3, 3, 4))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = np.zeros((2, 3, 3, 4))
    for i in range(3):
        for j in range(3):
            expected[:, i, j] = np.einsum("bhwc,hwco->bo", padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3], kernel)
    with jax.enable_x64(True):
        y = products.convolve(jnp.asarray(x), jnp.asarray(kernel), stride=2, padding=(1, 1))
        np.testing.assert_allclose(y, expected, rtol=1e-10)


def plain_convolution(x: jax.Array, kernel: jax.Array, stride: int, padding: tuple[int, int]) -> jax.Array:
    form = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), (padding, padding), dimension_numbers=form)


@pytest.mark.parametrize(
    ("side", "size", "stride", "padding"),
    [
        (23, 11, 4, (0, 3)),
        (23, 11, 4, (2, 2)),
        (19, 5, 2, (2, 2)),
        (20, 5, 2, (0, 0)),
        (18, 4, 4, (0, 0)),
        (9, 2, 3, (1, 0)),
        (9, 3, 1, (1, 1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.bfloat16])
def test_the_gradients_of_a_convolution_are_those_of_jax(
    side: int, size: int, stride: int, padding: tuple[int, int], dtype: Any, platform: str
) -> None:
    """Including sides that the stride does not divide, pixels in no window, and kernels smaller than the stride."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, kernel = (
            jnp.asarray(rng.normal(size=shape), dtype) for shape in ((2, side, side + 3, 3), (size, size, 3, 5))
        )
        plain = plain_convolution(x, kernel, stride, padding)
        g = jnp.asarray(rng.normal(size=plain.shape), dtype)

        @jax.jit
        def both(x: jax.Array, kernel: jax.Array, g: jax.Array) -> Any:
            _, of_plain = jax.vjp(lambda x, kernel: plain_convolution(x, kernel, stride, padding), x, kernel)
            y, of_y = jax.vjp(lambda x, kernel: products.convolve(x, kernel, stride=stride, padding=padding), x, kernel)
            return y, of_y(g), of_plain(g)

        ours, of_ours, of_plain = both(x, kernel, g)
        if platform == "cpu":
            np.testing.assert_array_equal(ours, plain)
        # Rounding to bfloat16 changes a number by up to 2^-9 of itself; sums are computed in more bits.
        tolerance = 1e-12 if dtype == jnp.float64 else 2**-8
        for mine, theirs in zip((ours, *of_ours), (plain, *of_plain), strict=True):
            assert mine.dtype == dtype
            mine, theirs = (np.asarray(gradient, np.float64) for gradient in (mine, theirs))
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


@pytest.mark.parametrize(("stride", "padding"), [(1, (1, 1)), (2, (0, 3))])
@pytest.mark.parametrize(("images", "convolutions"), [(2, 1), (5, 2), (9, 2)])
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.bfloat16])
def test_a_kernels_gradient_summed_in_parts_is_that_of_the_whole_batch(
    dtype: Any, images: int, convolutions: int, stride: int, padding: tuple[int, int]
) -> None:
    """Images with gradients of some 0.4 MB each, in parts of two. A loop keeps the program small."""
    rng, side = np.random.default_rng(0), stride * (40 if dtype == jnp.float64 else 80)
    with jax.enable_x64(True):
        x, kernel = (jnp.asarray(rng.normal(size=shape), dtype) for shape in ((images, side, side, 2), (3, 3, 2, 32)))
        plain, of_plain = jax.vjp(lambda kernel: plain_convolution(x, kernel, stride, padding), kernel)
        _, of_ours = jax.vjp(lambda kernel: products.convolve(x, kernel, stride, padding), kernel)
        g = jnp.asarray(rng.normal(size=plain.shape), dtype)
        there = jax.jit(of_ours).lower(g).as_text().count("stablehlo.convolution")
        assert there == (convolutions if jax.default_backend() == "cpu" else 1)
        mine, theirs = (np.asarray(of(g)[0], np.float64) for of in (of_ours, of_plain))
    tolerance = 1e-12 if dtype == jnp.float64 else 2**-8
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.bfloat16])
def test_the_gradients_of_a_fully_connected_layer_are_those_of_matmul(dtype: Any, platform: str) -> None:
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, kernel, g = (jnp.asarray(rng.normal(size=shape), dtype) for shape in ((3, 7), (7, 5), (3, 5)))
        plain, of_plain = jax.vjp(jnp.matmul, x, kernel)
        ours, of_ours = jax.vjp(products.fully_connect, x, kernel)
        np.testing.assert_array_equal(ours, plain)
        tolerance = 1e-12 if dtype == jnp.float64 else 2**-8
        for mine, theirs in zip(of_ours(g), of_plain(g), strict=True):
            assert mine.dtype == dtype
            mine, theirs = (np.asarray(gradient, np.float64) for gradient in (mine, theirs))
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def test_norms_of_bfloat16_are_computed_in_float32_and_rounded() -> None:
    """Sums of squares in bfloat16 would be wrong by more than the last of its eight bits."""
    x = jnp.asarray(np.random.default_rng(0).normal(0, 60, (2, 7, 7, 16)), jnp.bfloat16)
    norm = ResponseNorm(k=1.0, alpha=0.05)
    for layer in (lambda x: layers.lrn(x, norm, 2), lambda x: layers.map_norm(x, norm)):
        narrow, back = jax.vjp(layer, x)
        wide, back_wide = jax.vjp(layer, x.astype(jnp.float32))
        np.testing.assert_array_equal(narrow, wide.astype(jnp.bfloat16))
        np.testing.assert_array_equal(back(x)[0], back_wide(x.astype(jnp.float32))[0].astype(jnp.bfloat16))


@pytest.mark.parametrize("shape", [(9, 11), (8, 8)], ids=str)
def test_max_pooling_of_bfloat16_breaks_ties_as_reduce_window_does(shape: tuple[int, int], platform: str) -> None:
    """With few distinct values, so that most windows have several maxima."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(0, 3, (2, *shape, 4)), jnp.bfloat16)
    config = Pool(size=3, stride=2)

    def plain(x: jax.Array) -> jax.Array:
        reach = [(0, (pooled(side, config) - 1) * 2 + 3 - side) for side in shape]
        return lax.reduce_window(
            x, np.array(-np.inf, x.dtype), lax.max, (1, 3, 3, 1), (1, 2, 2, 1), [(0, 0), *reach, (0, 0)]
        )

    y = plain(x)
    np.testing.assert_array_equal(pool(x, config), y)
    g = jnp.asarray(rng.integers(1, 5, y.shape), jnp.bfloat16)  # their sums are exact
    np.testing.assert_array_equal(gradient(lambda x: pooling.pool(x, config), x, g), gradient(plain, x, g))


def test_dropout_masks_depend_on_the_image_and_the_column() -> None:
    key, dropout_mask = jax.random.key(0), jax.jit(layers.dropout_mask, static_argnums=(3, 4))
    whole = dropout_mask(key, jnp.arange(6), jnp.arange(2), 50, 0.3)
    part = dropout_mask(key, jnp.arange(4, 6), jnp.array([1]), 50, 0.3)
    np.testing.assert_array_equal(whole[4:, 50:], part)
    assert not np.array_equal(whole[:, :50], whole[:, 50:])
    assert not np.array_equal(whole[0], whole[1])
    many = dropout_mask(key, jnp.arange(100), jnp.arange(2), 100, 0.3)
    assert float(many.mean()) == pytest.approx(0.7, abs=0.015)


def test_a_local_layer_applies_another_kernel_at_every_position() -> None:
    rng = np.random.default_rng(6)
    x, kernel = rng.normal(size=(2, 5, 4, 3)), rng.normal(size=(5, 4, 27, 2))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = np.zeros((2, 5, 4, 2))
    for i in range(5):
        for j in range(4):
            window = padded[:, i : i + 3, j : j + 3].transpose(0, 3, 1, 2)  # in the order channel, row, column
            expected[:, i, j] = window.reshape(2, -1) @ kernel[i, j]
    with jax.enable_x64(True):
        y = products.convolve_locally(jnp.asarray(x), jnp.asarray(kernel), 3, 1, (1, 1))
        np.testing.assert_allclose(y, expected, rtol=1e-10)


def test_pooling_without_ragged_windows_drops_the_remainder() -> None:
    x = np.random.default_rng(7).normal(size=(1, 8, 6, 2)).astype(np.float32)
    config = Pool("max", 3, 2)
    y = pooling.pool(jnp.asarray(x), config, ragged=False)
    assert y.shape == (1, 3, 2, 2)
    np.testing.assert_array_equal(y, slow_pool(x, config)[:, :3, :2])
    assert pooling.pool(jnp.asarray(x), config).shape == (1, 4, 3, 2)
