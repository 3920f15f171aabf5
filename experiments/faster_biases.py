"""Biases that learn twice as fast, as in 2012: optim.bias_rate.

    python -m alexnet_jax.train experiments/faster_biases.py

Claim: the paper gives all layers one learning rate; its code gave the biases twice as much.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config


def change(base: Config) -> Config:
    return replace(base, optim=replace(base.optim, bias_rate=2.0))


CONFIG = change(preset("fashion"))
