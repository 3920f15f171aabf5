"""Fine-tuning from a network that knows half of the classes.

    python -m alexnet_jax.train experiments/fine_tuned.py --init runs/half_the_classes/0

The runs of `ablate` start from runs/half_the_classes/SEED, which these commands make:

    python -m alexnet_jax.prepare SRC data/half --first-classes 5
    python -m alexnet_jax.train experiments/bases/fashion.py --data data/half --seed 0 --workdir runs/half_the_classes/0

Claim: none that fits. The paper trained a network of six convolutions on the 22,000 classes of ImageNet's Fall 2011
release, fine-tuned it, and measured a top-5 error of 16.6 % in place of 18.2 % (section 6.1).
"""

from alexnet_jax import preset
from alexnet_jax.config import Config

INIT = "runs/half_the_classes/{seed}"


def change(base: Config) -> Config:
    return base


CONFIG = change(preset("fashion"))
