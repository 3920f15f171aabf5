"""Average in place of max pooling: model.pool.kind.

    python -m alexnet_jax.train experiments/average_pooling.py

Claim: none in the paper, which takes max pooling for granted.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config


def change(base: Config) -> Config:
    return replace(base, model=replace(base.model, pool=replace(base.model.pool, kind="average")))


CONFIG = change(preset("fashion"))
