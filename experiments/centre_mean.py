"""The central crop of the mean image whatever the crop, as in 2012: data.mean.

    python -m alexnet_jax.train experiments/centre_mean.py

Claim: none in the paper, which subtracts each pixel's own mean.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config


def change(base: Config) -> Config:
    return replace(base, data=replace(base.data, mean="centre"))


CONFIG = change(preset("fashion"))
