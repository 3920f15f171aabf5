"""Top-1 and top-5 error of a network on the validation images."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
from jax.sharding import Mesh
from rich.console import Console
from rich.progress import track

from alexnet_jax.config import BadInput, Config
from alexnet_jax.data.augment import Statistics
from alexnet_jax.data.pipeline import evaluation_batches
from alexnet_jax.data.records import EMBEDDED, VALIDATION, Records
from alexnet_jax.data.views import test_views
from alexnet_jax.networks import columns, functional
from alexnet_jax.training import checkpoint, processes
from alexnet_jax.training.step import Probabilities, make_error_sums, make_probabilities, mean_probabilities


def evaluate(
    run: str | Path | Sequence[str | Path],
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

    run: a run directory (its latest checkpoint) or the path of a checkpoint. Of several, whose classes and image shape
    must be the same, the probabilities are averaged (section 5). data: a prepared data directory; by default the one
    the network was trained on, of several the first. crops: 1 is the centre, 10 adds the corners and all reflections.
    mesh: by default the one that suits the machine. layout: as for `forward`. forward: the network, if `fit` was given
    one.
    progress: whether to show a progress bar. Raises BadInput if there is no such run or the data does not fit it.

    >>> alexnet.evaluate("runs/one", crops=1, progress=False)["examples"]
    2000
    """
    runs = [checkpoint.find(one) for one in ([run] if isinstance(run, str | Path) else run)]
    if not runs or (forward and len(runs) > 1):
        raise BadInput("give at least one run, and only one with a forward of your own")
    records = Records(data_of(runs[0]) if data is None else Path(data))
    for found in runs:
        if forward is None:
            found.check_network()
        check_same_data(records, found)
    meter, params = meter_of(runs, records, mesh, layout, forward)
    figures = meter.measure(params, crops, "evaluating" if progress and processes.first() else None)
    return figures | {"examples": records.examples(VALIDATION)}


def shared_columns(runs: Sequence[checkpoint.Checkpoint]) -> int:
    """The number of columns that all the networks have; 1 if it differs, for a mesh on which any network can lie."""
    numbers = {1 if "init" in found.own else found.config.model.columns for found in runs}
    return numbers.pop() if len(numbers) == 1 else 1


def probabilities_of(config: Config, statistics: Statistics, mesh: Mesh, forward: functional.Forward) -> Probabilities:
    """The probabilities that one network gives to images as they are stored."""
    return make_probabilities(forward, test_views(config, statistics, mesh))


def meter_of(
    runs: Sequence[checkpoint.Checkpoint],
    records: Records,
    mesh: Mesh | None = None,
    layout: columns.Layout = "columns",
    forward: functional.Forward | None = None,
) -> tuple["Meter", Any]:
    """A meter of the mean of the runs' probabilities, and the parameters that it measures."""
    mesh = mesh or columns.suitable_mesh(shared_columns(runs), layout)
    members = []
    for found in runs:
        network = forward or functional.forward(found.config.model, mesh, found.config.precision, layout=layout)
        members.append(probabilities_of(found.config, Statistics(**found.statistics()), mesh, network))
    meter = Meter(records, mesh, runs[0].config.optim.batch, mean_probabilities(members))
    return meter, [found.params(mesh, layout) for found in runs]


class Meter:
    """Measures parameters on one set of images. It compiles once."""

    def __init__(self, records: Records, mesh: Mesh, batch: int, probabilities: Probabilities) -> None:
        self._sums = make_error_sums(probabilities)
        self._records, self._mesh = records, mesh
        # Twice a training batch: larger batches are faster, and this needs less memory than a training step.
        data = mesh.shape[columns.DATA]
        self._batch = -(-2 * batch // data) * data

    def measure(
        self, params: Any, crops: int, show: str | None = None, *, split: str = VALIDATION, first: int | None = None
    ) -> dict[str, float]:
        """{"loss", "top1_error", "top5_error"}: means over the examples of a split, or over the `first` so many.

        `show` labels a progress bar.
        """
        figures = self.measure_until(lambda: 0, params, crops, show, split, first)
        assert figures is not None
        return figures

    def measure_until(
        self,
        stop: Callable[[], int],
        params: Any,
        crops: int,
        show: str | None = None,
        split: str = VALIDATION,
        first: int | None = None,
    ) -> dict[str, float] | None:
        """The same, or None as soon as `stop()`, which is asked before every batch, is not 0."""
        size = self._batch
        batches: Any = evaluation_batches(self._records, size, columns.rows(self._mesh, size), split, first)
        if show:
            count = -(-self._records.examples(split) // size)
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
