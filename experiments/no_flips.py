"""No reflections, but random crops (section 4.1): data.flip.

    python -m alexnet_jax.train experiments/no_flips.py

Claim: the paper makes it for crops and reflections together, see no_augmentation.py.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config


def change(base: Config) -> Config:
    return replace(base, data=replace(base.data, flip=False))


CONFIG = change(preset("fashion"))
