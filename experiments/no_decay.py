"""No weight decay (section 5): optim.decay.

    python -m alexnet_jax.train experiments/no_decay.py

Claim: weight decay is not only a regulariser here; it lowers the training error too.

Measured on Fashion-MNIST, 5 seeds: +0.32 points of top-1 error (95 % interval +0.19 to +0.46); with one crop +0.39.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config


def change(base: Config) -> Config:
    return replace(base, optim=replace(base.optim, decay=0.0))


CONFIG = change(preset("fashion"))
