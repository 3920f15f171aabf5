"""One crop and one reflection for 32 consecutive pictures, as in 2012: data.crop_run.

    python -m alexnet_jax.train experiments/shared_crops.py

Claim: none in the paper, which does not mention it.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config


def change(base: Config) -> Config:
    return replace(base, data=replace(base.data, crop_run=32))


CONFIG = change(preset("fashion"))
