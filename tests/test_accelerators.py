"""What is compiled for accelerators: plain code that a compiler can fuse, in the precision that was asked for."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alexnet_jax as alexnet
from alexnet_jax.config import Precision
from alexnet_jax.data.augment import Statistics
from alexnet_jax.data.views import augmentation
from alexnet_jax.networks import columns
from alexnet_jax.training.optimiser import rates
from alexnet_jax.training.progress import Progress
from alexnet_jax.training.step import make_train_step, new_state


def lowered(platform: str, batch: int = 128, precision: Precision = "float32") -> str:
    """The whole training step of `cuda_convnet` as it is given to XLA for that platform."""
    config, mesh = alexnet.preset("cuda_convnet"), columns.make_mesh()
    statistics = Statistics(np.zeros((256, 256, 3), np.float32), np.ones(3, np.float32), np.eye(3, dtype=np.float32))
    network = alexnet.forward(config.model, mesh, precision)
    step: Any = make_train_step(network, augmentation(config, statistics, mesh), config.optim)
    state = jax.eval_shape(lambda key: new_state(alexnet.init(config.model, key), config.optim), jax.random.key(0))
    images = jax.ShapeDtypeStruct((batch, 256, 256, 3), jnp.uint8)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    rest = jax.random.key(0), rates(config.optim, 0.0, Progress()), jnp.float32(1)
    return str(step.trace(state, images, labels, *rest).lower(lowering_platforms=(platform,)).as_text())


@pytest.mark.parametrize("platform", ["cuda", "tpu", "cpu"])
def test_what_helps_only_on_cpus_stays_there(platform: str) -> None:
    """No barriers, one kernel gradient per convolution whatever the batch, and conv1 on blocks of 4 x 4 x 3 = 48."""
    on_cpu = platform == "cpu"
    program = lowered(platform)
    assert ("optimization_barrier" in program) == on_cpu
    counts = [text.count("stablehlo.convolution") for text in (program, lowered(platform, batch=512))]
    # conv1 and conv3 once, the others once per column; forward, by kernels, and all but conv1 by inputs.
    assert (counts == [8 + 8 + 7] * 2) == (not on_cpu)
    assert ("tensor<3x3x48x96xf32>" in program or "tensor<96x3x3x48xf32>" in program) == (not on_cpu)


@pytest.mark.parametrize(("precision", "products"), [("float32", "HIGHEST"), ("tf32", "HIGH"), ("bfloat16", "DEFAULT")])
def test_every_product_has_the_precision_of_the_run(precision: Precision, products: str) -> None:
    """Forward and backward. Without an attribute an accelerator takes its default, which for float32 is less."""
    program = lowered("cuda", precision=precision)
    found = re.findall(r"stablehlo\.(?:convolution|dot_general).*?(?:loc|\n)", program)
    assert len(found) == 23 + 9 + 1
    for line in found:
        of_colours = "(tensor<3x3xf32>, " in line
        named = set(re.findall(r"\b(HIGHEST|HIGH|DEFAULT)\b", line)) or {"DEFAULT"}
        assert named == {"HIGHEST" if of_colours else products}, line
