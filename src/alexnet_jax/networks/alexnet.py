"""AlexNet (section 3.5), written once for a device that holds some of its columns.

B batch  H,W height,width  C channels  K classes  N columns
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from alexnet_jax.config import BadInput, Conv, Dense, ModelConfig
from alexnet_jax.networks import columns, layers

Params = dict[str, dict[str, Array]]
Activations = dict[str, Array]


class Draw(NamedTuple):
    """What dropout masks are functions of."""

    key: Array
    picture_B: Array
    """each picture's index in the global batch"""
    column_N: Array
    """the columns held here"""


class AlexNet(nn.Module):
    """The network from the point of view of a device that holds `here` of its columns.

    The other columns are on the mesh axis `axis`; None means that all are here. Returns every activation by its
    name, the logits as "fc8". On a mesh the channels are this device's.
    """

    config: ModelConfig
    here: int
    axis: str | None = None

    @nn.compact
    def __call__(self, images_BHWC: Array, draw: Draw | None = None) -> Activations:
        net, acts = self.config, Activations()
        seen = 1 if net.columns_meet else self.here

        def meet(x: Array) -> Array:
            return columns.exchange(x, self.axis) if net.columns_meet else x

        def conv(name: str, x: Array, blind: int) -> Array:
            x = Convolution(getattr(net, name), self.share, blind, name=name)(x)
            return follow(net, name, x, self.here, acts)

        def dense(name: str, x: Array, blind: int) -> Array:
            x = FullyConnected(getattr(net, name), self.share, blind, name=name)(x)
            acts[name] = layers.ACTIVATIONS[net.activation](x)
            return dropout(net, name, acts[name], draw)

        x = conv("conv1", images_BHWC, blind=1)  # every column reads the whole picture
        x = conv("conv2", x, blind=self.here)
        x = conv("conv3", meet(x), blind=seen)
        x = conv("conv4", x, blind=self.here)
        x = conv("conv5", x, blind=self.here)
        x = dense("fc6", meet(x), blind=seen)
        x = dense("fc7", meet(x), blind=seen)
        acts["fc8"] = Logits(net.fc8, self.axis, name="fc8")(x)
        return acts

    def share(self, width: int) -> int:
        """How much of a layer's width is here."""
        return width * self.here // self.config.columns


class Convolution(nn.Module):
    """Kernels and biases; the input's and the kernels' last axes fall into `blind` parts that see only each other."""

    layer: Conv
    share: Callable[[int], int]
    blind: int

    @nn.compact
    def __call__(self, x_BHWC: Array) -> Array:
        layer, width = self.layer, self.share(self.layer.kernels)
        shape = (layer.size, layer.size, x_BHWC.shape[-1] // self.blind, width)
        kernel = self.param("kernel", nn.initializers.normal(layer.std), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.constant(layer.bias), (width,), jnp.float32)
        convolve = partial(layers.convolve, stride=layer.stride, padding=layer.padding)
        return layers.in_columns(convolve, self.blind, x_BHWC, kernel) + bias.reshape(1, 1, 1, -1)


class FullyConnected(nn.Module):
    """Units that read every position of every map they see; `blind` as in Convolution."""

    layer: Dense
    share: Callable[[int], int]
    blind: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width, seen = self.share(self.layer.units), math.prod(x.shape[1:]) // self.blind
        kernel = self.param("kernel", nn.initializers.normal(self.layer.std), (seen, width), jnp.float32)
        bias = self.param("bias", nn.initializers.constant(self.layer.bias), (width,), jnp.float32)

        def read(x: Array, kernel: Array) -> Array:
            return x.reshape(len(x), -1) @ kernel

        return layers.in_columns(read, self.blind, x, kernel) + bias.reshape(1, -1)


class Logits(nn.Module):
    """fc8, cut on its inputs: each column adds its part, and one sum makes the logits.

    In 2012 column 1 sent its fc7 to GPU 0, which held all of fc8 (layers-145.cfg); the numbers are the same.
    """

    layer: Dense
    axis: str | None

    @nn.compact
    def __call__(self, x_BC: Array) -> Array:
        shape = (x_BC.shape[-1], self.layer.units)
        kernel = self.param("kernel", nn.initializers.normal(self.layer.std), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.constant(self.layer.bias), (self.layer.units,), jnp.float32)
        return columns.sum_columns(x_BC @ kernel, self.axis) + bias.reshape(1, -1)


def follow(net: ModelConfig, name: str, x: Array, here: int, acts: Activations) -> Array:
    """What stands behind a convolution, in the preset's order; an activation belongs to the layer before it."""
    acts[name] = x
    for step in getattr(net, name).then:
        if step == "activation":
            x = layers.ACTIVATIONS[net.activation](x)
        elif step == "pool":
            name, x = name.replace(name[:4], "pool"), layers.pool(x, net.pool)
        elif net.norm:
            name = name.replace(name[:4], "norm")
            x = layers.lrn(x, net.lrn, here) if step == "norm" else layers.map_norm(x, net.map_norm)
        acts[name] = x
    return x


def dropout(net: ModelConfig, name: str, x_BC: Array, draw: Draw | None) -> Array:
    """Section 4.2: half the units are silent in training, and all are halved at test time."""
    keep = 1 - net.dropout
    if draw is None:
        return x_BC * keep if net.dropout_scale == "test" else x_BC
    key = jax.random.fold_in(draw.key, int(name[2:]))
    units = x_BC.shape[-1] // len(draw.column_N)
    mask_BC = layers.dropout_mask(key, draw.picture_B, draw.column_N, units, net.dropout)
    return jnp.where(mask_BC, x_BC if net.dropout_scale == "test" else x_BC / keep, 0)


# ------------------------------------------------------------------------------------------- the functional API


class Forward(Protocol):
    """(params, images [B, H, W, C] float, mean subtracted) -> logits [B, K]; compiled."""

    def __call__(self, params: Params, images: Array, *, key: Array | None = None, train: bool = False) -> Array: ...


def init(model: ModelConfig, key: Array) -> Params:
    """Fresh parameters in the paper's whole shapes: {"conv1": {"kernel", "bias"}, ..., "fc8": ...}, float32."""
    picture = jnp.zeros((1, model.image_size, model.image_size, model.channels), jnp.float32)
    return jax.jit(lambda key: AlexNet(model, model.columns).init(key, picture)["params"])(key)


def forward(model: ModelConfig, mesh: Mesh | None = None) -> Forward:
    """The network as a pure function from parameters and images to logits, on one device or over a mesh.

    images: [B, image_size, image_size, channels] float, scale 0 to 255, mean already subtracted. `train=True` drops
    units, and needs `key`. The numbers are the same on every layout, up to the order of sums.
    Differentiable in reverse mode.
    Raises BadInput where the images do not fit the network, or the batch or the columns the mesh.
    """
    return jax.jit(_apply(model, mesh, lambda acts: acts["fc8"], P(columns.DATA)), static_argnames="train")


def features(model: ModelConfig, mesh: Mesh | None = None) -> Callable[[Params, Array], Activations]:
    """Every layer's activation at test time, by the paper's name, whole channels, column 0 first.

    conv1 to conv5 with bias (and activation, where it follows at once), norm1, norm2, pool1, pool2, pool5 [B, H, W, C];
    fc6, fc7 after their activation [B, C]; fc8, the logits [B, K]. Images as for `forward`.
    """
    specs = {
        name: P(columns.DATA, *[None] * (act.ndim - 2), columns.COLUMN)
        for name, act in activation_shapes(model).items()
    }
    apply = _apply(model, mesh, lambda acts: acts, specs | {"fc8": P(columns.DATA)})
    return jax.jit(lambda params, images: apply(params, images))


class Row(NamedTuple):
    """A layer of the network, all columns together."""

    layer: str
    reads: str
    kernel: tuple[int, ...]
    leaves: tuple[int, ...]
    parameters: int
    multiply_adds: int
    """forward, one picture"""


def describe(model: ModelConfig) -> list[Row]:
    """The eight layers, from the shapes they really have."""
    params = jax.eval_shape(partial(init, model), jax.random.key(0))
    acts = activation_shapes(model)
    everything = ("conv3", "fc6", "fc7", "fc8") if model.columns_meet else ("fc8",)
    rows = []
    for layer in params:
        kernel, leaves = params[layer]["kernel"].shape, acts[layer].shape[1:]
        positions = math.prod(leaves[:-1])
        reads = "the picture" if layer == "conv1" else "all columns" if layer in everything else "its own column"
        parameters = sum(math.prod(array.shape) for array in params[layer].values())
        rows.append(Row(layer, reads, kernel, leaves, parameters, positions * math.prod(kernel)))
    return rows


def activation_shapes(model: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Of every activation, for one picture."""
    picture = jnp.zeros((1, model.image_size, model.image_size, model.channels), jnp.float32)
    network = AlexNet(model, model.columns)
    return jax.eval_shape(lambda key: network.init_with_output(key, picture)[0], jax.random.key(0))


def _apply(
    model: ModelConfig, mesh: Mesh | None, select: Callable[[Activations], object], out_specs: object
) -> Callable[..., object]:
    here = columns.columns_here(model, mesh)
    network = AlexNet(model, here, None if mesh is None else columns.COLUMN)

    def apply(params: Params, images: Array, *, key: Array | None = None, train: bool = False) -> object:
        expected = (model.image_size, model.image_size, model.channels)
        if images.ndim != 4 or images.shape[1:] != expected:
            raise BadInput(f"images are {images.shape}; the network takes [B, {', '.join(map(str, expected))}]")
        if train and model.dropout and key is None:
            raise BadInput("train=True drops units and needs a key: forward(params, images, key=key, train=True)")

        def per_device(params: Params, images: Array, key: Array | None, picture_B: Array, column_N: Array) -> object:
            draw = Draw(key, picture_B, column_N) if train and key is not None and model.dropout else None
            return select(network.apply({"params": params}, images, draw))

        if mesh is None:
            return per_device(params, images, key, jnp.arange(len(images)), jnp.arange(model.columns))
        columns.rows(mesh, len(images))
        return columns.on_columns(per_device, mesh, model.columns, out_specs)(params, images, key)

    return apply
