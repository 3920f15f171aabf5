"""No reflections, but random crops (section 4.1): data.flip.

    python -m alexnet_jax.train experiments/no_flips.py

Claim: the paper makes it for crops and reflections together, see no_augmentation.py.

Measured on clipart, 5 seeds: -0.88 points of top-1 error (95 % interval -2.74 to +0.97); with one crop -1.46.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config


def change(base: Config) -> Config:
    return replace(base, data=replace(base.data, flip=False))


CONFIG = change(preset("fashion"))
