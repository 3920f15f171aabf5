"""Dropout scaled in training, as later frameworks do, and not at test time: model.dropout_scale.

    python -m alexnet_jax.train experiments/inverted_dropout.py

Claim: the same in expectation; but the units behind see twice the input, so the rates mean something else.
"""

from dataclasses import replace

from alexnet_jax import preset

BASE = preset("fashion")
CONFIG = replace(BASE, model=replace(BASE.model, dropout_scale="train"))
