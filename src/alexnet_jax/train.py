"""python -m alexnet_jax.train [CONFIG]: trains a network, or continues a run that was interrupted."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from alexnet_jax import command_line
from alexnet_jax.networks.columns import Layout
from alexnet_jax.training.fit import fit


@dataclass(frozen=True)
class Options(command_line.Recipe, command_line.Cluster):
    """Trains a network, or continues if the same command was interrupted."""

    workdir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """run directory; by default runs/CONFIG"""
    init: Annotated[Path | None, tyro.conf.arg(metavar="WEIGHTS")] = None
    """run, checkpoint or file of weights to start from"""
    steps: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """stop after this many in total; schedules stay those of the complete run"""
    mesh: Annotated[str, tyro.conf.arg(metavar="D,C")] = "auto"
    """devices for images x devices for columns"""
    layout: Layout = "columns"
    """hybrid: the devices for images also share the units of the fully connected layers (Krizhevsky 2014)"""
    workers: int = 0
    """processes that read data ahead; 0 for threads"""
    log_every: int = 10
    """steps per line of metrics.jsonl"""
    save_minutes: float = 2.0
    """minutes between checkpoints"""
    deterministic: bool = False
    """the same bits every time on GPUs, too, which costs speed; on CPUs it changes nothing"""


def train() -> None:
    command_line.keep_memory()
    if "--deterministic" in sys.argv:
        command_line.be_deterministic()
    command_line.join_processes()
    command_line.make_cpu_devices(command_line.given("--mesh", "auto"))  # before the user's file, which may use JAX
    options, config = command_line.parse_recipe(Options)
    fit(
        config,
        options.workdir or Path("runs") / Path(options.config).stem,
        options.directory,
        command_line.mesh_of(options.mesh, config, options.layout),
        options.steps,
        layout=options.layout,
        init=options.init,
        workers=options.workers,
        log_every=options.log_every,
        save_minutes=options.save_minutes,
    )


if __name__ == "__main__":
    command_line.main(train)
