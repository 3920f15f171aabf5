"""A network of one's own, with everything around it: data, augmentation, optimiser, log, checkpoints, ten crops.

python examples/own_network.py
"""

from dataclasses import replace

import flax.linen as nn
import jax.numpy as jnp

import alexnet_jax as alexnet

config = alexnet.preset("fashion")
config = replace(config, optim=replace(config.optim, rate=0.002, layer_rates=()))
network = nn.Sequential([nn.Conv(32, (5, 5), strides=2), nn.relu, nn.Conv(64, (3, 3), strides=2), nn.relu,
                         lambda x: x.reshape(len(x), -1), nn.Dense(10)])  # fmt: skip


def init(key):
    return network.init(key, jnp.zeros((1, 28, 28, 1)))["params"]


def forward(params, images, *, key=None, train=False):
    return network.apply({"params": params}, images)


if __name__ == "__main__":
    run = alexnet.fit(config, "runs/own_network", init=init, forward=forward)
    print(alexnet.evaluate(run.path, crops=10, forward=forward))
