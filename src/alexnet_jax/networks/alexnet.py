"""AlexNet (section 3.5), written once for a device that holds some of its columns."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
from jax import Array

from alexnet_jax.config import ModelConfig
from alexnet_jax.networks import columns, layers, pooling
from alexnet_jax.networks.modules import (
    Activations,
    Convolution,
    Draw,
    FullyConnected,
    Logits,
    Normalisation,
    dropout,
    follow,
)


class AlexNet(nn.Module):
    """The network from the point of view of a device that holds some of its columns.

    Returns every activation by name, the logits as "fc8". On a mesh they have this device's channels.
    """

    config: ModelConfig
    place: columns.Place
    """which columns and units this device holds, and along which mesh axes the others lie"""
    own_norm: Callable[[Array], Array] | None = None
    """replaces LRN on one column's maps"""

    @nn.compact
    def __call__(self, images_BHWC: Array, draw: Draw | None = None) -> Activations:
        net, place, acts = self.config, self.place, Activations()

        def meet(name: str, x: Array) -> tuple[Array, int]:
            """What a layer reads, and in how many parts that do not mix: one where the columns meet."""
            if name in net.meet:
                with jax.named_scope(name):
                    return columns.exchange(x, place.axis), 1
            return x, 1 if name == "conv1" else place.columns  # every column reads the whole image

        def conv(name: str, x: Array) -> Array:
            if name not in net.convs:
                return x
            layer = net.convs[name]
            x, blind = meet(name, x)
            x = Convolution(layer, self.share, blind, name=name)(x)
            return follow(
                name,
                layer.then,
                x,
                acts,
                activation=layers.activation(net.activation),
                pool=lambda name, x: pooling.pool(x, net.pool, ragged=name in net.ragged),
                norm=self.lrn if net.norm else None,
                map_norm=partial(layers.map_norm, norm=net.map_norm) if net.norm else None,
                batch_norm=batch_norm,
            )

        def batch_norm(name: str, x: Array) -> Array:
            return Normalisation(net.batch_norm, draw is not None, place.images_axis, name=name)(x)

        def drop(name: str, x: Array, draw: Draw | None) -> Array:
            if name not in net.dropout_before or not net.dropout:
                return x
            return dropout(x, net.dropout, net.dropout_scale, draw, salt=int(name[2:]) - 1)

        def dense(name: str, x: Array) -> Array:
            x, blind = meet(name, x)
            parts = min(blind, place.parts)  # with the layout hybrid, units here may belong to fewer columns
            x = columns.own_part(x, parts, place.units_axis)
            x = FullyConnected(getattr(net, name), self.share_of_units, blind // parts, name=name)(x)
            acts[name] = layers.activation(net.activation)(x)
            return acts[name]

        x = conv("conv1", images_BHWC)
        x = conv("conv2", x)
        x = conv("conv3", x)  # the columns meet, unless the config says otherwise
        x = conv("conv4", x)
        x = conv("conv5", x)
        x = conv("conv6", x)  # they meet; most networks have no sixth
        # With the layout hybrid, from here on every device computes its units for the images of all devices.
        with jax.named_scope("fc6"):
            x = columns.all_images(drop("fc6", x, draw), place.units_axis)
        draw = draw and draw.of_units(len(x), place)
        x = dense("fc6", x)  # they meet
        with jax.named_scope("fc7"):
            x = columns.exchange(drop("fc7", x, draw), place.units_axis)
        x = dense("fc7", x)  # they meet
        acts["fc8"] = Logits(net.fc8, place, name="fc8")(drop("fc8", x, draw))
        return acts

    def share(self, kernels: int) -> int:
        """This device's part of a convolution's kernels."""
        return kernels * self.place.columns // self.config.columns

    def share_of_units(self, units: int) -> int:
        """This device's part of a fully connected layer's units."""
        return self.share(units) // self.place.parts

    def lrn(self, x: Array) -> Array:
        """LRN with windows that end at the column's border or, as in Caffe, cross it; or the caller's own norm."""
        norm = self.config.lrn
        if self.own_norm:
            return layers.in_columns(self.own_norm, self.place.columns, x)
        if not self.config.lrn_across_columns:
            return layers.lrn(x, norm, self.place.columns)
        return columns.across_columns(partial(layers.lrn, norm=norm, columns=1), x, *norm.reach, self.place.axis)
