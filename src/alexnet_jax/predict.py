"""python -m alexnet_jax.predict MODEL IMAGE...: the most likely classes of any images."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from jax.sharding import Mesh
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from alexnet_jax import command_line
from alexnet_jax.config import BadInput, Config
from alexnet_jax.data import augment, pictures
from alexnet_jax.data.views import test_views
from alexnet_jax.networks import columns, functional
from alexnet_jax.training import checkpoint
from alexnet_jax.training.step import make_probabilities

_BATCH = 32


@dataclass(frozen=True)
class Options:
    """The five most likely classes of each image, by a trained network.

    Probabilities are averaged over the crops (section 4.1).
    """

    model: tyro.conf.Positional[Path]
    """run directory (its latest checkpoint) or the path of a checkpoint"""
    images: tyro.conf.Positional[tuple[str, ...]]
    """images, folders of images, and patterns with * ? [ ]"""
    crops: Literal[1, 10] = 10
    """1: the centre; 10: centre, corners and all reflections"""
    json: bool = False
    """print one JSON object per line"""
    mesh: str = "auto"
    """devices for images x devices for columns, D,C"""
    layout: columns.Layout = "columns"
    """hybrid: the devices for images also share the units of the fully connected layers"""


Classify = Callable[[np.ndarray], np.ndarray]


def make_classify(
    config: Config,
    params: Any,
    statistics: augment.Statistics,
    mesh: Mesh,
    crops: int,
    size: int,
    layout: columns.Layout = "columns",
) -> Classify:
    """classify(images uint8 [b <= size, H, W, C]) -> probabilities [b, K], means over the crops. Compiled once."""
    forward = functional.forward(config.model, mesh, config.precision, layout=layout)
    probabilities = make_probabilities(forward, test_views(config, statistics, mesh))

    def classify(images_bHWC: np.ndarray) -> np.ndarray:
        padded = np.zeros((size, *images_bHWC.shape[1:]), np.uint8)
        padded[: len(images_bHWC)] = images_bHWC
        images_BHWC = columns.shard_batch({"image": padded}, mesh, size)["image"]
        mean_BK: np.ndarray = jax.device_get(probabilities(params, images_BHWC, crops))
        return mean_BK[: len(images_bHWC)]

    return classify


def read(path: Path, config: Config, shape: tuple[int, int, int]) -> np.ndarray | BadInput:
    """uint8 [H, W, C], or what is wrong with the image."""
    try:
        return pictures.open_picture(path, shape, config.data.square)
    except BadInput as error:
        return error


def top5(probability_K: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The most likely classes, the most likely first."""
    order = np.argsort(-probability_K, kind="stable")[:5]
    return [{"class": classes[k], "number": int(k), "probability": float(probability_K[k])} for k in order]


def show(console: Console, image: str, guesses: list[dict[str, Any]]) -> None:
    table = Table(box=None, show_header=False)
    for guess in guesses:
        table.add_row(f"{guess['probability']:.4f}", guess["class"])
    console.print(image, soft_wrap=True)
    console.print(table)


def progress(batches: list[list[Path]]) -> Iterator[list[Path]]:
    """The batches, with a progress bar on standard error unless the answers themselves appear on the terminal."""
    console = Console(stderr=True)
    hidden = len(batches) == 1 or not console.is_terminal or sys.stdout.isatty()
    # Rich would redirect standard output as well.
    with Progress(console=console, transient=True, redirect_stdout=False, disable=hidden) as bar:
        yield from bar.track(batches, description="predicting")


def predict() -> None:
    options = command_line.parse(Options)
    command_line.keep_memory()
    command_line.make_cpu_devices(options.mesh)
    if not options.images:
        raise BadInput("there are no images to look at; give files, folders or patterns after the model")
    found = checkpoint.find(options.model)
    found.check_network()
    paths = pictures.find(options.images)
    mesh = command_line.mesh_of(options.mesh, found.config, options.layout)
    data = mesh.shape[columns.DATA]
    size = -(-min(_BATCH, len(paths)) // data) * data
    statistics = augment.Statistics(**found.statistics())
    params = found.params(mesh, options.layout)
    classify = make_classify(found.config, params, statistics, mesh, options.crops, size, options.layout)
    reader = partial(read, config=found.config, shape=tuple(found.data["image_shape"]))
    console = Console(markup=False, emoji=False, highlight=False)  # a path may look like Rich's markup
    unread = 0
    with ThreadPoolExecutor(4, "read") as threads:  # decoding releases Python's lock
        for batch in progress([paths[start : start + size] for start in range(0, len(paths), size)]):
            good = {}
            for path, picture in zip(batch, threads.map(reader, batch), strict=True):
                if isinstance(picture, BadInput):
                    print(f"error: {picture}", file=sys.stderr)
                    unread += 1
                else:
                    good[path] = picture
            if not good:
                continue
            for path, probability_K in zip(good, classify(np.stack(list(good.values()))), strict=True):
                guesses = top5(probability_K, found.data["classes"])
                if options.json:
                    print(json.dumps({"image": str(path), "top5": guesses}), flush=True)
                else:
                    show(console, os.fsencode(path).decode(errors="replace"), guesses)
    if unread:
        sys.exit(2)


if __name__ == "__main__":
    command_line.main(predict)
