"""No response normalisation (section 3.3): model.norm.

    python -m alexnet_jax.train experiments/no_lrn.py

Claim: on ImageNet the error rises by 1.4 (top-1) and 1.2 (top-5) points; net 148 of the released code measured it.
"""

from dataclasses import replace

from alexnet_jax import preset

BASE = preset("fashion")
CONFIG = replace(BASE, model=replace(BASE.model, norm=False))
