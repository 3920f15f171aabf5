"""LRN whose windows reach into the other column, as in Caffe: model.lrn_across_columns.

    python -m alexnet_jax.train experiments/lrn_across_columns.py

Claim: none in the paper; in 2012 a window could not reach it.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config


def change(base: Config) -> Config:
    return replace(base, model=replace(base.model, lrn_across_columns=True))


CONFIG = change(preset("fashion"))
