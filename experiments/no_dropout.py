"""No dropout in fc6 and fc7 (section 4.2): model.dropout.

    python -m alexnet_jax.train experiments/no_dropout.py

Claim: the network overfits badly, and needs about half as many iterations.
"""

from dataclasses import replace

from alexnet_jax import preset

BASE = preset("fashion")
CONFIG = replace(BASE, model=replace(BASE.model, dropout=0.0))
