"""The baseline of the ablations: `fashion` with 8 epochs in place of 28, for all 60,000 images.

python -m alexnet_jax.ablate --base experiments/bases/fashion.py --data data/fashion
"""

from dataclasses import replace

from alexnet_jax import preset

BASE = preset("fashion")
CONFIG = replace(BASE, optim=replace(BASE.optim, epochs=8.0))
