"""Dropout scaled in training, as later frameworks do, and not at test time: model.dropout_scale.

    python -m alexnet_jax.train experiments/inverted_dropout.py

Claim: the same in expectation; but the units that read the dropped ones see twice the input, so the learning rates mean
something else.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config


def change(base: Config) -> Config:
    return replace(base, model=replace(base.model, dropout_scale="train"))


CONFIG = change(preset("fashion"))
