"""Weight decay on the biases too: optim.decay_biases.

    python -m alexnet_jax.train experiments/decayed_biases.py

Claim: the paper's rule decays all parameters alike; the code of 2012 left out the biases.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config


def change(base: Config) -> Config:
    return replace(base, optim=replace(base.optim, decay_biases=True))


CONFIG = change(preset("fashion"))
