"""The functional API: every network as pure functions of parameters and images, on one device or on a mesh."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from alexnet_jax.config import BadInput, CifarConfig, Model, ModelConfig, Precision, TutorialConfig, check_precision
from alexnet_jax.networks import columns
from alexnet_jax.networks.alexnet import AlexNet
from alexnet_jax.networks.cifar import Cifar
from alexnet_jax.networks.columns import Layout
from alexnet_jax.networks.modules import Activations, Draw
from alexnet_jax.networks.tutorial import Tutorial

Params = dict[str, dict[str, Array]]
Norm = Callable[[Array], Array]

PRODUCTS = {"float32": "highest", "tf32": "high", "bfloat16": "default"}
"""JAX's names for how exactly an accelerator multiplies numbers of the type in which the layers compute"""

DETERMINISTIC = "--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0"
"""XLA's flags for the same bits every time on GPUs. Without them it chooses kernels by speed, and some of them add up
in an order that varies."""

NETWORKS: dict[type, Any] = {ModelConfig: AlexNet, TutorialConfig: Tutorial, CifarConfig: Cifar}


class Forward(Protocol):
    """(params, images [B, H, W, C] float, mean subtracted) -> logits [B, K]; compiled."""

    def __call__(self, params: Params, images: Array, *, key: Array | None = None, train: bool = False) -> Array: ...


def init(model: Model, key: Array) -> Params:
    """Fresh parameters: {"conv1": {"kernel", "bias"}, .. "fc8": ..}, float32, in the paper's full shapes.

    A kernel is [height, width, in, out] or [in, out]; its last axis is column 0's kernels, then column 1's, and `in` is
    what one column sees of the layer before. Drawn from N(0, std^2) around the config's initial biases (section 5).

    >>> params = alexnet.init(alexnet.preset("cuda_convnet").model, jax.random.key(0))
    >>> params["conv2"]["kernel"].shape
    (5, 5, 48, 256)
    """
    return jax.jit(lambda key: _whole(model).init(key, _image(model))["params"])(key)


def forward(
    model: Model,
    mesh: Mesh | None = None,
    precision: Precision = "float32",
    *,
    layout: Layout = "columns",
    norm: Norm | None = None,
) -> Forward:
    """The network as a compiled pure function: (params, images, *, key=None, train=False) -> logits [B, K].

    images: [B, image_size, image_size, channels] float, as the preset's data prepares them: pixels from 0 to 255, mean
    subtracted, times `data.scale`. `train=True` drops units (section 4.2) and needs `key`, from which it draws the
    masks. Differentiable in reverse mode.

    mesh: where the columns lie (`make_mesh`); None is one device. layout: with "columns" the data axis divides the
    images; with "hybrid" (Krizhevsky 2014) it divides the images of the convolutions and the units of fc6, fc7 and fc8.
    Every mesh and layout gives the same numbers, up to floating-point summation order. precision: with "bfloat16" the
    layers compute in that type; parameters, their gradients and the logits stay float32. norm: a function [B, H, W, C]
    -> [B, H, W, C] of one column's maps that replaces LRN.

    Raises BadInput if the columns or units do not divide over the mesh, and when called with images of another shape or
    without a key that it needs.

    >>> model = alexnet.preset("fashion").model
    >>> params = alexnet.init(model, jax.random.key(0))
    >>> alexnet.forward(model)(params, jnp.zeros((4, 28, 28, 1))).shape
    (4, 10)
    """
    apply = _apply(model, mesh, precision, layout, norm, lambda acts: acts[model.logits], P(columns.DATA))
    return jax.jit(apply, static_argnames="train")


def features(
    model: Model,
    mesh: Mesh | None = None,
    precision: Precision = "float32",
    *,
    layout: Layout = "columns",
    norm: Norm | None = None,
) -> Callable[[Params, Array], Activations]:
    """A compiled pure function (params, images) -> {"conv1": .., "fc8": ..}: every layer's activation at test time.

    The names are the paper's, and the channels those of all columns, column 0 first: conv1 to conv5 with bias (and
    activation, if it follows directly), norm1, norm2, pool1, pool2, pool5 [B, H, W, C]; fc6 and fc7 after their
    activation [B, C]; fc8, the logits [B, K]. Other networks use their own layers' names and have the logits under
    `model.logits`. Takes the same arguments as `forward` and raises BadInput for the same reasons.

    >>> model = alexnet.preset("fashion").model
    >>> params = alexnet.init(model, jax.random.key(0))
    >>> alexnet.features(model)(params, jnp.zeros((4, 28, 28, 1)))["pool5"].shape
    (4, 1, 1, 128)
    """
    specs = columns.activation_specs(activation_shapes(model), model.logits, mesh, layout)
    apply = _apply(model, mesh, precision, layout, norm, lambda acts: acts, specs)
    return jax.jit(lambda params, images: apply(params, images))


class Row(NamedTuple):
    """One layer of the network, all columns together."""

    layer: str
    reads: str
    kernel: tuple[int, ...]
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int
    """of the forward pass, for one image"""


def describe(model: Model) -> list[Row]:
    """The layers, in order, read off the shapes of the real arrays."""
    params = jax.eval_shape(partial(init, model), jax.random.key(0))
    acts = activation_shapes(model)
    meeting = model.meet if isinstance(model, ModelConfig) else ()
    rows = []
    for layer in (name for name in acts if name in params):
        kernel = params[layer]["kernel"].shape if "kernel" in params[layer] else ()  # a batch norm has none
        output = acts[layer].shape[1:]
        # A local layer's kernel already has an entry for each position.
        positions = 1 if layer.startswith("local") else math.prod(output[:-1])
        multiply_adds = positions * math.prod(kernel) if kernel else 0
        if layer == "conv1":
            reads = "the image"
        elif model.columns == 1:
            reads = "everything"
        else:
            reads = "all columns" if layer in (*meeting, model.logits) else "its own column"
        parameters = sum(math.prod(array.shape) for array in params[layer].values())
        rows.append(Row(layer, reads, kernel, output, parameters, multiply_adds))
    return rows


def multiply_adds(model: Model, train: bool) -> int:
    """Of one image, forward or in a training step.

    A step adds the gradients by kernels and by inputs, each as much as the layer; the first layer has only the former.
    """
    first, *others = (row.multiply_adds for row in describe(model))
    return 2 * first + 3 * sum(others) if train else first + sum(others)


def activation_shapes(model: Model) -> dict[str, jax.ShapeDtypeStruct]:
    """The shape of every activation for one image, in the network's order."""
    order: list[str] = []

    def activations(key: Array) -> Activations:
        acts = _whole(model).init_with_output(key, _image(model))[0]
        order.extend(acts)  # eval_shape sorts its dictionaries
        return acts

    shapes = jax.eval_shape(activations, jax.random.key(0))
    return {name: shapes[name] for name in order}


def _to_bfloat16(params: Params) -> Params:
    """Kernels in bfloat16, biases unchanged. Gradients pass back through the cast as float32."""
    return {
        layer: own | {name: array.astype(jnp.bfloat16) for name, array in own.items() if name == "kernel"}
        for layer, own in params.items()
    }


def _whole(model: Model) -> Any:
    """The network with all its columns on one device."""
    return NETWORKS[type(model)](model, columns.place(model, None))


def _image(model: Model) -> Array:
    return jnp.zeros((1, model.image_size, model.image_size, model.channels), jnp.float32)


def _apply(
    model: Model,
    mesh: Mesh | None,
    precision: Precision,
    layout: Layout,
    norm: Norm | None,
    select: Callable[[Activations], object],
    out_specs: object,
) -> Callable[..., object]:
    check_precision(precision)
    place = columns.place(model, mesh, layout)
    if mesh is not None and mesh.size == 1:
        mesh = None  # shard_map on one device makes copies, a tenth of a step of `cuda_convnet` on a CPU
    network = NETWORKS[type(model)](model, place, norm)
    drops = getattr(model, "dropout", 0.0) > 0

    def apply(params: Params, images: Array, *, key: Array | None = None, train: bool = False) -> object:
        expected = (model.image_size, model.image_size, model.channels)
        if images.ndim != 4 or images.shape[1:] != expected:
            raise BadInput(f"images are {images.shape}; the network takes [B, {', '.join(map(str, expected))}]")
        if train and drops and key is None:
            raise BadInput("train=True drops units and needs a key: forward(params, images, key=key, train=True)")

        def per_device(params: Params, images: Array, key: Array | None, index_B: Array, column_N: Array) -> object:
            draw = Draw(key if drops else None, index_B, column_N) if train else None
            if precision == "bfloat16":
                params, images = _to_bfloat16(params), images.astype(jnp.bfloat16)
            with jax.default_matmul_precision(PRODUCTS[precision]):
                return select(network.apply({"params": params}, images, draw))

        if mesh is None:
            return per_device(params, images, key, jnp.arange(images.shape[0]), jnp.arange(model.columns))
        columns.rows(mesh, len(images))
        return columns.on_columns(per_device, mesh, model.columns, out_specs, layout)(params, images, key)

    return apply
