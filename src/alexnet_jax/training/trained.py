"""Networks that are already trained, by this package or another program, as a starting point (section 6, note 1)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.config import BadInput, Config, diff
from alexnet_jax.data.augment import Statistics
from alexnet_jax.data.imagenet import imagenet_classes
from alexnet_jax.data.records import Records
from alexnet_jax.networks import columns
from alexnet_jax.training import checkpoint
from alexnet_jax.weights.found import to_params
from alexnet_jax.weights.read import read

Params = dict[str, dict[str, Any]]


class Trained(NamedTuple):
    """A network that is already trained."""

    config: Config
    params: Params
    statistics: Statistics
    classes: list[str]
    image_shape: tuple[int, int, int]
    """of the images from which its crops are cut"""
    foreign: bool
    """whether it comes from another program, which knows classes only by number"""


def trained(path: Path) -> Trained:
    """The network in a run, a checkpoint or a file of weights. Raises BadInput if there is none."""
    if not path.is_file():
        found = checkpoint.find(path)
        found.check_network()
        H, W, C = found.data["image_shape"]
        statistics = Statistics(**found.statistics())
        foreign = found.data["fingerprint"] is None
        return Trained(found.config, found.params(), statistics, found.data["classes"], (H, W, C), foreign)
    there = read(path)
    params, model = to_params(there), there.model
    classes = imagenet_classes() if model.classes == 1000 else [str(number) for number in range(model.classes)]
    # These programs all crop from images of 256. Their files do not describe the colours of the training images.
    side = max(256, model.image_size)
    mean_HWC = np.broadcast_to(there.mean_C.astype(np.float32), (side, side, 3))
    statistics = Statistics(mean_HWC.copy(), np.zeros(3, np.float32), np.eye(3, dtype=np.float32))
    return Trained(there.config, params, statistics, classes, (side, side, 3), foreign=True)


def start_from(path: Path, config: Config, records: Records, fresh: Params, say: Callable[..., None]) -> Params:
    """`fresh`, with every layer that fits taken from a run, a checkpoint or another program's file.

    `say` is called with a line about which layers were taken. Raises BadInput if none fits.
    """
    there = trained(path)
    same_count = len(there.classes) == len(records.classes)
    same_classes = there.classes == records.classes or (there.foreign and same_count)
    params, new = transfer(fresh, there.params, config.model.logits, same_classes)
    if len(new) == len(params):
        reasons = ", ".join(f"{layer}: {reason}" for layer, reason in new.items())
        raise BadInput(f"--init {path} has no layer that fits {config.preset} ({reasons})")
    say(f"Taken from {path}: {', '.join(layer for layer in params if layer not in new)}.")
    for layer, reason in new.items():
        say(f"New: {layer}; {reason}.")
    meanings = {
        name: values
        for name, values in diff(there.config, config).items()
        if name.startswith(("model.", "data.mean", "data.scale"))
        and not name.endswith((".std", ".bias", ".bias_std", ".units"))
        and not any(f".{layer}." in name for layer in new)
    }
    for name, (before, now) in meanings.items():
        say(f"The trained network has another {name}: {before} instead of {now}", style="yellow")
    return params


def transfer(fresh: Params, trained: Params, logits: str, same_classes: bool) -> tuple[Params, dict[str, str]]:
    """`fresh` with the layers of `trained` that fit, and the reason why each other layer stays new.

    A layer fits if all its shapes are the same; the layer `logits` must also have the same classes. A layer that is
    taken keeps the fresh layer's layout.
    """
    params, new = dict(fresh), {}
    for layer, own in fresh.items():
        if layer not in trained:
            new[layer] = "not among them"
        elif layer == logits and not same_classes:
            new[layer] = "it was trained on other classes"
        elif shapes(trained[layer]) != shapes(own):
            there, here = (_times(params["kernel"].shape) for params in (trained[layer], own))
            new[layer] = f"its kernel is {there} in the trained network and {here} in this one"
        else:
            params[layer] = columns.lay({name: trained[layer][name] for name in own}, shardings(own))
    return params, new


def shardings(layer: dict[str, Any]) -> dict[str, Any]:
    return {name: array.sharding for name, array in layer.items()}


def shapes(layer: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in layer.items()}


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
