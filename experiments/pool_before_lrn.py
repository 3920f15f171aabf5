"""Pooling in front of LRN, as in CaffeNet: model.conv1.then, model.conv2.then.

    python -m alexnet_jax.train experiments/pool_before_lrn.py

Claim: none in the paper; Caffe's two networks differ in this and in their biases.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config


def change(base: Config) -> Config:
    steps = ("activation", "pool", "norm")
    convs = {name: replace(getattr(base.model, name), then=steps) for name in ("conv1", "conv2")}
    return replace(base, model=replace(base.model, **convs))


CONFIG = change(preset("fashion"))
