"""Columns over devices: the mesh, the layout of every parameter, and every collective of the package.

The network is written from the point of view of a device that holds some of the columns. Every parameter has the
paper's full shape. Its last axis holds column 0's kernels, then column 1's, and cutting that axis over the mesh axis
`column` gives each device its own. Only the logits' layer is cut on its inputs instead.

That is the layout `columns`. The layout `hybrid` is the one weird trick of Krizhevsky 2014: the convolutions stay as
they are, and the units of the fully connected layers are cut over the axis `data`, too, for the images of all devices.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.config import BadInput, CifarConfig, Model, ModelConfig, TutorialConfig

DATA, COLUMN = "data", "column"

Layout = Literal["columns", "hybrid"]

LOGITS = {network.logits for network in (ModelConfig, TutorialConfig, CifarConfig)}
FULLY_CONNECTED = {"fc6", "fc7"}


@dataclass(frozen=True)
class Place:
    """What one device holds of a network, and along which mesh axes the rest lies."""

    columns: int
    """the network's columns on this device"""
    axis: str | None = None
    """the axis of the other columns; None: all of them are here"""
    units_axis: str | None = None
    """the axis along which these columns' fully connected units are cut; None: all of them are here"""
    parts: int = 1
    """the number of devices along `units_axis`"""
    images_axis: str | None = None
    """the axis along which the images of the convolutions lie; None: all of them are here"""


def make_mesh(data: int = 1, columns: int = 1) -> Mesh:
    """A mesh of data x columns devices: (1, 2) is 2012, (N, 2) is 2012 times N, (N, 1) plain data parallelism.

    Its axes are called "data" and "column". Raises BadInput where there are fewer devices.

    >>> dict(alexnet.make_mesh(data=1, columns=2).shape)
    {'data': 1, 'column': 2}
    """
    needed, there = data * columns, jax.devices()
    if min(data, columns) < 1:
        raise BadInput(f"a mesh of {data},{columns} is empty; both sizes are at least 1")
    if len(there) < needed:
        more = f"set JAX_NUM_CPU_DEVICES={needed}" if there[0].platform == "cpu" else "run on a machine with more"
        raise BadInput(
            f"a mesh of {data},{columns} needs {needed} devices and there are {len(there)} ({there[0].platform}); "
            f"{more}, or give a smaller mesh"
        )
    # Sizes by position and explicit axis types, as both changed between the JAX versions we support.
    mesh = jax.make_mesh((data, columns), (DATA, COLUMN), axis_types=(AxisType.Auto,) * 2, devices=there[:needed])
    if len({device.process_index for device in mesh.devices.flat}) < jax.process_count():
        raise BadInput(
            f"a mesh of {data},{columns} leaves some of the {jax.process_count()} processes without a device; "
            f"give a mesh of {len(there)} devices, or start fewer processes"
        )
    return mesh


def suitable_mesh(columns: int, layout: Layout = "columns") -> Mesh:
    """The default mesh for a network with this many columns: two columns get a pair of devices, if there is one.

    The layout hybrid takes all devices along the data axis.
    """
    devices, on_cpus = jax.device_count(), jax.default_backend() == "cpu" and jax.process_count() == 1
    if layout == "hybrid":
        return make_mesh(devices, 1)
    if columns == 2 and devices > 1:
        return make_mesh(1 if on_cpus else devices // 2, 2)
    return make_mesh(devices if columns == 1 and not on_cpus else 1, 1)


def place(model: Model, mesh: Mesh | AbstractMesh | None, layout: Layout = "columns") -> Place:
    """What one device holds of a network. Raises BadInput if its columns or units do not divide evenly."""
    if layout not in get_args(Layout):
        raise BadInput(f"layout is {layout!r}; give one of {', '.join(get_args(Layout))}")
    if layout == "hybrid" and not isinstance(model, ModelConfig):
        raise BadInput(f"the layout hybrid is for networks with fc6 and fc7, not for {model.network}; leave it out")
    if mesh is None or mesh.size == 1:
        return Place(model.columns)
    data, devices = mesh.shape[DATA], mesh.shape[COLUMN]
    if model.columns % devices:
        raise BadInput(
            f"{model.columns} column(s) cannot be laid over {devices} devices; give a column axis that divides "
            f"{model.columns}, as in --mesh 1,1"
        )
    here = model.columns // devices
    images_axis = DATA if data > 1 else None
    if units_axes(mesh, layout) == COLUMN or not isinstance(model, ModelConfig):
        return Place(here, COLUMN, images_axis=images_axis)
    for name in sorted(FULLY_CONNECTED):
        units = getattr(model, name).units
        if units % mesh.size:
            raise BadInput(
                f"{name} has {units} units, which {mesh.size} devices cannot share equally; "
                f"give a --mesh whose size divides {units}, or --layout columns"
            )
    if not FULLY_CONNECTED.issubset(model.meet) and data % here and here % data:
        raise BadInput(
            f"with the layout hybrid, {here} columns whose fully connected layers do not meet cannot be cut by a data "
            f"axis of {data}; give a data axis that is a divisor or a multiple of {here}, or --layout columns"
        )
    return Place(here, COLUMN, DATA, data, images_axis)


def units_axes(mesh: Mesh | AbstractMesh, layout: Layout) -> str | tuple[str, str]:
    """The mesh axes that cut the units of the fully connected layers: column by column, then part by part."""
    return (COLUMN, DATA) if layout == "hybrid" and mesh.shape[DATA] > 1 else COLUMN


def specs(tree: Any, units: str | tuple[str, str] = COLUMN) -> Any:
    """The whole parallel plan: a PartitionSpec for every array of a tree whose paths name the layers.

    units: the mesh axes that cut the units of the fully connected layers.
    """

    def spec(path: tuple[Any, ...], array: Any) -> P:
        names = [getattr(part, "key", getattr(part, "name", None)) for part in path]
        if LOGITS.intersection(names):  # kernel[units_column, classes], bias[classes]
            return P(units) if array.ndim == 2 else P()
        cut = units if FULLY_CONNECTED.intersection(names) else COLUMN
        return P(*[None] * (array.ndim - 1), cut) if array.ndim else P()  # kernel[.., in, out_column]

    return jax.tree.map_with_path(spec, tree)


def shardings(tree: Any, mesh: Mesh, layout: Layout = "columns") -> Any:
    """`specs` as shardings on a mesh. A mesh of one device cuts nothing, and a step returns its state that way."""
    plan = specs(tree, units_axes(mesh, layout))
    if mesh.size == 1:
        plan = jax.tree.map(lambda _: P(), plan, is_leaf=lambda x: isinstance(x, P))
    return jax.tree.map(partial(NamedSharding, mesh), plan, is_leaf=lambda x: isinstance(x, P))


def everywhere(tree: Any, mesh: Mesh) -> Any:
    """The layout of a network without columns: a full copy of every array on every device."""
    return jax.tree.map(lambda _: NamedSharding(mesh, P()), tree)


def activation_specs(names: Any, logits: str, mesh: Mesh | None, layout: Layout) -> dict[str, P]:
    """The layout of every activation: their shapes by name -> PartitionSpecs. Channels are cut like kernels."""
    units = P(None, (COLUMN, DATA)) if mesh is not None and units_axes(mesh, layout) != COLUMN else P(DATA, COLUMN)

    def spec(name: str, ndim: int) -> P:
        if name == logits:
            return P(DATA)
        return units if name in FULLY_CONNECTED else P(DATA, *[None] * (ndim - 2), COLUMN)

    return {name: spec(name, act.ndim) for name, act in names.items()}


def like(tree: Any, params: Any, layout: Any, mesh: Mesh) -> Any:
    """The layout of an optimiser's state: an array with a parameter's name and shape is laid out like that parameter.

    params: arrays or their shapes; layout: their shardings. Every device gets a full copy of every other array.
    """
    flat, places = jax.tree.leaves_with_path(params), jax.tree.leaves(layout)
    lies = {(path, array.shape): place for (path, array), place in zip(flat, places, strict=True)}

    def place(path: tuple[Any, ...], array: Any) -> NamedSharding:
        ends = (path[start:] for start in range(len(path)))
        found = (lies[end, array.shape] for end in ends if (end, array.shape) in lies)
        return next(found, NamedSharding(mesh, P()))

    return jax.tree.map_with_path(place, tree)


def shard(params: Any, model: Model, mesh: Mesh, *, layout: Layout = "columns") -> Any:
    """Lays parameters over a mesh: each column's kernels on the device that holds the column.

    params: as `init` returns them, in full shapes. layout: "hybrid" also cuts fc6, fc7 and fc8 over the data axis.
    Raises BadInput if the columns or units do not divide evenly.

    >>> model, mesh = alexnet.preset("fashion").model, alexnet.make_mesh(data=1, columns=2)
    >>> params = alexnet.shard(alexnet.init(model, jax.random.key(0)), model, mesh)
    >>> [part.data.shape for part in params["conv2"]["kernel"].addressable_shards]
    [(3, 3, 16, 32), (3, 3, 16, 32)]
    """
    place(model, mesh, layout)
    return lay(params, shardings(params, mesh, layout))


def lay(tree: Any, places: Any) -> Any:
    """Lays whole arrays over devices, of which other processes, which have the same arrays, may hold some."""
    if jax.process_count() > 1:  # JAX lays only arrays of the host on other processes' devices
        tree = jax.tree.map(np.asarray, tree)
    return jax.device_put(tree, places)


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh, size: int) -> dict[str, Array]:
    """Lays this process's rows of a global batch of `size` examples over the data axis."""
    layout = NamedSharding(mesh, P(DATA))
    return {
        name: jax.make_array_from_process_local_data(layout, part, (size, *part.shape[1:]))
        for name, part in batch.items()
    }


def rows(mesh: Mesh, size: int) -> slice:
    """The rows of a global batch that this process's devices need. Raises BadInput if the batch does not divide."""
    if size % mesh.shape[DATA]:
        raise BadInput(
            f"a batch of {size} cannot be shared by a data axis of {mesh.shape[DATA]}; "
            f"give a batch that it divides, or another mesh"
        )
    parts = NamedSharding(mesh, P(DATA)).addressable_devices_indices_map((size,)).values()
    bounds = {part[0].indices(size)[:2] for part in parts if part}
    first, last = min(start for start, _ in bounds), max(stop for _, stop in bounds)
    if sum(stop - start for start, stop in bounds) < last - first:
        raise BadInput("the images of this process's devices are not neighbours in a batch; give another mesh")
    return slice(first, last)


def largest(number: int, mesh: Mesh) -> Array:
    """The largest of every process's numbers, in every process. All processes must call it."""
    everyone = NamedSharding(mesh, P((DATA, COLUMN)))
    own = np.full(len(everyone.addressable_devices), number, np.int32)
    return _largest(mesh)(jax.make_array_from_process_local_data(everyone, own, (mesh.size,)))


@cache
def _largest(mesh: Mesh) -> Callable[[Array], Array]:
    return jax.jit(jnp.max, out_shardings=NamedSharding(mesh, P()))


def on_columns(
    per_device: Callable[..., Any], mesh: Mesh, columns: int, out_specs: Any, layout: Layout = "columns"
) -> Callable[..., Any]:
    """f(params, images_BHWC, key) that runs per_device(params, images, key, index_B, column_N) on every device.

    `index_B` are the positions of the device's images in the global batch, `column_N` the columns it holds.
    """

    # On a single device nothing is sharded or summed. Declaring it sharded would copy every gradient.
    shared = mesh.shape[DATA] > 1
    batch = P(DATA) if shared else P()
    plan_of = partial(specs, units=units_axes(mesh, layout))

    def own(params: Any, images: Array, *rest: Any) -> Any:
        # A layer with a custom gradient must know that its inputs differ between devices. This sends nothing forward.
        # Backward, this is where devices sum the gradients of the parameters they share.
        if shared:
            params = jax.tree.map(vary, params, plan_of(params))
        return per_device(params, lax.pcast(images, COLUMN, to="varying"), *rest)

    def vary(param: Array, spec: P) -> Array:
        cut = any(DATA in axes for axes in spec if isinstance(axes, tuple))
        return param if cut else lax.pcast(param, DATA, to="varying")

    def whole(params: Any, images_BHWC: Array, key: Array | None) -> Any:
        index_B, column_N = jnp.arange(len(images_BHWC)), jnp.arange(columns)
        in_specs = (plan_of(params), batch, P(), batch, P(COLUMN))
        mapped = jax.shard_map(own, mesh=mesh, in_specs=in_specs, out_specs=out_specs)
        return mapped(params, images_BHWC, key, index_B, column_N)

    return whole


def on_images(per_device: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """f(images_BHWC, *rest) that runs per_device(images, index_B, *rest) on every device's images."""

    def whole(images_BHWC: Array, *rest: Any) -> Any:
        index_B = jnp.arange(len(images_BHWC))
        in_specs = (P(DATA), P(DATA)) + (P(),) * len(rest)
        return jax.shard_map(per_device, mesh=mesh, in_specs=in_specs, out_specs=P(DATA))(images_BHWC, index_B, *rest)

    return whole


def exchange(x: Array, axis: str | None) -> Array:
    """Gives every device the channels of all devices along an axis: [.., C_device] -> [.., C].

    The axis of the columns makes all columns meet. On one device this is the identity.

    Its gradient is a reduce-scatter, which sends as many bytes back (cuda-convnet's layer.cu, fpropNext and bprop).
    """
    if axis is None:
        return x
    with jax.named_scope("exchange"):
        # Gather along a new first axis and move it afterwards. If we gathered along the last axis, XLA would compute
        # the layers before it with the channels outermost: pool2 took ten times as long on a CPU.
        x_NC = jnp.moveaxis(lax.all_gather(x, axis), 0, -2)
        return x_NC.reshape(*x.shape[:-1], -1)


def sum_columns(x: Array, place: Place) -> Array:
    """The sum of the columns' parts, on every column. The identity on one device.

    With the layout hybrid the parts of the units are summed, too, and every device keeps the rows of its own images.
    """
    if place.axis is None:
        return x
    with jax.named_scope("sum_columns"):
        if place.units_axis:
            x = lax.psum_scatter(x, place.units_axis, tiled=True)
        return lax.psum(x, place.axis)


def mean_over_images(x: Array, axis: str | None) -> tuple[Array, int]:
    """The mean of x over the devices that hold the batch's images, and the number of these devices."""
    if axis is None:
        return x, 1
    with jax.named_scope("mean_over_images"):
        return lax.pmean(x, axis), lax.axis_size(axis)


def all_images(x: Array, axis: str | None) -> Array:
    """The images of all devices along an axis, in the order of the global batch: [b, ..] -> [B, ..].

    Its gradient is a reduce-scatter, which returns to each device the gradients of its own images.
    """
    if axis is None:
        return x
    with jax.named_scope("all_images"):
        return lax.all_gather(x, axis, tiled=True)


def own_part(x: Array, parts: int, axis: str | None) -> Array:
    """One of `parts` equal parts of the last axis, cut in order over the devices along a mesh axis.

    Where there are fewer parts than devices, neighbours have the same. Nothing is sent.
    """
    if axis is None or parts == 1:
        return x
    width = x.shape[-1] // parts
    first = lax.axis_index(axis) * parts // lax.axis_size(axis) * width
    return lax.dynamic_slice_in_dim(x, first, width, axis=-1)


def across_columns(layer: Callable[[Array], Array], x: Array, before: int, after: int, axis: str | None) -> Array:
    """layer(x) over the maps of all columns, where each map reads the `before` maps before it and the `after` next.

    On a mesh each column receives the maps at its neighbours' borders, and zeros at the outer ends. On one device
    nothing is sent. Raises BadInput if a device holds fewer maps than the layer reads.
    """
    if axis is None:
        return layer(x)
    width, devices = x.shape[-1], lax.axis_size(axis)
    if width < max(before, after):
        reach = max(before, after)
        raise BadInput(
            f"a device holds {width} maps, and LRN across columns reads {reach} of its neighbour's; give --mesh 1,1"
        )
    with jax.named_scope("across_columns"):
        up, down = [(i, i + 1) for i in range(devices - 1)], [(i + 1, i) for i in range(devices - 1)]
        left = lax.ppermute(lax.slice_in_dim(x, width - before, width, axis=-1), axis, up)
        right = lax.ppermute(lax.slice_in_dim(x, 0, after, axis=-1), axis, down)
        return lax.slice_in_dim(layer(jnp.concatenate([left, x, right], axis=-1)), before, before + width, axis=-1)
