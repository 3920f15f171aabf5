"""python -m alexnet_jax.communication [CONFIG]: what a training step sends between devices, and what it would cost."""

import importlib.util
import json
import math
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from rich.console import Console
from rich.table import Table

from alexnet_jax import command_line
from alexnet_jax.config import BadInput, Config
from alexnet_jax.data.augment import Statistics
from alexnet_jax.data.views import augmentation
from alexnet_jax.networks import columns, compiled, drawing, functional, links, traffic
from alexnet_jax.training.fit import layout_of
from alexnet_jax.training.optimiser import rates
from alexnet_jax.training.progress import Progress
from alexnet_jax.training.step import make_train_step, new_state


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
    """compile for these TPU chips, such as v5e:16x16, which need not be here (install alexnet_jax[topology])"""
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


def topology_mesh(name: str, devices: traffic.Devices) -> Mesh:
    """A mesh of the chips of a TPU topology such as v5e:16x16. Raises BadInput."""
    if not importlib.util.find_spec("libtpu"):
        raise BadInput("--topology needs libtpu; install alexnet_jax[topology]")
    # Otherwise libtpu asks the cloud which chips are here, and complains that there are none.
    for variable, value in {"SKIP_MDS_QUERY": "1", "WORKER_HOSTNAMES": "localhost", "ACCELERATOR_TYPE": name}.items():
        os.environ.setdefault(f"TPU_{variable}", value)
    try:
        chips = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except Exception as error:  # libtpu raises several kinds
        raise BadInput(f"libtpu has no topology {name}: {str(error).splitlines()[0][:200]}") from error
    if len(chips) != devices.number:
        raise BadInput(
            f"{name} has {len(chips)} chips, and {devices.options} uses {devices.number}; give another --mesh"
        )
    return Mesh(np.array(chips).reshape(devices.data, devices.columns), (columns.DATA, columns.COLUMN))


def chips_of(topology: str) -> int:
    """The number of chips in the name of a topology. Raises BadInput."""
    sizes = topology.partition(":")[2].split("x")
    if not all(size.isdigit() and int(size) for size in sizes):
        raise BadInput(f"--topology {topology} is not a kind of TPU and its chips, as in --topology v5e:16x16")
    return math.prod(map(int, sizes))


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
        chips = chips_of(options.topology) if options.topology else max(2, count)
        return traffic.Devices(max(1, chips // count), count, options.layout)
    return traffic.Devices(*command_line.sizes_of(options.mesh), options.layout)


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
        mesh = topology_mesh(options.topology, devices)
        jax.config.update("jax_enable_compilation_cache", False)  # it cannot be read without the chips
    step = compiled_step(config, devices, batch, mesh)
    program = step.as_text()
    # XLA for CPUs sends bfloat16 as float32, and XLA for TPUs sends as bfloat16 what is multiplied as such.
    types = config.precision != "bfloat16" and not options.topology
    pairs = compiled.compare(planned, compiled.read(program, functional.activation_shapes(config.model)), types)
    sent = [pair.found for pair in pairs if pair.found]
    named = [replace(pair.planned, item=pair.found.item) for pair in pairs if pair.planned and pair.found]
    differ = [pair for pair in pairs if pair.differ]
    per_image = traffic.bytes_per_image(named, devices, batch)
    found = links.alternatives(config, devices.number, batch)
    arithmetic = links.arithmetic_seconds(config, batch, devices.number, options.flops)
    if options.plot:
        drawing.draw_times(options.plot, config, batch // devices.number, options.link, link, options.flops)
    if options.figure:
        drawing.draw_network(options.figure, config, devices, batch)
    if options.json:
        others = [
            {
                "name": one.name,
                "mesh": [one.devices.data, one.devices.columns],
                "layout": one.devices.layout,
                "bytes": one.bytes,
                "link_seconds": link.seconds(one.sent),
                "arithmetic_seconds": arithmetic,
            }
            for one in found
        ]
        print(
            json.dumps(
                {
                    "preset": config.preset,
                    "mesh": [devices.data, devices.columns],
                    "layout": devices.layout,
                    "batch": batch,
                    "collectives": [as_json(one) for one in named],
                    "bytes_per_image": per_image,
                    "unexpected": [
                        as_json(pair.one) | {"only_in": "plan" if pair.planned else "program"} for pair in differ
                    ],
                    "alternatives": others,
                }
            )
        )
    else:
        console = Console(highlight=False, soft_wrap=True)
        console.width = max(console.width, 120)
        console.print(
            f"{config.preset}, {devices.options}, batch {batch}, a training step compiled by XLA for "
            f"{options.topology or 'CPUs'}:\n"
        )
        console.print(table(pairs))
        if any(pair.planned and pair.found and pair.planned.bytes != pair.found.bytes for pair in pairs):
            console.print("\nWhere the bytes differ, XLA sends another type: for CPUs float32, for TPUs bfloat16.")
        console.print(
            f"\n{sum(one.bytes for one in sent):,} bytes leave each device in a step. For one image all devices "
            f"together send {per_image:,.0f} bytes of activations and their gradients.\n"
        )
        if options.topology:
            memory, kinds = step.memory_analysis(), compiled.forms(program)
            console.print(
                f"Memory of a chip: {memory.argument_size_in_bytes / 1e9:.2f} GB of arguments, "
                f"{memory.temp_size_in_bytes / 1e9:.2f} GB of temporaries.\n"
                f"Collectives in the program: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}.\n"
            )
        console.print(alternatives_table(found, link, arithmetic))
        rate = f"{link.gigabytes_per_second:g} GB/s, {link.microseconds:g} us a message"
        console.print(f"\nLink: {rate}. Arithmetic: {options.flops:.3g} operations a second and device.")
        for answer in answers(config, devices, batch, link):
            console.print(answer)
    for pair in differ:
        print(f"{pair.one}: {'missing in the program' if pair.planned else 'unexpected'}", file=sys.stderr)
    if differ:
        sys.exit(1)


if __name__ == "__main__":
    command_line.main(communication)
