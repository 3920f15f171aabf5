"""AlexNet as it really ran in 2012, its two columns on two devices, in JAX."""

from alexnet_jax.networks.columns import make_mesh, shard
from alexnet_jax.networks.functional import features, forward, init
from alexnet_jax.presets import preset
from alexnet_jax.training.checkpoint import load

__all__ = ["features", "forward", "init", "load", "make_mesh", "preset", "shard"]
