"""Top-1 and top-5 error of a network on the validation images."""

from pathlib import Path
from typing import Any, Literal

import jax
from jax.sharding import Mesh
from rich.console import Console
from rich.progress import track

from alexnet_jax.config import BadInput, Config
from alexnet_jax.data.augment import Statistics
from alexnet_jax.data.pipeline import validation_batches
from alexnet_jax.data.records import EMBEDDED, VALIDATION, Records
from alexnet_jax.data.views import test_views
from alexnet_jax.networks import columns, functional
from alexnet_jax.training import checkpoint
from alexnet_jax.training.step import make_error_sums


def evaluate(
    run: str | Path,
    data: str | Path | None = None,
    crops: Literal[1, 10] = 10,
    mesh: Mesh | None = None,
    *,
    forward: functional.Forward | None = None,
    progress: bool = True,
) -> dict[str, float]:
    """{"top1_error", "top5_error", "loss", "examples"} of a trained network on the validation images.

    Each image counts once; errors are fractions. Probabilities are averaged over the crops (section 4.1).

    run: a run directory (its latest checkpoint) or a checkpoint's own path; data: a prepared data directory, by default
    the one it was trained on; crops: 1 for the centre, 10 for centre and corners with their reflections; mesh: by
    default the one that suits the machine; forward: the network, where `fit` was given one; progress: whether to show
    a bar. Raises BadInput where these do not belong together.

    >>> alexnet.evaluate("runs/one", crops=1, progress=False)["examples"]
    2000
    """
    found = checkpoint.find(run)
    if forward is None:
        found.check_network()
    records = Records(data_of(found) if data is None else Path(data))
    check_same_data(records, found)
    if mesh is None:
        mesh = columns.suitable_mesh(1 if "init" in found.own else found.config.model.columns)
    meter = Meter(found.config, records, Statistics(**found.statistics()), mesh, forward)
    figures = meter.measure(found.params(mesh), crops, "evaluating" if progress else None)
    return figures | {"examples": records.examples(VALIDATION)}


class Meter:
    """Measures parameters of one config on one set of images. Compiled once."""

    def __init__(
        self,
        config: Config,
        records: Records,
        statistics: Statistics,
        mesh: Mesh,
        forward: functional.Forward | None = None,
    ) -> None:
        forward = forward or functional.forward(config.model, mesh, config.precision)
        self._sums = make_error_sums(forward, test_views(config, statistics, mesh))
        self._records, self._mesh = records, mesh
        # Twice a training batch, whose gradients need more memory than that. In larger ones an image takes less time.
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
    """Raises BadInput where the images do not fit the network."""
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
    """Where the images are that a checkpoint was trained on. Raises BadInput where it does not know."""
    if found.data["path"]:
        return Path(found.data["path"])
    if found.data["fingerprint"]:  # of the embedded images, which lie elsewhere on every machine
        return EMBEDDED
    raise BadInput(f"{found.path} comes from {found.data['source']} and names no pictures; give --data")


def check_same_data(records: Records, found: checkpoint.Checkpoint) -> None:
    """Raises BadInput where a network was trained on other classes or on images of another shape."""
    trained_on = found.data
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


def described(classes: list[str]) -> str:
    """In a few words."""
    return f"{len(classes)} classes ({', '.join(classes[:3])}{', ..' if len(classes) > 3 else ''})"
