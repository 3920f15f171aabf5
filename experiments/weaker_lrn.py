"""LRN with the alpha of the code of 2012, a fifth of the printed one: model.lrn.alpha.

    python -m alexnet_jax.train experiments/weaker_lrn.py

Claim: none in the paper; the code divided alpha by the size of the window.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config


def change(base: Config) -> Config:
    return replace(base, model=replace(base.model, lrn=replace(base.model.lrn, alpha=2e-5)))


CONFIG = change(preset("fashion"))
