"""Average in place of max pooling: model.pool.kind.

    python -m alexnet_jax.train experiments/average_pooling.py

Claim: none in the paper, which takes max pooling for granted.

Measured on Fashion-MNIST, 5 seeds: +2.58 points of top-1 error (95 % interval +1.98 to +3.17); with one crop +2.06.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config


def change(base: Config) -> Config:
    return replace(base, model=replace(base.model, pool=replace(base.model.pool, kind="average")))


CONFIG = change(preset("fashion"))
