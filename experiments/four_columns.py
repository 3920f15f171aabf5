"""Four columns in place of two: model.columns.

    python -m alexnet_jax.train experiments/four_columns.py

Claim: none in the paper.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config


def change(base: Config) -> Config:
    return replace(base, model=replace(base.model, columns=4))


CONFIG = change(preset("fashion"))
