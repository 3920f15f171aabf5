"""Columns that meet at every layer: model.meet.

    python -m alexnet_jax.train experiments/meet_everywhere.py

Claim: none in the paper.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config


def change(base: Config) -> Config:
    return replace(base, model=replace(base.model, meet=("conv2", "conv3", "conv4", "conv5", "fc6", "fc7")))


CONFIG = change(preset("fashion"))
