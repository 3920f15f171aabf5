"""Building blocks of the networks: layers with parameters, what follows them, and dropout.

B batch  H,W height,width  C channels  K classes  N columns
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from alexnet_jax.config import BatchNorm, Conv, Dense, Follow
from alexnet_jax.networks import columns, layers, products

Activations = dict[str, Array]


class Draw(NamedTuple):
    """What dropout masks depend on. Only training has it."""

    key: Array | None
    """None if the network drops nothing"""
    index_B: Array
    """each image's index in the global batch"""
    column_N: Array
    """the columns on this device"""
    units_axis: str | None = None
    """the mesh axis along which the units of these columns are cut"""
    parts: int = 1
    """into how many parts"""

    def of_units(self, images: int, place: columns.Place) -> "Draw":
        """The same masks for the fully connected layers, which may see the images of all devices."""
        if place.units_axis is None:
            return self
        return self._replace(index_B=jnp.arange(images), units_axis=place.units_axis, parts=place.parts)


def everything(width: int) -> int:
    """The part of a layer's width on a device that holds all columns."""
    return width


class Convolution(nn.Module):
    """Kernels and biases. Input and kernels are cut into `blind` parts along their last axes, which do not mix."""

    layer: Conv
    share: Callable[[int], int] = everything
    blind: int = 1

    @nn.compact
    def __call__(self, x_BHWC: Array) -> Array:
        layer, width = self.layer, self.share(self.layer.kernels)
        shape = (layer.size, layer.size, x_BHWC.shape[-1] // self.blind, width)
        kernel = self.param("kernel", kernels(layer), shape, jnp.float32)
        bias = self.param("bias", biases(layer), (width,), jnp.float32)
        convolve = partial(products.convolve, stride=layer.stride, padding=layer.padding)
        return add_bias(layers.in_columns(convolve, self.blind, x_BHWC, kernel), bias.reshape(1, 1, 1, -1))


class Local(nn.Module):
    """A convolution with separate kernels and biases at every position (cuda-convnet's `local`)."""

    layer: Conv

    @nn.compact
    def __call__(self, x_BHWC: Array) -> Array:
        layer, (H, W, C) = self.layer, x_BHWC.shape[1:]
        h, w = ((side + sum(layer.padding) - layer.size) // layer.stride + 1 for side in (H, W))
        shape = (h, w, C * layer.size**2, layer.kernels)
        kernel = self.param("kernel", kernels(layer), shape, jnp.float32)
        bias = self.param("bias", biases(layer), (h, w, layer.kernels), jnp.float32)
        x_BHWC = products.convolve_locally(x_BHWC, kernel, layer.size, layer.stride, layer.padding)
        return add_bias(x_BHWC, bias[None])


class FullyConnected(nn.Module):
    """Units that read every position of every map; `blind` as in Convolution."""

    layer: Dense
    share: Callable[[int], int] = everything
    blind: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width, seen = self.share(self.layer.units), math.prod(x.shape[1:]) // self.blind
        kernel = self.param("kernel", kernels(self.layer), (seen, width), jnp.float32)
        bias = self.param("bias", biases(self.layer), (width,), jnp.float32)

        def read(x: Array, kernel: Array) -> Array:
            return products.fully_connect(x.reshape(x.shape[0], -1), kernel)

        return add_bias(layers.in_columns(read, self.blind, x, kernel), bias.reshape(1, -1))


class Normalisation(nn.Module):
    """Batch normalisation (Ioffe and Szegedy 2015). The statistics are those of the global batch, on every layout.

    The running averages of mean and variance are parameters, whose gradient is what an update subtracts from them.
    """

    norm: BatchNorm
    train: bool
    images_axis: str | None
    """the mesh axis along which the images lie"""

    @nn.compact
    def __call__(self, x_BHWC: Array) -> Array:
        C, wide_BHWC = x_BHWC.shape[-1], x_BHWC.astype(jnp.promote_types(x_BHWC.dtype, jnp.float32))
        scale_C = self.param("scale", nn.initializers.ones, (C,))
        bias_C = self.param("bias", nn.initializers.zeros, (C,))
        mean_C = self.param("running_mean", nn.initializers.zeros, (C,))
        variance_C = self.param("running_variance", nn.initializers.ones, (C,))
        if self.train:
            moments = jnp.stack([wide_BHWC.mean((0, 1, 2)), jnp.square(wide_BHWC).mean((0, 1, 2))])
            (now_C, square_C), devices = columns.mean_over_images(moments, self.images_axis)
            kept = 1 - (1 - self.norm.momentum) / devices  # the devices' gradients are summed
            mean_C = layers.tracked(mean_C, now_C, kept)
            variance_C = layers.tracked(variance_C, jnp.maximum(square_C - jnp.square(now_C), 0), kept)
        factor_C = scale_C * jax.lax.rsqrt(variance_C + self.norm.epsilon)
        y_BHWC = (wide_BHWC - mean_C.reshape(1, 1, 1, C)) * factor_C.reshape(1, 1, 1, C) + bias_C.reshape(1, 1, 1, C)
        return y_BHWC.astype(x_BHWC.dtype)


class Logits(nn.Module):
    """The last layer, cut on its inputs: each column computes a part of the logits, and one sum adds the parts.

    In 2012 column 1 sent its fc7 to GPU 0, which held all of fc8 (layers-145.cfg). The numbers are the same.
    """

    layer: Dense
    place: columns.Place

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (math.prod(x.shape[1:]), self.layer.units)
        kernel = self.param("kernel", kernels(self.layer), shape, jnp.float32)
        bias = self.param("bias", biases(self.layer), (self.layer.units,), jnp.float32)
        # With bfloat16 inputs the sums are float32, including the sum over the devices.
        wide = jnp.promote_types(x.dtype, jnp.float32)
        part = jnp.matmul(x.reshape(x.shape[0], -1), kernel, preferred_element_type=wide)
        return columns.sum_columns(part, self.place) + bias.reshape(1, -1)


def add_bias(x: Array, bias: Array) -> Array:
    """x + bias in x's type. The sum is float32, so that the bias's gradient, itself a long sum, is float32 too."""
    return (x + bias).astype(x.dtype)


def kernels(layer: Conv | Dense) -> nn.initializers.Initializer:
    """N(0, std^2)."""

    def draw(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
        # Drawn as a matrix: XLA compiles the same numbers up to ten times as long in a shape with many short axes.
        matrix = (math.prod(shape[:-1]), shape[-1])
        return nn.initializers.normal(layer.std)(key, matrix, dtype).reshape(shape)

    return draw


def biases(layer: Conv | Dense) -> nn.initializers.Initializer:
    """N(bias, bias_std^2)."""

    def draw(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
        if layer.bias_std == 0:
            return jnp.full(shape, layer.bias, dtype)
        return layer.bias + layer.bias_std * jax.random.normal(key, shape, dtype)

    return draw


def follow(
    name: str,
    then: Sequence[Follow],
    x: Array,
    acts: Activations,
    *,
    activation: Callable[[Array], Array],
    pool: Callable[[str, Array], Array],
    norm: Callable[[Array], Array] | None,
    map_norm: Callable[[Array], Array] | None = None,
    batch_norm: Callable[[str, Array], Array] | None = None,
) -> Array:
    """What follows a convolution, in the preset's order. An activation belongs to the layer before it."""
    acts[name] = x
    for step in then:
        if step == "activation":
            x = activation(x)
        elif step == "pool":
            name = name.replace(name[:4], "pool")
            with jax.named_scope(name):
                x = pool(name, x)
        elif step == "batch_norm" and batch_norm:
            name = name.replace(name[:4], "norm")
            x = batch_norm(name, x)
        elif normalise := norm if step == "norm" else map_norm:
            name = name.replace(name[:4], "norm")
            with jax.named_scope(name):
                x = normalise(x)
        acts[name] = x
    return x


def dropout(x: Array, rate: float, scale: Literal["test", "train"], draw: Draw | None, salt: int) -> Array:
    """Section 4.2: in training, units are zeroed with probability `rate`; at test time all units are scaled down.

    x: [B, .., C]. `salt` is a number of the layer's own, so that no two layers draw the same mask.
    """
    keep = 1 - rate
    if draw is None:
        return x * keep if scale == "test" else x
    B, *space, C = x.shape
    N = len(draw.column_N)
    assert draw.key is not None
    width = C * draw.parts // N  # of a whole column
    units = math.prod(space) * width
    mask = layers.dropout_mask(jax.random.fold_in(draw.key, salt), draw.index_B, draw.column_N, units, rate)
    mask = jnp.moveaxis(mask.reshape(B, N, *space, width), 1, -2).reshape(B, *space, N * width)
    mask = columns.own_part(mask, draw.parts, draw.units_axis)
    return jnp.where(mask, x if scale == "test" else x / keep, 0)
