"""python -m alexnet_jax.train [PRESET or FILE.py]: trains a network, or goes on where it was interrupted."""

import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from alexnet_jax import command_line
from alexnet_jax.training.fit import fit


@dataclass(frozen=True)
class Options(command_line.Recipe):
    """Trains a network, or goes on where the same command was interrupted."""

    workdir: Path | None = None
    """run directory; by default runs/NAME"""
    init: Path | None = None
    """run, checkpoint or file of weights to start from: the layers that fit are taken, the others are new"""
    steps: int | None = None
    """stop after so many steps in all; the schedules stay those of the whole run"""
    mesh: str = "auto"
    """sizes of the data and the column axis, D,C"""
    workers: int = 0
    """processes that read data ahead; 0 reads in threads"""
    log_every: int = 10
    """steps to a line of metrics.jsonl"""
    save_minutes: float = 2.0
    """time between checkpoints"""


def train() -> None:
    command_line.keep_memory()
    command_line.make_cpu_devices(command_line.given("--mesh", "auto"))  # before the user's file, which may use JAX
    options, config = command_line.parse_recipe(Options)
    try:
        fit(
            config,
            options.workdir or Path("runs") / Path(options.config).stem,
            options.directory,
            command_line.mesh_of(options.mesh, config),
            options.steps,
            init=options.init,
            workers=options.workers,
            log_every=options.log_every,
            save_minutes=options.save_minutes,
        )
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    command_line.main(train)
