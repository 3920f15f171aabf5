"""Caffe's two AlexNets, layer by layer, from any kind of file."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from alexnet_jax.config import BadInput, ModelConfig
from alexnet_jax.config.presets import preset
from alexnet_jax.weights.found import Found, groups

# Red, green, blue: the mean of Caffe's mean image of ILSVRC 2012, which is not part of any weights file.
MEAN_C = (122.67891434, 116.66876762, 104.00698793)


@dataclass(frozen=True)
class Layer:
    """A layer of a file, in words shared by all kinds of files."""

    kind: Literal["conv", "activation", "norm", "pool", "fc"]
    called: str
    """its name in the file"""
    says: dict[str, Any] = field(default_factory=dict)
    """the settings given in the file, with the names of `settings`; for a pool also whether it is ragged"""
    arrays: tuple[np.ndarray, ...] = ()
    """kernel and bias, of conv and fc"""


def reading(
    path: Path, layers: Sequence[Layer], image_size: int | None, mean_C: Sequence[float] = MEAN_C, scale: float = 1.0
) -> Found:
    """The layers as Caffe's AlexNet or, if pooling comes before LRN, its CaffeNet.

    Raises BadInput if their order or a setting differs. Weights without any other layer are taken for AlexNet's.
    """
    names = _names(layers)
    first = next((name for name in names if name in ("norm1", "pool1")), "norm1")
    config = preset("caffe" if first == "norm1" else "caffenet")
    model = config.model
    assert isinstance(model, ModelConfig)
    if image_size is not None:
        model = replace(model, image_size=image_size)

    weights_alone = all(layer.arrays for layer in layers)
    wanted = [name for name in _order(model) if name.startswith(("conv", "fc")) or not weights_alone]
    called = [*(f"{name} ({layer.called!r})" for name, layer in zip(names, layers, strict=True)), "nothing"]
    for want, name, words in zip([*wanted, "nothing"], [*names, "nothing"], called, strict=False):
        if want != name:
            raise BadInput(f"{path} is not the network {config.preset}: instead of {want} it has {words}")
    for name, layer in zip(names, layers, strict=True):
        for key, ours in settings(model, name).items():
            theirs = layer.says.get(key, ours)
            # Files store single precision.
            if not (math.isclose(theirs, ours, rel_tol=1e-5) if isinstance(ours, float) else theirs == ours):
                raise BadInput(f"{path} has {theirs} as {name}'s {key}, where the preset {config.preset} has {ours}")

    by_name = dict(zip(names, layers, strict=True))
    kernels, biases = ({name: by_name[name].arrays[at] for name in names if by_name[name].arrays} for at in (0, 1))
    if not weights_alone:
        model = replace(model, ragged=tuple(pool for pool in model.ragged if by_name[pool].says["ragged"]))
    config = replace(config, model=model.with_classes(biases["fc8"].size))
    return Found(config, kernels, biases, bgr=True, mean_C=np.array(mean_C), scale_C=np.full(3, 1 / scale))


def _names(layers: Sequence[Layer]) -> list[str]:
    """Our names for the layers: conv1, activation1, norm1, pool1, conv2, ... fc8."""
    names, number = [], 0
    for layer in layers:
        number += layer.kind in ("conv", "fc")
        names.append(f"{layer.kind}{number}")
    return names


def _order(model: ModelConfig) -> list[str]:
    """The names of the network's own layers."""
    names = []
    for name, conv in model.convs.items():
        names += [name, *(step + name[4:] for step in conv.then)]
    return [*names, "fc6", "activation6", "fc7", "activation7", "fc8"]


def settings(model: ModelConfig, name: str) -> dict[str, Any]:
    """The settings of a layer of the network. Sizes are (height, width), paddings (top, left, bottom, right)."""
    if name.startswith("conv"):
        conv = model.convs[name]
        before, after = conv.padding
        return {
            "size": (conv.size, conv.size),
            "stride": (conv.stride, conv.stride),
            "padding": (before, before, after, after),
            "dilation": (1, 1),
            "groups": groups(model, name),
        }
    if name.startswith("pool"):
        size, stride = model.pool.size, model.pool.stride
        window = {"size": (size, size), "stride": (stride, stride), "padding": (0, 0, 0, 0), "dilation": (1, 1)}
        return {"kind": model.pool.kind} | window
    if name.startswith("norm"):
        lrn = model.lrn
        return {"region": "across channels", "n": lrn.n, "k": lrn.k, "alpha": lrn.alpha, "beta": lrn.beta}
    return {"slope": 0.0} if name.startswith("activation") else {"factors": (1.0, 1.0)}
