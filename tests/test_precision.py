"""bfloat16: which arrays have which type, how close the numbers are to float32, and that it trains."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import run_command
from test_alexnet import equations, loss_and_gradient, relative

import alexnet_jax as alexnet
from alexnet_jax.config import BadInput, Config, Pool, diff, from_json, to_json
from alexnet_jax.networks.modules import add_bias
from alexnet_jax.training.optimiser import Rates
from alexnet_jax.training.step import make_train_step, new_state


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 60, (8, 28, 28, 1)).astype(np.float32)


def types(tree: Any) -> set[Any]:
    return {array.dtype for array in jax.tree.leaves(tree)}


@pytest.mark.parametrize("layout", [(1, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("name", ["fashion", "tutorial", "cifar", "cifar_11pct"])
def test_layers_compute_in_bfloat16_and_all_else_is_float32(name: str, layout: tuple[int, int]) -> None:
    config = alexnet.preset(name)
    model = config.model
    mesh = alexnet.make_mesh(layout[0], min(layout[1], model.columns))
    params = jax.eval_shape(lambda key: alexnet.init(model, key), jax.random.key(0))
    shape = (4, model.image_size, model.image_size, model.channels)
    views, pictures = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(shape, jnp.uint8)
    acts = jax.eval_shape(alexnet.features(model, mesh, "bfloat16"), params, views)
    assert acts.pop(model.logits).dtype == jnp.float32
    assert types(acts) == {jnp.dtype(jnp.bfloat16)}
    for optim in (config.optim, replace(config.optim, rule="adam")):
        state = jax.eval_shape(lambda params, optim=optim: new_state(params, optim), params)
        step = make_train_step(
            alexnet.forward(model, mesh, "bfloat16"), lambda images, *_: images.astype(jnp.float32), optim
        )
        labels = jax.ShapeDtypeStruct((4,), jnp.int32)
        after, metrics = jax.eval_shape(step, state, pictures, labels, jax.random.key(0), Rates(0.1, 0.1, 1.0), 0.0)
        assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, state)
        assert types((state.params, metrics)) == {jnp.dtype(jnp.float32)}


def test_the_columns_exchange_bfloat16(tiny: Config, tiny_params: Any, images: np.ndarray) -> None:
    """In the uncompiled program. XLA's CPU backend has no sums in bfloat16 and widens some."""
    forward = alexnet.forward(tiny.model, alexnet.make_mesh(1, 2), "bfloat16")
    jaxpr = jax.make_jaxpr(loss_and_gradient(forward))(tiny_params, images, jax.random.key(1)).jaxpr
    sent: dict[str, list[Any]] = {}
    for equation in equations(jaxpr):
        if "column" in str(equation.params.get("axes", equation.params.get("axis_name"))):
            sent.setdefault(equation.primitive.name, []).extend(var.aval.dtype for var in equation.invars)
    assert sent["all_gather"] == sent["reduce_scatter"] == [jnp.bfloat16] * 3
    sums = [dtype for name, types in sent.items() if name.startswith("psum") for dtype in types]
    assert sums == [jnp.float32], "the logits"


def test_gradients_are_as_close_to_those_of_float32_as_eight_bits_allow(
    tiny: Config, tiny_params: Any, images: np.ndarray
) -> None:
    """Rounding to bfloat16 changes a number by up to 2^-9 of itself, and a gradient passes some twenty roundings.

    They are independent, so an error of several times 2^-9 is expected, and 16 times is allowed. That only holds
    without decisions: a ReLU or a maximum that changes its decision changes everything after it, so there are none
    here. Dropout is on; with another mask, or with columns that meet in the wrong way, the error would be far larger.
    """
    model, mesh = replace(tiny.model, activation="tanh", pool=Pool("average")), alexnet.make_mesh(2, 2)
    params = tiny_params
    networks = alexnet.forward(model), alexnet.forward(model, mesh, "bfloat16")
    here, there = (jax.jit(loss_and_gradient(network)) for network in networks)
    loss, gradient = here(params, images, jax.random.key(2))
    loss_there, gradient_there = there(alexnet.shard(params, model, mesh), images, jax.random.key(2))
    assert types(gradient_there) == {jnp.dtype(jnp.float32)}
    assert float(loss_there) == pytest.approx(float(loss), rel=2**-9)
    assert 2**-12 < relative(gradient, gradient_there) < 2**-5
    assert relative(gradient, here(params, images, jax.random.key(3))[1]) > 2**-3


def test_the_gradient_of_a_bias_is_exact_in_a_long_sum() -> None:
    """A sum in bfloat16 stops growing at 256 equal terms; this one has 4,096."""
    maps = jnp.zeros((16, 16, 16, 1), jnp.bfloat16)
    gradient = jax.grad(lambda bias: add_bias(maps, bias).astype(jnp.float32).sum())(jnp.ones((1, 1, 1, 1)))
    assert float(gradient.sum()) == 16**3


def test_biases_are_added_in_float32(tiny: Config, tiny_params: Any, images: np.ndarray) -> None:
    """The logits are biases alone, with a value that bfloat16 cannot represent."""
    params = jax.tree.map(jnp.zeros_like, tiny_params)
    params["fc8"]["bias"] += 1.001
    assert float(jnp.asarray(1.001, jnp.bfloat16)) == 1.0
    np.testing.assert_allclose(alexnet.forward(tiny.model, precision="bfloat16")(params, images), 1.001, rtol=1e-6)


def test_a_run_in_bfloat16_learns_and_keeps_float32(tiny_file: Path, tiny_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = (
        tiny_file,
        "--data",
        tiny_data,
        "--workdir",
        run,
        "--log-every",
        4,
        "--optim.rate",
        0.1,
        "--model.dropout",
        0,
    )
    ended = run_command("train", *command, "--precision", "bfloat16")
    assert ended.code == 0, ended.err
    assert "precision: float32 -> bfloat16" in ended.out
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert losses[-1] < 0.7 * losses[0]
    config, params = alexnet.load(run)
    assert config.precision == "bfloat16"
    assert types(params) == {jnp.dtype(jnp.float32)}
    figures = json.loads(run_command("evaluate", run, "--json").out)
    ten_crops = next(line for line in lines if "validation/ten_crops/loss" in line)
    assert figures["loss"] == pytest.approx(ten_crops["validation/ten_crops/loss"], rel=1e-6)
    refused = run_command("train", *command).refused
    assert "another config: precision (was bfloat16, now float32)" in refused


def test_an_old_config_without_precision_is_float32() -> None:
    old = json.loads(to_json(Config()))
    del old["precision"]
    assert from_json(json.dumps(old)) == Config()
    assert diff(Config(), Config(precision="bfloat16")) == {"precision": ("float32", "bfloat16")}


def test_an_unknown_precision_is_refused(tiny: Config) -> None:
    other: Any = "float16"
    with pytest.raises(BadInput, match="precision is 'float16'; give one of float32, tf32, bfloat16"):
        Config(precision=other)
    with pytest.raises(BadInput, match="precision is 'float16'"):
        alexnet.forward(tiny.model, precision=other)
    assert "--precision" in run_command("train", "fashion", "--precision", "float16").refused
