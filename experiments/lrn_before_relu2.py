"""LRN in front of conv2's ReLU: model.conv2.then.

    python -m alexnet_jax.train experiments/lrn_before_relu2.py

Claim: not in the paper; net 166 of the released code lost 0.43 (top-1) and 0.46 (top-5) points on ImageNet.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config

LOGS_2012 = (0.43, 0.46)


def change(base: Config) -> Config:
    steps = ("norm", *(step for step in base.model.conv2.then if step != "norm"))
    return replace(base, model=replace(base.model, conv2=replace(base.model.conv2, then=steps)))


CONFIG = change(preset("fashion"))
