"""No random crops, but reflections (section 4.1): data.crop.

    python -m alexnet_jax.train experiments/no_crops.py

Claim: the paper makes it for crops and reflections together, see no_augmentation.py.

Measured on clipart, 5 seeds: -0.00 points of top-1 error (95 % interval -1.29 to +1.29); with one crop -0.24.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config


def change(base: Config) -> Config:
    return replace(base, data=replace(base.data, crop=False))


CONFIG = change(preset("fashion"))
