"""AlexNet (section 3.5), written once for a device that holds some of its columns."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
from jax import Array

from alexnet_jax.config import ModelConfig
from alexnet_jax.networks import columns, layers
from alexnet_jax.networks.modules import Activations, Convolution, Draw, FullyConnected, Logits, dropout, follow


class AlexNet(nn.Module):
    """The network from the point of view of a device that holds `here` of its columns.

    The other columns are on the mesh axis `axis`; None means that all of them are here. Returns every activation by
    name, the logits as "fc8". On a mesh they have this device's channels.
    """

    config: ModelConfig
    here: int
    axis: str | None = None
    own_norm: Callable[[Array], Array] | None = None
    """replaces LRN on one column's maps"""

    @nn.compact
    def __call__(self, images_BHWC: Array, draw: Draw | None = None) -> Activations:
        net, acts = self.config, Activations()

        def meet(name: str, x: Array) -> tuple[Array, int]:
            """What a layer reads, and in how many parts that do not mix: one where the columns meet."""
            if name in net.meet:
                return columns.exchange(x, self.axis), 1
            return x, 1 if name == "conv1" else self.here  # every column reads the whole image

        def conv(name: str, x: Array) -> Array:
            layer = getattr(net, name)
            x, blind = meet(name, x)
            x = Convolution(layer, self.share, blind, name=name)(x)
            return follow(
                name,
                layer.then,
                x,
                acts,
                activation=layers.activation(net.activation),
                pool=lambda name, x: layers.pool(x, net.pool, ragged=name in net.ragged),
                norm=self.lrn if net.norm else None,
                map_norm=partial(layers.map_norm, norm=net.map_norm) if net.norm else None,
            )

        def drop(name: str, x: Array) -> Array:
            if name not in net.dropout_before or not net.dropout:
                return x
            return dropout(x, net.dropout, net.dropout_scale, draw, salt=int(name[2:]) - 1)

        def dense(name: str, x: Array) -> Array:
            x, blind = meet(name, drop(name, x))
            x = FullyConnected(getattr(net, name), self.share, blind, name=name)(x)
            acts[name] = layers.activation(net.activation)(x)
            return acts[name]

        x = conv("conv1", images_BHWC)
        x = conv("conv2", x)
        x = conv("conv3", x)  # the columns meet, unless the config says otherwise
        x = conv("conv4", x)
        x = conv("conv5", x)
        if net.conv6:
            x = conv("conv6", x)  # they meet
        x = dense("fc6", x)  # they meet
        x = dense("fc7", x)  # they meet
        acts["fc8"] = Logits(net.fc8, self.axis, name="fc8")(drop("fc8", x))
        return acts

    def share(self, width: int) -> int:
        """This device's part of a layer's width."""
        return width * self.here // self.config.columns

    def lrn(self, x: Array) -> Array:
        """LRN with windows that end at the column's border or, as in Caffe, cross it; or the caller's own norm."""
        norm = self.config.lrn
        if self.own_norm:
            return layers.in_columns(self.own_norm, self.here, x)
        if not self.config.lrn_across_columns:
            return layers.lrn(x, norm, self.here)
        return columns.across_columns(partial(layers.lrn, norm=norm, columns=1), x, *norm.reach, self.axis)
