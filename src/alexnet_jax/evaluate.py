"""python -m alexnet_jax.evaluate RUN [RUN ...]: top-1 and top-5 error on the validation images."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from alexnet_jax import command_line
from alexnet_jax.config import BadInput
from alexnet_jax.networks import columns
from alexnet_jax.networks.columns import Layout
from alexnet_jax.training import checkpoint, meter, processes
from alexnet_jax.training.log import errors


@dataclass(frozen=True)
class Options(command_line.Cluster):
    """Top-1 and top-5 error of a trained network on the validation images.

    Every image counts once. Its probabilities are averaged over its crops (section 4.1), and over the networks if
    several are given (section 5).
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN ...]")] = ()
    """run directories (their latest checkpoints) or the paths of checkpoints"""
    data: Path | None = None
    """prepared data directory; by default the one the network was trained on"""
    crops: Literal[1, 10] = 10
    """1: the centre; 10: centre, corners and all reflections"""
    json: bool = False
    """print one JSON object"""
    mesh: str = "auto"
    """devices for images x devices for columns, D,C"""
    layout: Layout = "columns"
    """hybrid: the devices for images also share the units of the fully connected layers"""


def evaluate() -> None:
    options = command_line.parse(Options)
    command_line.keep_memory()
    command_line.join_processes()
    command_line.make_cpu_devices(options.mesh)
    if not options.runs:
        raise BadInput("give a run: python -m alexnet_jax.evaluate RUN; see --help")
    runs = [checkpoint.find(run) for run in options.runs]
    mesh = None if options.mesh == "auto" else columns.make_mesh(*command_line.sizes_of(options.mesh))
    paths = [found.path for found in runs]
    figures = meter.evaluate(paths, options.data, options.crops, mesh, layout=options.layout)
    if not processes.first():
        return
    if options.json:
        about: dict[str, Any] = {"checkpoint": str(paths[0]), "step": runs[0].step}
        if len(runs) > 1:
            about = {"checkpoints": [str(path) for path in paths], "steps": [found.step for found in runs]}
        print(json.dumps(about | {"crops": options.crops} | figures))
    else:
        crops = "one crop" if options.crops == 1 else "ten crops"
        directory = options.data or meter.data_of(runs[0])
        print(f"{', '.join(map(str, paths))} on {figures['examples']} validation images of {directory}, {crops}:")
        print(errors(figures))


if __name__ == "__main__":
    command_line.main(evaluate)
