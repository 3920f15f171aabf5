"""The MNIST "AlexNet" of the TensorFlow tutorials (aymericdamien/TensorFlow-Examples, alexnet.py)."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
from jax import Array

from alexnet_jax.config import TutorialConfig
from alexnet_jax.networks import layers, pooling
from alexnet_jax.networks.columns import Place
from alexnet_jax.networks.modules import Activations, Convolution, Draw, FullyConnected, Logits, dropout, follow


class Tutorial(nn.Module):
    """Three convolutions, each with its ReLU, pooling, LRN and dropout, and three fully connected layers."""

    config: TutorialConfig
    place: Place = Place(1)
    own_norm: Callable[[Array], Array] | None = None

    @nn.compact
    def __call__(self, images_BHWC: Array, draw: Draw | None = None) -> Activations:
        net, acts = self.config, Activations()
        activation = layers.activation(net.activation)

        def conv(name: str, x: Array) -> Array:
            layer = self.initial(getattr(net, name))
            x = follow(
                name,
                layer.then,
                Convolution(layer, name=name)(x),
                acts,
                activation=activation,
                pool=lambda _, x: pooling.pool(x, net.pool),
                norm=(self.own_norm or partial(layers.lrn, norm=net.lrn, columns=1)) if net.norm else None,
            )
            return dropout(x, net.dropout, "train", draw, salt=int(name[-1])) if net.dropout else x

        def dense(name: str, x: Array) -> Array:
            acts[name] = activation(FullyConnected(self.initial(getattr(net, name)), name=name)(x))
            return acts[name]

        x = conv("conv1", images_BHWC)
        x = conv("conv2", x)
        x = conv("conv3", x)
        x = dense("fc1", x)
        x = dense("fc2", x)
        acts["out"] = Logits(self.initial(net.out), self.place, name="out")(x)
        return acts

    def initial(self, layer: Any) -> Any:
        """The layer, with one spread for weights and biases where the config asks for it."""
        std = self.config.std
        return layer if std is None else replace(layer, std=std, bias=0.0, bias_std=std)
