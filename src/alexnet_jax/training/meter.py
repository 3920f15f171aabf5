"""Top-1 and top-5 error of a network on the validation images."""

from collections.abc import Callable
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
from alexnet_jax.training import checkpoint, processes
from alexnet_jax.training.step import make_error_sums


def evaluate(
    run: str | Path,
    data: str | Path | None = None,
    crops: Literal[1, 10] = 10,
    mesh: Mesh | None = None,
    *,
    layout: columns.Layout = "columns",
    forward: functional.Forward | None = None,
    progress: bool = True,
) -> dict[str, float]:
    """{"top1_error", "top5_error", "loss", "examples"} of a trained network on the validation images.

    Errors are fractions. Every image counts once; its probabilities are averaged over its crops (section 4.1).

    run: a run directory (its latest checkpoint) or the path of a checkpoint. data: a prepared data directory; by
    default the one the network was trained on. crops: 1 is the centre, 10 adds the corners and all reflections. mesh:
    by default the one that suits the machine. layout: as for `forward`. forward: the network, if `fit` was given one.
    progress: whether to show a progress bar. Raises BadInput if there is no such run or the data does not fit it.

    >>> alexnet.evaluate("runs/one", crops=1, progress=False)["examples"]
    2000
    """
    found = checkpoint.find(run)
    if forward is None:
        found.check_network()
    records = Records(data_of(found) if data is None else Path(data))
    check_same_data(records, found)
    if mesh is None:
        mesh = columns.suitable_mesh(1 if "init" in found.own else found.config.model.columns, layout)
    network = forward or functional.forward(found.config.model, mesh, found.config.precision, layout=layout)
    meter = Meter(found.config, records, Statistics(**found.statistics()), mesh, network)
    shown = "evaluating" if progress and processes.first() else None
    figures = meter.measure(found.params(mesh, layout), crops, shown)
    assert figures is not None  # nothing stops it
    return figures | {"examples": records.examples(VALIDATION)}


class Meter:
    """Measures parameters of one config on one set of images. It compiles once."""

    def __init__(
        self,
        config: Config,
        records: Records,
        statistics: Statistics,
        mesh: Mesh,
        forward: functional.Forward,
    ) -> None:
        self._sums = make_error_sums(forward, test_views(config, statistics, mesh))
        self._records, self._mesh = records, mesh
        # Twice a training batch: larger batches are faster, and this needs less memory than a training step.
        data = mesh.shape[columns.DATA]
        self._batch = -(-2 * config.optim.batch // data) * data

    def measure(
        self, params: Any, crops: int, show: str | None = None, stop: Callable[[], int] = lambda: 0
    ) -> dict[str, float] | None:
        """{"loss", "top1_error", "top5_error"}: means over all validation examples. `show` labels a progress bar.

        None if `stop()`, which is asked before every batch, is not 0.
        """
        size = self._batch
        batches: Any = validation_batches(self._records, size, columns.rows(self._mesh, size))
        if show:
            count = -(-self._records.examples(VALIDATION) // size)
            batches = track(batches, show, total=count, console=Console(stderr=True), transient=True)
        total: dict[str, float] = {}
        for host_batch in batches:
            if stop():
                return None
            batch = columns.shard_batch(host_batch, self._mesh, size)
            sums = jax.device_get(self._sums(params, batch["image"], batch["label"], batch["weight"], crops))
            total = {name: total.get(name, 0.0) + float(value) for name, value in sums.items()}
        examples = total.pop("examples")
        return {name: value / examples for name, value in total.items()}


def check_fit(config: Config, records: Records) -> None:
    """Raises BadInput if the images do not fit the network."""
    H, W, C = records.image_shape
    net, where = config.model, records.directory
    if net.channels != C:
        raise BadInput(
            f"the images in {where} have {C} channel(s) and the network reads {net.channels}; "
            f"give --model.channels {C}, or prepare grey images with --rgb"
        )
    if min(H, W) + 2 * config.data.pad < net.image_size:
        raise BadInput(
            f"the images in {where} are {H}x{W} and the network's crops {net.image_size}x{net.image_size}; "
            f"prepare larger ones with --size, or give a smaller --model.image-size"
        )


def data_of(found: checkpoint.Checkpoint) -> Path:
    """The directory of the images that a checkpoint was trained on. Raises BadInput if it does not know."""
    if found.data["path"]:
        return Path(found.data["path"])
    if found.data["fingerprint"]:  # the embedded images, whose path differs between machines
        return EMBEDDED
    raise BadInput(f"{found.path} comes from {found.data['source']}, which names no data; give --data")


def check_same_data(records: Records, found: checkpoint.Checkpoint) -> None:
    """Raises BadInput if the network was trained on other classes or on images of another shape."""
    trained_on = found.data
    # Other programs know classes only by number, so only their count can be compared.
    foreign = trained_on["fingerprint"] is None and len(records.classes) == len(trained_on["classes"])
    if records.classes != trained_on["classes"] and not foreign:
        raise BadInput(
            f"{records.directory} has {described(records.classes)}; {found.path} was trained on "
            f"{described(trained_on['classes'])}"
        )
    if list(records.image_shape) != trained_on["image_shape"]:
        raise BadInput(
            f"the images in {records.directory} are {records.image_shape}; "
            f"{found.path} was trained on {tuple(trained_on['image_shape'])}"
        )


def described(classes: list[str]) -> str:
    """A short description of the classes."""
    return f"{len(classes)} classes ({', '.join(classes[:3])}{', ..' if len(classes) > 3 else ''})"
