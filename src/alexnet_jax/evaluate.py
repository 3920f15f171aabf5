"""python -m alexnet_jax.evaluate RUN: top-1 and top-5 error on the validation images."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from alexnet_jax import command_line
from alexnet_jax.networks.columns import Layout
from alexnet_jax.training import checkpoint, meter, processes
from alexnet_jax.training.log import errors


@dataclass(frozen=True)
class Options(command_line.Cluster):
    """Top-1 and top-5 error of a trained network on the validation images.

    Every image counts once. Its probabilities are averaged over its crops (section 4.1).
    """

    run: tyro.conf.Positional[Path] = tyro.MISSING
    """run directory (its latest checkpoint) or the path of a checkpoint"""
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
    found = checkpoint.find(options.run)
    mesh = command_line.mesh_of(options.mesh, found.config, options.layout)
    figures = meter.evaluate(found.path, options.data, options.crops, mesh, layout=options.layout)
    if not processes.first():
        return
    if options.json:
        print(json.dumps({"checkpoint": str(found.path), "step": found.step, "crops": options.crops} | figures))
    else:
        crops = "one crop" if options.crops == 1 else "ten crops"
        directory = options.data or meter.data_of(found)
        print(f"{found.path} on {figures['examples']} validation images of {directory}, {crops}:")
        print(errors(figures))


if __name__ == "__main__":
    command_line.main(evaluate)
