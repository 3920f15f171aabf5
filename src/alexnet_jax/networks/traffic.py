"""What a training step sends between devices, by arithmetic: every collective, its shape and its bytes.

`networks/compiled.py` reads the same from a compiled program, and the two must agree.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import jax
from jax.sharding import AbstractMesh, NamedSharding

from alexnet_jax.config import BadInput, Config, Model, ModelConfig
from alexnet_jax.networks import functional
from alexnet_jax.networks.columns import COLUMN, DATA, Layout, place, specs, units_axes

Kind = Literal["all-gather", "reduce-scatter", "all-reduce", "collective-permute"]
Direction = Literal["forward", "backward", "gradients", "metrics"]


@dataclass(frozen=True)
class Collective:
    """One array that devices exchange or sum in a step."""

    layer: str
    """the layer that reads it; for metrics, what is summed"""
    kind: Kind
    direction: Direction
    shape: tuple[int, ...]
    """what one device gives (all-gather, collective-permute), sums (all-reduce) or keeps (reduce-scatter)"""
    devices: int
    """the devices that take part, of which there may be several groups"""
    item: int = 4
    """bytes of one element"""

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape)) or "one number"
        return f"{self.layer or 'unnamed'}, {self.direction}: {self.kind} of {shape} over {self.devices} devices"

    @property
    def bytes(self) -> int:
        """Bytes that leave a device, if the devices stand in a ring; of a collective-permute the mean over them."""
        own, others = math.prod(self.shape) * self.item, self.devices - 1
        if self.kind in ("all-gather", "reduce-scatter"):
            return own * others
        if self.kind == "all-reduce":
            return -(-2 * own * others // self.devices)
        return own * others // self.devices  # the device at the end has nobody to send to

    @property
    def steps(self) -> int:
        """How many messages follow one another."""
        return {"all-reduce": 2 * (self.devices - 1), "collective-permute": 1}.get(self.kind, self.devices - 1)


@dataclass(frozen=True)
class Devices:
    """How a network lies on devices: the sizes of the mesh, and the layout."""

    data: int
    columns: int
    layout: Layout = "columns"

    @property
    def number(self) -> int:
        return self.data * self.columns

    @property
    def hybrid(self) -> bool:
        return self.layout == "hybrid" and self.data > 1

    @property
    def mesh(self) -> AbstractMesh:
        """For it, no such devices need exist."""
        return AbstractMesh((self.data, self.columns), (DATA, COLUMN))

    @property
    def options(self) -> str:
        """What a command is given for it."""
        return f"--mesh {self.data},{self.columns}" + (" --layout hybrid" if self.layout == "hybrid" else "")


def plan(config: Config, devices: Devices, batch: int) -> list[Collective]:
    """Every collective of a training step with this global batch, in the order of the network.

    Raises BadInput if the network or the batch cannot be divided among the devices.
    """
    if min(devices.data, devices.columns) < 1:
        raise BadInput(f"a mesh of {devices.data},{devices.columns} is empty; both sizes are at least 1")
    place(config.model, devices.mesh, devices.layout)
    if batch % devices.data:
        raise BadInput(f"a batch of {batch} cannot be shared by a data axis of {devices.data}")
    found = [*_activations(config, devices, batch), *_gradients(config, devices)]
    return [collective for collective in found if collective.devices > 1]


def as_text(config: Config, devices: Devices) -> str:
    """The plan for the config's own batch, a line for each array: layer, collective, direction, shape."""
    lines, numbers = [f"{devices.options}, batch {config.optim.batch}"], 0
    for one in plan(config, devices, config.optim.batch):
        if one.direction == "metrics":
            numbers += 1
        else:
            lines.append(f"{one.layer} {one.kind} {one.direction} {'x'.join(map(str, one.shape))}")
    return "\n".join([*lines, f"metrics all-reduce {numbers} numbers", ""])


def bytes_per_image(sent: list[Collective], devices: Devices, batch: int) -> float:
    """Bytes of activations and of their gradients that all devices together send for one image."""
    return sum(one.bytes for one in sent if one.direction in ("forward", "backward")) * devices.number / batch


def _activations(config: Config, devices: Devices, batch: int) -> Iterator[Collective]:
    model = config.model
    if not isinstance(model, ModelConfig):
        return
    item = 2 if config.precision == "bfloat16" else 4
    acts = {name: act.shape[1:] for name, act in _shapes(model)[1].items()}
    before = dict(zip(list(acts)[1:], acts, strict=False))
    rows = batch // devices.data

    def both_ways(layer: str, shape: tuple[int, ...], among: int, item: int = item) -> Iterator[Collective]:
        yield Collective(layer, "all-gather", "forward", shape, among, item)
        yield Collective(layer, "reduce-scatter", "backward", shape, among, item)

    def of_device(name: str, parts: int) -> tuple[int, ...]:
        *space, channels = acts[name]
        return (*space, channels // parts)

    for layer in (*model.convs, "fc6", "fc7"):
        if layer == "fc6" and devices.hybrid:  # the maps of all images
            yield from both_ways(layer, (rows, *of_device(before[layer], devices.columns)), devices.data)
            rows = batch
        if layer == "fc7" and devices.hybrid:  # the other parts of these columns' units
            yield from both_ways(layer, (rows, *of_device("fc6", devices.number)), devices.data)
        if layer in model.meet:
            yield from both_ways(layer, (rows, *of_device(before[layer], devices.columns)), devices.columns)
        if model.norm and model.lrn_across_columns and "norm" in getattr(getattr(model, layer), "then", ()):
            norm = layer.replace("conv", "norm")
            for maps in model.lrn.reach:  # from the neighbours on both sides
                shape = (rows, *acts[norm][:-1], maps)
                for direction in ("forward", "backward"):
                    yield Collective(norm, "collective-permute", direction, shape, devices.columns, item)
        if "batch_norm" in getattr(getattr(model, layer), "then", ()):  # means and squares, always float32
            norm = layer.replace("conv", "norm")
            maps = acts[norm][-1] // devices.columns
            yield Collective(norm, "all-reduce", "forward", (2, maps), devices.data)
            yield from 2 * [Collective(norm, "all-reduce", "backward", (maps,), devices.data)]
    logits = (batch // devices.data, model.classes)  # always float32
    if devices.hybrid:
        yield Collective("fc8", "reduce-scatter", "forward", logits, devices.data)
        yield Collective("fc8", "all-gather", "backward", logits, devices.data)
    yield Collective("fc8", "all-reduce", "forward", logits, devices.columns)


def _gradients(config: Config, devices: Devices) -> Iterator[Collective]:
    """The sums of gradients over the data axis, and those of loss, error and norms."""
    params, acts = _shapes(config.model)
    cut = specs(params, units_axes(devices.mesh, devices.layout))
    norms: list[Collective] = []
    # Of a parameter and its gradient. Optax computes each twice, the second time with 1 in the place of zeros.
    trust = {"lars": 2, "lamb": 4}.get(config.optim.rule, 0)
    summed = ("update_norm", *["trust_ratio"] * trust)
    for layer in (name for name in acts if name in params):
        for name in sorted(params[layer], key=lambda name: name != "kernel"):
            whole, axes = params[layer][name].shape, _axes(cut[layer][name])
            held = NamedSharding(devices.mesh, cut[layer][name]).shard_shape(whole)
            if DATA not in axes:
                yield Collective(layer, "all-reduce", "gradients", held, devices.data)
            parts = math.prod(devices.mesh.shape[axis] for axis in axes)
            norms += [Collective(norm, "all-reduce", "metrics", (), parts) for norm in summed]
    for metric in ("loss", "top1_error"):
        yield Collective(metric, "all-reduce", "metrics", (), devices.data)
    yield from norms


@cache
def _shapes(model: Model) -> tuple[Any, dict[str, jax.ShapeDtypeStruct]]:
    """Those of the parameters, and of every activation for one image."""
    params = jax.eval_shape(partial(functional.init, model), jax.random.key(0))
    return params, functional.activation_shapes(model)


def _axes(spec: Any) -> set[str]:
    """The mesh axes that a PartitionSpec names."""
    return {axis for part in spec if part for axis in ((part,) if isinstance(part, str) else part)}
