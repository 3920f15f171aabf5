"""Four columns in place of two: model.columns.

    python -m alexnet_jax.train experiments/four_columns.py

Claim: none in the paper.

Measured on Fashion-MNIST, 5 seeds: +0.51 points of top-1 error (95 % interval +0.30 to +0.72); with one crop +0.21.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config


def change(base: Config) -> Config:
    return replace(base, model=replace(base.model, columns=4))


CONFIG = change(preset("fashion"))
