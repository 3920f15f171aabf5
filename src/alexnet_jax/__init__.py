"""AlexNet as it really ran in 2012, its two columns on two devices, in JAX."""

import sys
from typing import TYPE_CHECKING, Any

if sys.platform == "win32":
    raise ImportError("alexnet_jax runs on Linux and macOS, and on Windows in WSL: ArrayRecord has no Windows build")

from alexnet_jax.config.presets import preset
from alexnet_jax.networks.columns import make_mesh, shard
from alexnet_jax.networks.functional import features, forward, init

if TYPE_CHECKING:
    from alexnet_jax.training.checkpoint import load
    from alexnet_jax.training.fit import fit
    from alexnet_jax.training.meter import evaluate

__all__ = ["evaluate", "features", "fit", "forward", "init", "load", "make_mesh", "preset", "shard"]

# What they need (Orbax, Grain, Optax) takes a second to import, so it is imported when one of them is first used.
_WHOLE_RUNS = {"evaluate": "meter", "fit": "fit", "load": "checkpoint"}


def __getattr__(name: str) -> Any:
    if name not in _WHOLE_RUNS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"alexnet_jax.training.{_WHOLE_RUNS[name]}"), name)
