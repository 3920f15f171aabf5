"""Columns that meet at conv3 alone: model.meet.

    python -m alexnet_jax.train experiments/meet_at_conv3.py

Claim: none in the paper.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config


def change(base: Config) -> Config:
    return replace(base, model=replace(base.model, meet=("conv3",)))


CONFIG = change(preset("fashion"))
