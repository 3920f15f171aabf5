"""python -m alexnet_jax.evaluate RUN: top-1 and top-5 error on the validation pictures."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import tyro
from jax import Array
from jax.sharding import Mesh
from rich.console import Console
from rich.progress import track

from alexnet_jax import command_line
from alexnet_jax.config import BadInput, Config
from alexnet_jax.data import augment
from alexnet_jax.data.pipeline import validation_batches
from alexnet_jax.data.records import EMBEDDED, VALIDATION, Records
from alexnet_jax.networks import columns, functional
from alexnet_jax.training import checkpoint
from alexnet_jax.training.log import errors
from alexnet_jax.training.step import make_error_sums


@dataclass(frozen=True)
class Options:
    """Top-1 and top-5 error of a trained network on the validation pictures, each counted once.

    Probabilities are averaged over the crops (section 4.1).
    """

    run: tyro.conf.Positional[Path]
    """run directory (its latest checkpoint) or a checkpoint's own path"""
    data: Path | None = None
    """prepared data directory; by default the one it was trained on"""
    crops: Literal[1, 10] = 10
    """1: the centre; 10: centre, corners and their reflections"""
    json: bool = False
    """print one JSON object"""
    mesh: str = "auto"
    """sizes of the data and the column axis, D,C"""


def test_views(config: Config, statistics: augment.Statistics, mesh: Mesh) -> Callable[[Array, Array], Array]:
    """view(images uint8 [B, H, W, C], n) -> the n-th test view [B, h, w, C], each device its own pictures."""

    def per_device(images_BHWC: Array, _: Array, n: Array) -> Array:
        return augment.test_view(images_BHWC, n, statistics, data=config.data, size=config.model.image_size)

    return columns.on_pictures(per_device, mesh)


class Meter:
    """Measures parameters of one config on one set of pictures. Compiled once."""

    def __init__(self, config: Config, records: Records, statistics: augment.Statistics, mesh: Mesh) -> None:
        forward = functional.forward(config.model, mesh, config.precision)
        self._sums = make_error_sums(forward, test_views(config, statistics, mesh))
        self._records, self._mesh = records, mesh
        # Twice a training batch, whose gradients need more memory than that. In larger ones a picture takes less time.
        data = mesh.shape[columns.DATA]
        self._batch = -(-2 * config.optim.batch // data) * data

    def measure(self, params: Any, crops: int, show: str | None = None) -> dict[str, float]:
        """{"loss", "top1_error", "top5_error"}, means over every validation example; `show` names a progress bar."""
        size = self._batch
        batches: Any = validation_batches(self._records, size, columns.rows(self._mesh, size))
        if show:
            count = -(-self._records.examples(VALIDATION) // size)
            batches = track(batches, show, total=count, console=Console(stderr=True), transient=True)
        total: dict[str, float] = {}
        for host_batch in batches:
            batch = columns.shard_batch(host_batch, self._mesh, size)
            sums = jax.device_get(self._sums(params, batch["image"], batch["label"], batch["weight"], crops))
            total = {name: total.get(name, 0.0) + float(value) for name, value in sums.items()}
        examples = total.pop("examples")
        return {name: value / examples for name, value in total.items()}


def check_fit(config: Config, records: Records) -> None:
    """Raises BadInput where the pictures do not fit the network."""
    H, W, C = records.image_shape
    net, where = config.model, records.directory
    if net.channels != C:
        raise BadInput(
            f"the pictures in {where} have {C} channel(s) and the network reads {net.channels}; "
            f"give --model.channels {C}, or prepare grey pictures with --rgb"
        )
    if min(H, W) + 2 * config.data.pad < net.image_size:
        raise BadInput(
            f"the pictures in {where} are {H}x{W} and the network's crops {net.image_size}x{net.image_size}; "
            f"prepare larger ones with --size, or give a smaller --model.image-size"
        )


def data_of(found: checkpoint.Checkpoint) -> Path:
    """Where the pictures are that a checkpoint was trained on. Raises BadInput where it does not know."""
    if found.data["path"]:
        return Path(found.data["path"])
    if found.data["fingerprint"]:  # of the embedded pictures, which lie elsewhere on every machine
        return EMBEDDED
    raise BadInput(f"{found.path} comes from {found.data['source']} and names no pictures; give --data")


def described(classes: list[str]) -> str:
    """In a few words."""
    return f"{len(classes)} classes ({', '.join(classes[:3])}{', ..' if len(classes) > 3 else ''})"


def evaluate() -> None:
    options = command_line.parse(Options)
    command_line.keep_memory()
    command_line.make_cpu_devices()
    found = checkpoint.find(options.run)
    trained_on = found.data
    records = Records(options.data or data_of(found))
    # Weights from elsewhere count their classes as everybody does, whatever these are called here.
    foreign = trained_on["fingerprint"] is None and len(records.classes) == len(trained_on["classes"])
    if records.classes != trained_on["classes"] and not foreign:
        raise BadInput(
            f"{records.directory} has {described(records.classes)}; {found.path} was trained on "
            f"{described(trained_on['classes'])}"
        )
    if list(records.image_shape) != trained_on["image_shape"]:
        raise BadInput(
            f"the pictures in {records.directory} are {records.image_shape}; "
            f"{found.path} was trained on {tuple(trained_on['image_shape'])}"
        )
    mesh = command_line.mesh_of(options.mesh, found.config)
    statistics = augment.Statistics(**found.statistics())
    meter = Meter(found.config, records, statistics, mesh)
    figures = meter.measure(found.params(mesh), options.crops, "evaluating")
    examples = records.examples(VALIDATION)
    if options.json:
        about = {"checkpoint": str(found.path), "step": found.step, "crops": options.crops, "examples": examples}
        print(json.dumps(about | figures))
    else:
        crops = "one crop" if options.crops == 1 else "ten crops"
        print(f"{found.path} on {examples} pictures of {records.directory}, {crops}:")
        print(errors(figures))


if __name__ == "__main__":
    command_line.main(evaluate)
