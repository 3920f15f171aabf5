"""The CIFAR-10 networks of cuda-convnet's example-layers: four layers as in Figure 1, or with two local layers."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
from jax import Array

from alexnet_jax.config import CifarConfig
from alexnet_jax.networks import layers, pooling
from alexnet_jax.networks.columns import Place
from alexnet_jax.networks.modules import Activations, Convolution, Draw, Local, Logits, follow


class Cifar(nn.Module):
    """Two convolutions, a third or two local layers, and the logits; no dropout."""

    config: CifarConfig
    place: Place = Place(1)
    own_norm: Callable[[Array], Array] | None = None

    @nn.compact
    def __call__(self, images_BHWC: Array, draw: Draw | None = None) -> Activations:
        net, acts = self.config, Activations()

        def conv(name: str, x: Array) -> Array:
            layer = getattr(net, name)
            kind = Local if name.startswith("local") else Convolution
            return follow(
                name,
                layer.then,
                kind(layer, name=name)(x),
                acts,
                activation=layers.activation(net.activation),
                pool=lambda name, x: pooling.pool(x, getattr(net, name)),
                norm=(self.own_norm or partial(layers.lrn, norm=net.lrn, columns=1)) if net.norm else None,
            )

        x = images_BHWC
        for name in net.convs:
            x = conv(name, x)
        acts["fc10"] = Logits(net.fc10, self.place, name="fc10")(x)
        return acts
