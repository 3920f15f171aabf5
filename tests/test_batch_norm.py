"""Batch normalisation: the whole batch's statistics on every layout, and running averages that a step keeps."""

from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import run_command

import alexnet_jax as alexnet
from alexnet_jax.config import BadInput, BatchNorm, CifarConfig, Config, OptimConfig
from alexnet_jax.networks.columns import Layout
from alexnet_jax.training.optimiser import Rates, moments, update

BATCH = 8
NORMED = ("batch_norm", "activation", "pool")


@pytest.fixture(scope="module")
def config(tiny: Config) -> Config:
    net = tiny.model
    # Between meetings, where columns are blind, and before the pooling layer that the hybrid layout gathers.
    model = replace(net, conv2=replace(net.conv2, then=NORMED), conv5=replace(net.conv5, then=NORMED))
    return replace(tiny, model=model)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 60, (BATCH, 28, 28, 1))


def gradient(config: Config, images: np.ndarray, mesh: tuple[int, int] | None, layout: Layout = "columns") -> Any:
    model, there = config.model, alexnet.make_mesh(*mesh) if mesh else None
    params = jax.tree.map(lambda x: x.astype(jnp.float64), alexnet.init(model, jax.random.key(0)))
    forward = alexnet.forward(model, there, layout=layout)

    def loss(params: Any) -> jax.Array:
        logits = forward(params, images, key=jax.random.key(1), train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, np.arange(BATCH) % 3).mean()

    gradient_of = jax.jit(jax.grad(loss), compiler_options={"xla_backend_optimization_level": 0})  # compiles faster
    return jax.device_get(gradient_of(alexnet.shard(params, model, there, layout=layout) if there else params))


def test_every_layout_has_the_gradients_and_the_running_averages_of_one_device(
    config: Config, images: np.ndarray
) -> None:
    with jax.enable_x64(True):
        expected = gradient(config, images, None)
        features = alexnet.features(config.model)
        params = jax.tree.map(lambda x: x.astype(jnp.float64), alexnet.init(config.model, jax.random.key(0)))
        conv2 = np.asarray(features(params, images)["conv2"])
        others = [gradient(config, images, mesh) for mesh in ((2, 2), (4, 1))]
        others.append(gradient(config, images, (2, 2), "hybrid"))
    mean, variance = conv2.mean((0, 1, 2)), conv2.var((0, 1, 2))
    np.testing.assert_allclose(expected["norm2"]["running_mean"], -0.1 * mean, rtol=1e-9)
    np.testing.assert_allclose(expected["norm2"]["running_variance"], 0.1 * (1 - variance), rtol=1e-9)
    for other in others:
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12), other, expected)


def test_it_is_flax_s_batch_norm_in_training_and_at_test_time(config: Config, images: np.ndarray) -> None:
    model = config.model
    params = alexnet.init(model, jax.random.key(0))
    rng, maps = np.random.default_rng(1), model.conv2.kernels
    own = {"scale": jnp.float32(rng.normal(1, 0.3, maps)), "bias": jnp.float32(rng.normal(0, 1, maps))}
    running = {
        "running_mean": jnp.float32(rng.normal(0, 1, maps)),
        "running_variance": jnp.float32(rng.uniform(1, 2, maps)),
    }
    params["norm2"] = own | running
    acts = alexnet.features(model)(params, images.astype(np.float32))
    theirs = nn.BatchNorm(use_running_average=True, epsilon=1e-4).apply(
        {
            "params": own,
            "batch_stats": {"mean": running["running_mean"], "var": running["running_variance"]},
        },
        acts["conv2"],
    )
    pooled = nn.max_pool(nn.relu(theirs), (3, 3), (2, 2), ((0, 1), (0, 1)))
    side = acts["pool2"].shape[1]
    np.testing.assert_allclose(acts["pool2"], pooled[:, :side, :side], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "optim", [OptimConfig(), OptimConfig(rule="lars"), optax.adamw(0.1)], ids=["sgd", "lars", "own"]
)
def test_no_rule_touches_the_running_averages(optim: Any) -> None:
    """Momentum, decay and trust are for what is learnt."""
    norm = {name: jnp.full(4, 2.0) for name in ("scale", "bias", "running_mean", "running_variance")}
    params = {"norm1": norm, "conv1": {"kernel": jnp.ones((3, 3, 1, 4)), "bias": jnp.ones(4)}}
    gradients, state = jax.tree.map(lambda x: jnp.full_like(x, 0.25), params), moments(optim, params)
    for step in range(1, 4):
        params, state, changes = update(optim, params, state, gradients, Rates(0.1, 0.1, 1.0))
        for name in ("running_mean", "running_variance"):
            assert params["norm1"][name].tolist() == [2 - 0.25 * step] * 4
            assert changes["norm1"][name].tolist() == [-0.25] * 4
        for name in ("scale", "bias"):
            assert params["norm1"][name].tolist() != [2 - 0.25 * step] * 4


def test_a_run_keeps_the_running_averages_and_every_layout_evaluates_with_them(
    config: Config, tiny_data: Any, tmp_path: Any
) -> None:
    run = alexnet.fit(config, tmp_path / "run", tiny_data, alexnet.make_mesh(1, 2), progress=False)
    validation = [line for line in run.metrics if "validation/top1_error" in line]
    assert float(run.params["norm2"]["running_mean"].std()) > 0
    assert float(run.params["norm2"]["running_variance"].std()) > 0
    figures = alexnet.evaluate(run.path, crops=1, mesh=alexnet.make_mesh(4, 1), progress=False)
    assert figures["loss"] == pytest.approx(validation[-1]["validation/loss"], rel=1e-5)


def test_what_cannot_be_normalised_is_said() -> None:
    with pytest.raises(BadInput, match="a batch norm has momentum 1"):
        BatchNorm(momentum=1.0)
    net = CifarConfig()
    with pytest.raises(
        BadInput, match=r"model\.conv1\.then has batch_norm, which only AlexNet's convolutions can have"
    ):
        replace(net, conv1=replace(net.conv1, then=NORMED))
    assert (
        "model.conv1.then has batch_norm"
        in run_command("train", "tutorial", "--model.conv1.then", "batch_norm").refused
    )
