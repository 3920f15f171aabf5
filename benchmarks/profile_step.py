"""Where the time of a training step goes, layer by layer, as JAX's profiler sees it.

python benchmarks/profile_step.py [PRESET] [--batch 32]

Shares are of the total time of the compiled program's operations, forward and backward. On a CPU an operation that
runs on several threads counts only once, so the share of single-threaded operations looks larger than it is.
"""

import argparse
import re
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import jax
import numpy as np
from jax.profiler import ProfileData
from rich.console import Console
from rich.table import Table

import alexnet_jax as alexnet
from alexnet_jax import command_line
from alexnet_jax.networks import functional
from alexnet_jax.training.optimiser import rates
from alexnet_jax.training.progress import Progress
from alexnet_jax.training.step import make_train_step, new_state

STEPS = 5
UNNAMED = "kernel gradients and copies, which XLA does not name"
LAYER = re.compile(r"(?:conv|norm|pool|fc|local)\d|out(?=/)")


def scopes(program: str) -> dict[str, str]:
    """The layer of each operation in the compiled program, by the operation's name."""
    found = {}
    for line in program.splitlines():
        named = re.match(r"\s*(?:ROOT )?%?([\w.-]+) = ", line)
        if named:
            source = re.search(r'op_name="([^"]*)"', line)
            layers = LAYER.findall(source[1]) if source else []
            found[named[1]] = layers[-1] if layers else "update and other operations" if source else UNNAMED
    return found


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
    layers = scopes(step.lower(state, *rest).compile().as_text())  # type: ignore[attr-defined]
    for _ in range(2):
        state = jax.block_until_ready(step(state, *rest)[0])
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            for _ in range(STEPS):
                state = jax.block_until_ready(step(state, *rest)[0])
        trace = ProfileData.from_file(str(next(Path(directory).rglob("*.xplane.pb"))))
    warnings.simplefilter("ignore", DeprecationWarning)  # from the bindings of ProfileData
    took: Counter[str] = Counter()
    for plane in trace.planes:
        for line in plane.lines:
            for event in line.events:
                name = dict(event.stats).get("hlo_op", event.name)
                if name in layers:
                    took[layers[name]] += event.duration_ns
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
