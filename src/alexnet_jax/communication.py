"""python -m alexnet_jax.communication [CONFIG]: what a training step sends between devices, and what it would cost."""

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from rich.console import Console
from rich.table import Table

from alexnet_jax import command_line
from alexnet_jax.config import BadInput, Config
from alexnet_jax.data.augment import Statistics
from alexnet_jax.data.views import augmentation
from alexnet_jax.networks import columns, compiled, drawing, functional, links, topology, traffic
from alexnet_jax.training.fit import layout_of
from alexnet_jax.training.optimiser import rates
from alexnet_jax.training.progress import Progress
from alexnet_jax.training.step import make_train_step, new_state

CPUS = "CPUs"


@dataclass(frozen=True)
class Options:
    """What a training step sends between devices: read from the compiled program, and computed.

    Every array that devices exchange or sum is listed with the bytes that leave a device, from the program and by
    arithmetic. If they differ, the exit code is 1. Then follow the other layouts of the network on as many devices.
    """

    config: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[CONFIG]")] = "cuda_convnet"
    """a preset, a run directory, or a Python file that defines CONFIG"""
    mesh: Annotated[str, tyro.conf.arg(metavar="D,C")] = "auto"
    """devices for images x devices for columns; by default the columns on a device each, or two devices"""
    layout: columns.Layout = "columns"
    """hybrid: the devices for images also share the units of the fully connected layers"""
    batch: int | None = None
    """images of all devices together; by default the config's"""
    link: str = "2012"
    """2012 (PCI Express 2), nvlink, ethernet100, ethernet10, or GB/s,microseconds"""
    flops: float = 1.5e12
    """operations a second of one device; by default a GTX 580's peak"""
    plot: Path | None = None
    """draw the time of each layout for up to 1,024 devices into this file, .svg or .png"""
    topology: str | None = None
    """compile for accelerators that need not be here: v5e:16x16 (install alexnet_jax[topology]) or h100:8 (cuda13)"""
    figure: Path | None = None
    """draw the network on its devices into this file, .svg or .png"""
    json: bool = False
    """print one JSON object"""


def compiled_step(config: Config, devices: traffic.Devices, batch: int, mesh: Mesh | None = None) -> Any:
    """The compiled training step, for this process's devices or for a mesh of others, which need not exist."""
    model, mesh = config.model, mesh or columns.make_mesh(devices.data, devices.columns)
    forward = functional.forward(model, mesh, config.precision, layout=devices.layout)
    # The images' own size changes nothing that is sent, so they are as large as the crops.
    image_shape = (model.image_size, model.image_size, model.channels)
    C = model.channels
    statistics = Statistics(np.zeros(image_shape, np.float32), np.zeros(C, np.float32), np.eye(C, dtype=np.float32))
    step = make_train_step(forward, augmentation(config, statistics, mesh), config.optim)
    shapes = jax.eval_shape(lambda key: new_state(functional.init(model, key), config.optim), jax.random.key(0))
    places = layout_of(shapes, mesh, devices.layout, own=False)
    state = jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), shapes, places)
    rows = NamedSharding(mesh, P(columns.DATA))
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.uint8, sharding=rows)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=rows)
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=NamedSharding(mesh, P()))
    rate = rates(config.optim, 0.0, Progress())
    return step.lower(state, images, labels, key, rate, 1.0).compile()  # type: ignore[attr-defined]


def as_json(one: traffic.Collective) -> dict[str, Any]:
    return {
        "layer": one.layer,
        "kind": one.kind,
        "direction": one.direction,
        "shape": list(one.shape),
        "bytes": one.bytes,
    }


def table(pairs: list[compiled.Pair]) -> Table:
    """What is sent, array by array; the sums of metrics in one line."""
    total = sum(pair.found.bytes for pair in pairs if pair.found)
    shown = Table("layer", "collective", "direction", "shape", box=None)
    for heading in ("devices", "bytes", "by arithmetic", "share"):
        shown.add_column(heading, justify="right")

    def row(one: traffic.Collective, shape: str, found: int | None, planned: int | None) -> None:
        both = [f"{count:,}" if count is not None else "none" for count in (found, planned)]
        share = f"{(found or 0) / total:.1%}" if total else ""
        shown.add_row(one.layer or "?", one.kind, one.direction, shape, str(one.devices), *both, share)

    metrics: dict[int, list[traffic.Collective]] = {}
    for pair in pairs:
        one = pair.one
        if one.direction == "metrics" and not pair.differ:
            metrics.setdefault(one.devices, []).append(one)
        else:
            both = [side.bytes if side else None for side in (pair.found, pair.planned)]
            row(one, "x".join(map(str, one.shape)) or "1", *both)
    for sums in metrics.values():
        size = sum(one.bytes for one in sums)
        names = ", ".join(dict.fromkeys(one.layer for one in sums))
        row(traffic.Collective(names, "all-reduce", "metrics", (), sums[0].devices), f"{len(sums)} numbers", size, size)
    return shown


def alternatives_table(found: list[links.Alternative], link: links.Link, arithmetic: float) -> Table:
    shown = Table("layout", "options", box=None)
    for heading in ("bytes a device and step", "ms on the link", "ms of arithmetic"):
        shown.add_column(heading, justify="right")
    for one in found:
        times = (f"{1e3 * seconds:.3g}" for seconds in (link.seconds(one.sent), arithmetic))
        shown.add_row(one.name, one.devices.options, f"{one.bytes:,}", *times)
    return shown


def answers(config: Config, devices: traffic.Devices, batch: int, link: links.Link) -> Iterable[str]:
    """From which batch on columns cost more than data parallelism, and on how many devices that loses to hybrid."""
    until = links.columns_pay_until(config, devices.number, link.seconds)
    if until is not None:
        yield (
            f"On {devices.number} devices the columns take less time on this link than data parallelism "
            + (f"up to a batch of {until:,}." if until else "with no batch.")
        )
    each = batch // devices.number
    times = links.scaling(config, each, link.seconds)
    if "hybrid" in times:
        better = [number for number, seconds in times["hybrid"].items() if seconds < times["data"][number]]
        yield (
            f"With {each} images a device, of 2, 4, 8 .. 1,024 devices hybrid takes less time than data parallelism on "
            f"{', '.join(map(str, better)) or 'none'}."
        )


def devices_of(options: Options, config: Config) -> traffic.Devices:
    """The mesh and layout that the options ask for. Raises BadInput."""
    if options.mesh == "auto":
        count = config.model.columns if options.layout == "columns" else 1
        chips = topology.chips(options.topology) if options.topology else max(2, count)
        return traffic.Devices(max(1, chips // count), count, options.layout)
    return traffic.Devices(*command_line.sizes_of(options.mesh), options.layout)


@dataclass(frozen=True)
class Report:
    """What one training step sends."""

    config: Config
    devices: traffic.Devices
    batch: int
    place: str
    """what the step was compiled for"""
    step: Any
    """the compiled step"""
    pairs: list[compiled.Pair]
    link: links.Link
    flops: float

    @property
    def named(self) -> list[traffic.Collective]:
        """What the program sends, with the plan's names."""
        return [replace(pair.planned, item=pair.found.item) for pair in self.pairs if pair.planned and pair.found]

    @property
    def differ(self) -> list[compiled.Pair]:
        return [pair for pair in self.pairs if pair.differ]

    @property
    def bytes_per_image(self) -> float:
        return traffic.bytes_per_image(self.named, self.devices, self.batch)

    @property
    def alternatives(self) -> list[links.Alternative]:
        return links.alternatives(self.config, self.devices.number, self.batch)

    @property
    def arithmetic(self) -> float:
        """Seconds of arithmetic in a step."""
        return links.arithmetic_seconds(self.config, self.batch, self.devices.number, self.flops)

    def as_json(self) -> dict[str, Any]:
        return {
            "preset": self.config.preset,
            "mesh": [self.devices.data, self.devices.columns],
            "layout": self.devices.layout,
            "batch": self.batch,
            "collectives": [as_json(one) for one in self.named],
            "bytes_per_image": self.bytes_per_image,
            "unexpected": [
                as_json(pair.one) | {"only_in": "plan" if pair.planned else "program"} for pair in self.differ
            ],
            "alternatives": [
                {
                    "name": one.name,
                    "mesh": [one.devices.data, one.devices.columns],
                    "layout": one.devices.layout,
                    "bytes": one.bytes,
                    "link_seconds": self.link.seconds(one.sent),
                    "arithmetic_seconds": self.arithmetic,
                }
                for one in self.alternatives
            ],
        }

    def print(self, console: Console) -> None:
        console.print(
            f"{self.config.preset}, {self.devices.options}, batch {self.batch}, a training step compiled by XLA for "
            f"{self.place}:\n"
        )
        console.print(table(self.pairs))
        if any(pair.planned and pair.found and pair.planned.bytes != pair.found.bytes for pair in self.pairs):
            console.print("\nWhere bytes differ, XLA sends another type: for CPUs float32, for accelerators bfloat16.")
        leaving = sum(pair.found.bytes for pair in self.pairs if pair.found)
        console.print(
            f"\n{leaving:,} bytes leave each device in a step. For one image all devices together send "
            f"{self.bytes_per_image:,.0f} bytes of activations and their gradients.\n"
        )
        if self.place != CPUS:
            memory, kinds = self.step.memory_analysis(), compiled.forms(self.step.as_text())
            console.print(
                f"Memory of a device: {memory.argument_size_in_bytes / 1e9:.2f} GB of arguments, "
                f"{memory.temp_size_in_bytes / 1e9:.2f} GB of temporaries.\n"
                f"Collectives in the program: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}.\n"
            )
        console.print(alternatives_table(self.alternatives, self.link, self.arithmetic))
        rate = f"{self.link.gigabytes_per_second:g} GB/s, {self.link.microseconds:g} us a message"
        console.print(f"\nLink: {rate}. Arithmetic: {self.flops:.3g} operations a second and device.")
        for answer in answers(self.config, self.devices, self.batch, self.link):
            console.print(answer)


def communication() -> None:
    options = command_line.parse(Options)
    config = command_line.named_config(options.config)
    if "forward" in dict(config.own):
        raise BadInput(f"{options.config} is a run of a network that is not in this package")
    devices, link = devices_of(options, config), links.link(options.link)
    batch = options.batch or config.optim.batch
    if batch < 1 or options.flops <= 0:
        raise BadInput("--batch is at least 1 and --flops more than 0")
    jax.config.update("jax_platforms", "cpu")  # as many devices as the mesh asks for, on any machine
    command_line.make_cpu_devices("1,1" if options.topology else f"{devices.data},{devices.columns}")
    planned = traffic.plan(config, devices, batch)
    mesh = None
    if options.topology:
        mesh = topology.mesh(options.topology, devices)
        jax.config.update("jax_enable_compilation_cache", False)  # it cannot be read without the devices
    step = compiled_step(config, devices, batch, mesh)
    found = compiled.read(step.as_text(), functional.activation_shapes(config.model))
    # XLA for CPUs sends bfloat16 as float32, and XLA for accelerators sends as bfloat16 what is multiplied as such.
    types = config.precision != "bfloat16" and not options.topology
    pairs = compiled.compare(planned, found, types)
    report = Report(config, devices, batch, options.topology or CPUS, step, pairs, link, options.flops)
    if options.plot:
        drawing.draw_times(options.plot, config, batch // devices.number, options.link, link, options.flops)
    if options.figure:
        drawing.draw_network(options.figure, config, devices, batch)
    if options.json:
        print(json.dumps(report.as_json()))
    else:
        console = Console(highlight=False, soft_wrap=True)
        console.width = max(console.width, 120)
        report.print(console)
    for pair in report.differ:
        print(f"{pair.one}: {'missing in the program' if pair.planned else 'unexpected'}", file=sys.stderr)
    if report.differ:
        sys.exit(1)


if __name__ == "__main__":
    command_line.main(communication)
