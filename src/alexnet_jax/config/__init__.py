"""Everything that decides the numbers of a run, as frozen dataclasses: networks, optimisation, data."""

from alexnet_jax.config.errors import BadInput, check_local, printable
from alexnet_jax.config.networks import (
    BatchNorm,
    CifarConfig,
    Conv,
    Dense,
    Follow,
    Model,
    ModelConfig,
    Pool,
    ResponseNorm,
    TutorialConfig,
    pooled,
    sides,
)
from alexnet_jax.config.presets import PRESETS, preset
from alexnet_jax.config.python_file import names_in
from alexnet_jax.config.run import Config, DataConfig, OptimConfig, Precision, Schedule, check_precision
from alexnet_jax.config.written import diff, flat, from_json, read_config, to_json

__all__ = [
    "PRESETS",
    "BadInput",
    "BatchNorm",
    "CifarConfig",
    "Config",
    "Conv",
    "DataConfig",
    "Dense",
    "Follow",
    "Model",
    "ModelConfig",
    "OptimConfig",
    "Pool",
    "Precision",
    "ResponseNorm",
    "Schedule",
    "TutorialConfig",
    "check_local",
    "check_precision",
    "diff",
    "flat",
    "from_json",
    "names_in",
    "pooled",
    "preset",
    "printable",
    "read_config",
    "sides",
    "to_json",
]
