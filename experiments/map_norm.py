"""The same-map normalisation of 2012 after conv2's LRN: model.conv2.then.

    python -m alexnet_jax.train experiments/map_norm.py

Claim: the paper does not mention this layer, which its network had.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config


def change(base: Config) -> Config:
    steps = ("activation", "norm", "map_norm", "pool")
    return replace(base, model=replace(base.model, conv2=replace(base.model.conv2, then=steps)))


CONFIG = change(preset("fashion"))
