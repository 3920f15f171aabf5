"""Average in place of max pooling: model.pool.kind.

    python -m alexnet_jax.train experiments/average_pooling.py

Claim: none in the paper, which takes max pooling for granted.
"""

from dataclasses import replace

from alexnet_jax import preset

BASE = preset("fashion")
CONFIG = replace(BASE, model=replace(BASE.model, pool=replace(BASE.model.pool, kind="average")))
