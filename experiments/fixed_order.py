"""The same order of the pictures in every epoch, as in 2012: data.reshuffle.

    python -m alexnet_jax.train experiments/fixed_order.py

Claim: none in the paper, which does not mention it.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config


def change(base: Config) -> Config:
    return replace(base, data=replace(base.data, reshuffle=False))


CONFIG = change(preset("fashion"))
