"""One run of an experiment: trained or continued, and measured. And several networks as one."""

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import jax

from alexnet_jax.ablation.results import Key, Result, digest
from alexnet_jax.config import Config
from alexnet_jax.data.records import EMBEDDED, TRAIN, Records
from alexnet_jax.networks import columns
from alexnet_jax.training import checkpoint
from alexnet_jax.training.fit import fit, steps_of
from alexnet_jax.training.meter import meter_of, shared_columns

TRAIN_EXAMPLES = 10_000


@dataclass(frozen=True)
class Task:
    """A run to measure."""

    key: Key
    config: Config
    """with its seed"""
    run: Path
    """its run directory"""
    directory: Path | None
    """of the images; None for the embedded ones"""
    init: Path | None = None
    """the run or the weights that it starts from"""


def key_of(experiment: str, config: Config, records: Records, steps: int | None) -> Key:
    """What the result of a run will be a result of; `steps` ends runs early."""
    whole = steps_of(config, records.examples(TRAIN))
    return Key(experiment, config.seed, config.preset, records.fingerprint[:12], min(whole, steps or whole))


def measure(task: Task) -> Result:
    """Trains a run, or continues it, and measures it. Raises what `fit` raises."""
    began = time.perf_counter()
    fit(task.config, task.run, task.directory, steps=task.key.steps, init=task.init, progress=False)
    return measure_runs(task, [task.run], began)


def measure_runs(task: Task, runs: Sequence[Path], began: float) -> Result:
    """The result of one trained network, or of several whose probabilities are averaged."""
    records = Records(task.directory or EMBEDDED)
    there = [checkpoint.find(run) for run in runs]
    mesh = columns.suitable_mesh(shared_columns(there))
    meter, params = meter_of(there, records, mesh)
    ten, one = (meter.measure(params, crops) for crops in (10, 1))
    train = meter.measure(params, 1, split=TRAIN, first=TRAIN_EXAMPLES)
    jax.clear_caches()  # the next run has other programs, and those of hundreds of runs would add up
    return Result(
        *task.key,
        config=digest(task.config),
        top1_error=ten["top1_error"],
        top5_error=ten["top5_error"],
        loss=ten["loss"],
        one_crop_top1_error=one["top1_error"],
        one_crop_top5_error=one["top5_error"],
        train_error=train["top1_error"],
        seconds=round(time.perf_counter() - began, 1),
        versions={"alexnet_jax": version("alexnet-jax"), "jax": jax.__version__, "python": platform.python_version()},
        device=f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
    )
