"""What all contestants are given: the network to be timed, fresh parameters and one batch."""

import dataclasses
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from alexnet_jax.config import BadInput, Config, Model, ModelConfig, Precision, TutorialConfig
from alexnet_jax.networks import functional
from alexnet_jax.training.optimiser import decay_of, rate_of, rates
from alexnet_jax.training.progress import Progress

Work = Literal["train", "infer"]

# The largest accepted difference between two losses, as a fraction of the reference's first loss.
AGREE: dict[Precision, float] = {"float32": 1e-3, "tf32": 5e-3, "bfloat16": 1e-2}


def flops(model: Model, work: Work, batch: int) -> int:
    """Floating-point operations of one step: two for each multiply-add in convolutions and matrix products."""
    return 2 * batch * functional.multiply_adds(model, train=work == "train")


def task_config(config: Config, batch: int) -> Config:
    """The config as it is timed. Raises BadInput if the other programs do not implement its network."""
    name, model = config.preset, config.model
    if not isinstance(model, ModelConfig | TutorialConfig):
        raise BadInput(
            f"{name} is a CIFAR-10 network, which the other programs do not implement; choose another preset"
        )
    elsewhere = isinstance(model, ModelConfig) and model.meet != ModelConfig().meet
    if elsewhere or model.activation != "relu" or model.pool.kind != "max":
        raise BadInput(f"{name}: the other programs implement only columns that meet as in 2012, ReLU and max pooling")
    if config.optim.rule not in ("sgd", "adam"):
        raise BadInput(f"{name} trains by {config.optim.rule}, and the other programs implement only sgd and adam")
    # Activations of this fresh network are near 1. With the published alphas a wrong window would not show in the
    # losses. The time a norm takes does not depend on alpha.
    model = replace(model, lrn=replace(model.lrn, alpha=0.05))
    if isinstance(model, ModelConfig):
        model = replace(model, map_norm=replace(model.map_norm, alpha=0.05))
    # At this learning rate the loss falls visibly within three steps, before rounding errors grow.
    rate = (0.1 if config.optim.rule == "adam" else 1.0) / functional.describe(model)[-1].kernel[0]
    return replace(config, model=model, optim=replace(config.optim, rate=rate, batch=batch))


def write_task(directory: Path, config: Config, work: Work, precision: Precision, threads: int) -> None:
    """Writes what every contestant is given, in files that any Python can read.

    task.json    {"config", "rule", "momentum", "rates": {"conv1/kernel": ..}, "decays": {..}, "work", "precision",
                 "threads"}
    params.npz   "conv1/kernel" [H, W, in, out], "fc6/kernel" [in, out], "conv1/bias" ..: this package's layout
    batch.npz    "images" float32 [B, H, W, C], "labels" int32 [B]
    """
    optim, rng = config.optim, np.random.default_rng(0)
    first = rates(optim, 0.0, Progress())
    params, rates_, decays = {}, {}, {}
    for layer, shapes in jax.eval_shape(lambda: functional.init(config.model, jax.random.key(0))).items():
        for kind, array in shapes.items():
            name = f"{layer}/{kind}"
            # Kernels of this spread keep the spread of activations through ReLU.
            std = 0.1 if kind == "bias" else math.sqrt(2 / math.prod(array.shape[:-1]))
            params[name] = rng.normal(0, std, array.shape).astype(np.float32)
            rates_[name] = rate_of(optim, first, layer, kind)
            decays[name] = decay_of(optim, layer, kind) or 0.0
    size, channels = config.model.image_size, config.model.channels
    images = rng.normal(size=(optim.batch, size, size, channels)).astype(np.float32)
    labels = rng.integers(config.model.classes, size=optim.batch).astype(np.int32)
    task = {
        "config": dataclasses.asdict(config),
        "rule": optim.rule,
        "momentum": optim.momentum,
        "rates": rates_,
        "decays": decays,
        "work": work,
        "precision": precision,
        "threads": threads,
    }
    (directory / "task.json").write_text(json.dumps(task))
    np.savez(directory / "params.npz", **params)
    np.savez(directory / "batch.npz", images=images, labels=labels)
