"""Initial biases of 1 where the paper has them (section 5): model.conv2.bias, model.conv4.bias,
model.conv5.bias, model.fc6.bias, model.fc7.bias.

    python -m alexnet_jax.train experiments/biases_of_one.py

Claim: they speed up the early stages of learning, because the ReLUs have positive inputs. No final error is given.
"""

from dataclasses import replace

from alexnet_jax import preset
from alexnet_jax.config import Config


def change(base: Config) -> Config:
    names = ("conv2", "conv4", "conv5", "fc6", "fc7")
    layers = {name: replace(getattr(base.model, name), bias=1.0) for name in names}
    return replace(base, model=replace(base.model, **layers))


CONFIG = change(preset("fashion"))
