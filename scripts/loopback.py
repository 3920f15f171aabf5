"""The model of `networks/links.py` held against reality: two processes on one machine, over its loopback.

python scripts/loopback.py

Each process holds one column. First the loopback's latency and rate are measured with all-gathers of several sizes.
Then a gradient is timed twice, in turns: with real exchanges, and with exchanges that copy the process's own part, so
that nothing is sent. Predicted is the second time plus the model's time for the messages.
"""

import argparse
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.config import Config, preset
from alexnet_jax.networks import alexnet, columns, functional, links, traffic
from alexnet_jax.networks.modules import Draw

CASES = (("fashion", (16, 64, 256)), ("cuda_convnet", (2, 8, 32)))
SIZES = (1 << 10, 1 << 16, 1 << 20, 1 << 22, 1 << 23)
ROUNDS = 9


def seconds(call: Callable[[], Any]) -> float:
    """Time of one call that both processes begin together."""
    multihost_utils.sync_global_devices("begin")
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begin


def measure_link(mesh: Mesh) -> links.Link:
    """Latency and rate, by the straight line through the median times of all-gathers."""

    @jax.jit
    @partial(jax.shard_map, mesh=mesh, in_specs=P(columns.COLUMN), out_specs=P(columns.COLUMN))
    def gather(x: Array) -> Array:
        return lax.all_gather(x, columns.COLUMN, tiled=True)[: len(x)]

    times = []
    for size in SIZES:
        own = np.ones(size // 4, np.float32)
        x = jax.make_array_from_process_local_data(NamedSharding(mesh, P(columns.COLUMN)), own, (size // 2,))
        call = partial(gather, x)
        seconds(call)
        times.append(median(seconds(call) for _ in range(3 * ROUNDS)))
    rate, latency = np.polyfit(SIZES, times, 1, w=1 / np.array(times))  # relative errors count
    return links.Link(1 / rate / 1e9, max(0.0, latency) * 1e6)


def gradient(forward: Callable[..., Array], batch: int, classes: int) -> Callable[..., Any]:
    """The compiled gradient of the loss."""
    labels = np.arange(batch) % classes

    def loss(params: Any, images: Array, key: Array) -> Array:
        logits = forward(params, images, key)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(labels)[:, None], axis=1).mean()

    return jax.jit(jax.grad(loss))


def times(config: Config, batch: int, mesh: Mesh) -> tuple[float, float]:
    """(with exchanges, without sending) in seconds, medians."""
    model, key = config.model, jax.random.key(0)
    images = np.random.default_rng(0).normal(0, 60, (batch, model.image_size, model.image_size, model.channels))
    images = images.astype(np.float32)
    everywhere = NamedSharding(mesh, P())

    shapes = jax.eval_shape(partial(functional.init, model), key)
    params = jax.jit(partial(functional.init, model), out_shardings=columns.shardings(shapes, mesh))(key)
    forward = functional.forward(model, mesh)
    whole = gradient(lambda params, images, key: forward(params, images, key=key, train=True), batch, model.classes)
    there = jax.make_array_from_process_local_data(everywhere, images)
    with_exchanges = partial(whole, params, there, key)
    seconds(with_exchanges)

    real = columns.exchange
    columns.exchange = lambda x, axis: jnp.concatenate([x, x], axis=-1) if axis else x
    try:
        # The axis is only a name here: it makes the exchanges copy.
        network = alexnet.AlexNet(model, columns.Place(1, "column"))
        sum_columns, columns.sum_columns = columns.sum_columns, lambda x, place: x
        own = jax.tree.map(lambda x: jnp.asarray(x.addressable_shards[0].data), params)

        def alone(params: Any, images: Array, key: Array) -> Array:
            draw = Draw(key, jnp.arange(batch), jnp.arange(1))
            return network.apply({"params": params}, images, draw)["fc8"]

        without = partial(gradient(alone, batch, model.classes), own, jnp.asarray(images), key)
        seconds(without)
    finally:
        columns.exchange, columns.sum_columns = real, sum_columns
    rounds = [(seconds(with_exchanges), seconds(without)) for _ in range(ROUNDS)]
    both, single = zip(*rounds, strict=True)
    return median(both), median(single)


def process(rank: int, port: int) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 1)
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
    mesh = columns.make_mesh(1, 2)
    link = measure_link(mesh)
    say: Callable[..., None] = print if rank == 0 else lambda *_, **__: None
    say(f"The loopback: {link.gigabytes_per_second:.2f} GB/s, {link.microseconds:.0f} us a message\n")
    say("| network | batch | bytes | without sending, ms | predicted, ms | measured, ms | measured / predicted |")
    say("|---|---|---|---|---|---|---|")
    for name, batches in CASES:
        config = preset(name)
        for batch in batches:
            sent = [one for one in traffic.plan(config, traffic.Devices(1, 2), batch) if one.direction != "metrics"]
            both, single = times(config, batch, mesh)
            predicted = single + link.seconds(sent)
            size = sum(one.bytes for one in sent)
            figures = " | ".join(f"{1e3 * seconds:.1f}" for seconds in (single, predicted, both))
            say(f"| `{name}` | {batch} | {size:,} | {figures} | {both / predicted:.2f} |", flush=True)


def main() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__]
    both = [subprocess.Popen([*command, str(rank), str(port)]) for rank in (0, 1)]
    try:
        sys.exit(max(one.wait(timeout=1200) for one in both))
    finally:
        for one in both:
            one.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("process", type=int, nargs="*", help=argparse.SUPPRESS)  # a process's own rank and port
    given = parser.parse_args().process
    process(*given) if given else main()
