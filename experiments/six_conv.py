"""A sixth convolution, over the last pooling layer (section 6.1): model.conv6.

    python -m alexnet_jax.train experiments/six_conv.py

Claim: none for this network alone. The paper trains two of these on all of ImageNet, fine-tunes them, and averages them
with five others: see seven_networks in the table. Preset `six_conv` is net 146 of the code of 2012.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config


def change(base: Config) -> Config:
    return replace(base, model=replace(base.model, conv6=replace(base.model.conv5, then=("activation",))))


CONFIG = change(preset("fashion"))
