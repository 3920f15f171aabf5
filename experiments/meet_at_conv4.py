"""Columns that meet at conv4 in place of conv3: model.meet.

    python -m alexnet_jax.train experiments/meet_at_conv4.py

Claim: not in the paper; the older nets 132 and 133 of the released code were worse than net 131. These three differ in
more than that, so no figure is given.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config


def change(base: Config) -> Config:
    return replace(base, model=replace(base.model, meet=("conv4", "fc6", "fc7")))


CONFIG = change(preset("fashion"))
