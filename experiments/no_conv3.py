"""Without conv3; the columns meet at conv4: model.without, model.meet.

    python -m alexnet_jax.train experiments/no_conv3.py

Claim: removing any of the middle layers loses about 2 points of top-1 error on ImageNet (section 7).

Measured on Fashion-MNIST, 5 seeds: -0.23 points of top-1 error (95 % interval -0.64 to +0.18); with one crop -0.25.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config


def change(base: Config) -> Config:
    return replace(base, model=replace(base.model, without=("conv3",), meet=("conv4", "fc6", "fc7")))


CONFIG = change(preset("fashion"))
