"""python -m alexnet_jax.communication [CONFIG]: what a training step sends between devices, and what it would cost."""

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from rich.console import Console
from rich.table import Table

from alexnet_jax import command_line
from alexnet_jax.config import BadInput, Config
from alexnet_jax.data.augment import Statistics
from alexnet_jax.data.views import augmentation
from alexnet_jax.networks import columns, compiled, functional, links, traffic
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
    json: bool = False
    """print one JSON object"""


def compiled_step(config: Config, devices: traffic.Devices, batch: int) -> str:
    """The text of the compiled training step, for as many devices as there are in this process."""
    model, mesh = config.model, columns.make_mesh(devices.data, devices.columns)
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
    rate = rates(config.optim, 0.0, Progress())
    return step.lower(state, images, labels, jax.random.key(0), rate, 1.0).compile().as_text()  # type: ignore[attr-defined]


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


def plot(path: Path, config: Config, each: int, name: str, link: links.Link, flops: float) -> None:
    """Time on the link over the number of devices, beside the time of the arithmetic."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise BadInput("--plot needs Matplotlib; install alexnet_jax[plots]") from None
    ink = "#808080"  # readable on dark pages and on light ones
    style = {"text.color": ink, "axes.edgecolor": ink, "axes.labelcolor": ink, "xtick.color": ink, "ytick.color": ink}
    with mpl.rc_context(style):
        figure = Figure(figsize=(7, 4))
        axes = figure.subplots()
        for (layout, times), marker in zip(links.scaling(config, each, link.seconds).items(), "osD^v", strict=False):
            axes.plot(list(times), [1e3 * seconds for seconds in times.values()], marker=marker, label=layout)
        arithmetic = 1e3 * links.arithmetic_seconds(config, each, 1, flops)
        axes.axhline(arithmetic, color=ink, linestyle="--", label="arithmetic")
        axes.set(xlabel=f"devices, {each} images on each", ylabel="ms a step on the link", yscale="log")
        axes.set_xscale("log", base=2)
        ticks = [2**power for power in range(1, 11)]
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.set_title(f"{config.preset}, {name}: {link.gigabytes_per_second:g} GB/s, {link.microseconds:g} us")
        axes.grid(color=ink, alpha=0.25)
        axes.legend(frameon=False)
        figure.savefig(path, bbox_inches="tight", transparent=True, dpi=150)


def devices_of(options: Options, config: Config) -> traffic.Devices:
    """The mesh and layout that the options ask for. Raises BadInput."""
    if options.mesh == "auto":
        count = config.model.columns if options.layout == "columns" else 1
        return traffic.Devices(*((1, count) if count > 1 else (2, 1)), options.layout)
    return traffic.Devices(*command_line.sizes_of(options.mesh), options.layout)


def communication() -> None:
    options = command_line.parse(Options)
    config = command_line.named_config(options.config)
    devices, link = devices_of(options, config), links.link(options.link)
    batch = options.batch or config.optim.batch
    if batch < 1 or options.flops <= 0:
        raise BadInput("--batch is at least 1 and --flops more than 0")
    jax.config.update("jax_platforms", "cpu")  # as many devices as the mesh asks for, on any machine
    command_line.make_cpu_devices(f"{devices.data},{devices.columns}")
    planned = traffic.plan(config, devices, batch)
    layers = functional.activation_shapes(config.model)
    pairs = compiled.compare(planned, compiled.read(compiled_step(config, devices, batch), layers))
    sent = [pair.found for pair in pairs if pair.found]
    named = [pair.one for pair in pairs if not pair.differ]
    differ = [pair for pair in pairs if pair.differ]
    per_image = traffic.bytes_per_image(named, devices, batch)
    found = links.alternatives(config, devices.number, batch)
    arithmetic = links.arithmetic_seconds(config, batch, devices.number, options.flops)
    if options.plot:
        plot(options.plot, config, batch // devices.number, options.link, link, options.flops)
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
        console.print(f"{config.preset}, {devices.options}, batch {batch}, a training step compiled by XLA for CPUs:\n")
        console.print(table(pairs))
        if any(pair.planned and pair.found and pair.planned.bytes != pair.found.bytes for pair in pairs):
            console.print("\nXLA for CPUs sends bfloat16 as float32. An accelerator sends the bytes by arithmetic.")
        console.print(
            f"\n{sum(one.bytes for one in sent):,} bytes leave each device in a step. For one image all devices "
            f"together send {per_image:,.0f} bytes of activations and their gradients.\n"
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
