"""AlexNet as it really ran in 2012, its two columns on two devices, in JAX."""

from pathlib import Path

from jax.sharding import Mesh

from alexnet_jax.config import Config
from alexnet_jax.config.presets import preset
from alexnet_jax.networks.columns import make_mesh, shard
from alexnet_jax.networks.functional import Params, features, forward, init

__all__ = ["features", "forward", "init", "load", "make_mesh", "preset", "shard"]


def load(path: str | Path, mesh: Mesh | None = None) -> tuple[Config, Params]:
    """(config, params) of a run directory (its latest checkpoint) or of a checkpoint, on one device or over a mesh.

    Raises BadInput where there is none, it cannot be read, or its columns do not fit the mesh.
    """
    from alexnet_jax.training import checkpoint  # not above: Orbax takes a quarter of a second to import

    found = checkpoint.find(path)
    return found.config, found.params(mesh)
