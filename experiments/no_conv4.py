"""Without conv4: model.without.

    python -m alexnet_jax.train experiments/no_conv4.py

Claim: removing any of the middle layers loses about 2 points of top-1 error on ImageNet (section 7).

Measured on Fashion-MNIST, 5 seeds: -0.01 points of top-1 error (95 % interval -0.26 to +0.24); with one crop -0.18.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config


def change(base: Config) -> Config:
    return replace(base, model=replace(base.model, without=("conv4",)))


CONFIG = change(preset("fashion"))
