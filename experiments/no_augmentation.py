"""No random crops and no reflections (section 4.1): data.crop, data.flip.

    python -m alexnet_jax.train experiments/no_augmentation.py

Claim: the network overfits substantially, which would force a much smaller one.

Measured on Fashion-MNIST, 5 seeds: +7.33 points of top-1 error (95 % interval +5.43 to +9.23); with one crop -1.69.
Measured on clipart, 5 seeds: +2.11 points of top-1 error (95 % interval -1.36 to +5.58); with one crop +0.99.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config


def change(base: Config) -> Config:
    return replace(base, data=replace(base.data, crop=False, flip=False))


CONFIG = change(preset("fashion"))
