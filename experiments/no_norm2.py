"""No normalisation in layer 2: model.conv2.then.

    python -m alexnet_jax.train experiments/no_norm2.py

Claim: not in the paper; net 167 of the released code lost nothing on ImageNet, -0.11 (top-1) and +0.01 (top-5) points
against net 169.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config

LOGS_2012 = (-0.11, 0.01)


def change(base: Config) -> Config:
    steps = tuple(step for step in base.model.conv2.then if "norm" not in step)
    return replace(base, model=replace(base.model, conv2=replace(base.model.conv2, then=steps)))


CONFIG = change(preset("fashion"))
