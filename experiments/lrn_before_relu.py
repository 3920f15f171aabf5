"""LRN in front of conv1's ReLU, as in 2012: model.conv1.then.

    python -m alexnet_jax.train experiments/lrn_before_relu.py

Claim: none in the paper, which puts LRN after ReLU; its code put it first in layer 1, so that negative responses count
in the sums. No log has the other order.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config


def change(base: Config) -> Config:
    steps = ("norm", "pool", "activation")
    return replace(base, model=replace(base.model, conv1=replace(base.model.conv1, then=steps)))


CONFIG = change(preset("fashion"))
