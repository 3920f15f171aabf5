"""Where the time of a training step goes, layer by layer, as JAX's profiler sees it.

python benchmarks/profile_step.py [PRESET] [--batch 32]

Shares are of the total time of the compiled program's operations, forward and backward. On a CPU an operation that
runs on several threads counts only once, so the share of single-threaded operations looks larger than it is.
"""

import argparse

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import alexnet_jax as alexnet
from alexnet_jax import command_line
from alexnet_jax.networks import functional
from alexnet_jax.training.optimiser import rates
from alexnet_jax.training.progress import Progress
from alexnet_jax.training.step import make_train_step, new_state
from contestants.layer_times import layer_times

STEPS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", nargs="?", default="cuda_convnet")
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    command_line.keep_memory()
    config = alexnet.preset(options.preset)
    model, rng = config.model, np.random.default_rng(0)
    images = rng.normal(0, 60, (options.batch, model.image_size, model.image_size, model.channels)).astype(np.float32)
    labels = rng.integers(model.classes, size=options.batch)
    step = make_train_step(functional.forward(model), lambda images, key, noisy: images, config.optim)
    rest = images, labels, jax.random.key(1), rates(config.optim, 0.0, Progress()), 1.0
    state = new_state(alexnet.init(model, jax.random.key(0)), config.optim)
    program = step.lower(state, *rest).compile().as_text()  # type: ignore[attr-defined]

    def run() -> None:
        nonlocal state
        state = jax.block_until_ready(step(state, *rest)[0])

    run()
    run()
    took = layer_times(program, run, STEPS).layers
    table = Table(
        "layer",
        "ms per step",
        "share",
        title=f"{options.preset}, batch {options.batch}, {jax.devices()[0].device_kind}",
    )
    for layer, ns in sorted(took.items()):
        table.add_row(layer, f"{ns / STEPS / 1e6:.1f}", f"{ns / took.total():.1%}")
    Console().print(table)


if __name__ == "__main__":
    main()
