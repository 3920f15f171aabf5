"""Configs: JSON and back, differences, and values that are refused."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace

import jax
import numpy as np
import pytest

from alexnet_jax.config import (
    BadInput,
    Config,
    Conv,
    ModelConfig,
    OptimConfig,
    Pool,
    Schedule,
    diff,
    from_json,
    networks,
    pooled,
    presets,
    to_json,
)


@pytest.mark.parametrize("name", presets.PRESETS)
def test_json_gives_an_equal_config(name: str) -> None:
    config = presets.preset(name)
    assert from_json(to_json(config)) == config


def test_diff_names_the_fields_and_both_values() -> None:
    config = Config()
    other = replace(config, seed=3, model=replace(config.model, conv1=replace(config.model.conv1, kernels=64)))
    assert diff(config, other) == {"seed": (0, 3), "model.conv1.kernels": (96, 64)}
    assert diff(config, config) == {}


def test_json_with_an_unknown_field_is_refused_by_its_name() -> None:
    with pytest.raises(BadInput, match=r"model\.dropuot is not a field"):
        from_json(to_json(Config()).replace('"dropout"', '"dropuot"'))


def test_json_with_an_unknown_network_is_refused() -> None:
    with pytest.raises(BadInput, match="there is no network 'resnet'"):
        from_json(to_json(Config()).replace('"alexnet"', '"resnet"'))


def test_old_json_with_layer_rates_as_an_object_is_read() -> None:
    old = to_json(Config()).replace('"layer_rates": []', '"layer_rates": {"conv1": 0.01, "fc8": 1.0}')
    assert from_json(old).optim.layer_rates == (("conv1", 0.01),)


@pytest.mark.parametrize(("met", "meet"), [("true", ("conv3", "conv6", "fc6", "fc7")), ("false", ())])
def test_old_json_with_columns_meet_is_read(met: str, meet: tuple[str, ...]) -> None:
    new = '"meet": [\n      "conv3",\n      "conv6",\n      "fc6",\n      "fc7"\n    ]'
    assert new in to_json(Config())
    model = from_json(to_json(Config()).replace(new, f'"columns_meet": {met}')).model
    assert isinstance(model, ModelConfig)
    assert model.meet == meet


def test_the_sides_of_the_maps_are_those_of_the_paper() -> None:
    sides = ModelConfig().sides()
    assert sides == {
        "conv1": 55, "pool1": 27, "conv2": 27, "pool2": 13, "conv3": 13, "conv4": 13, "conv5": 13, "pool5": 6,
    }  # fmt: skip


@pytest.mark.parametrize(("side", "expected"), [(55, 27), (27, 13), (13, 6), (28, 14), (14, 7), (2, 1), (1, 1)])
def test_pooled_counts_a_ragged_last_window(side: int, expected: int) -> None:
    assert pooled(side, Pool(size=3, stride=2)) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 6}, r"model.image_size 6 does not fit the network: conv1's 11x11 kernel reads a map of 6x6"),
        ({"dropout": 1.0}, "model.dropout is 1"),
        (
            {"meet": ("conv3", "fc8")},
            "model.meet is conv3, fc8; name each of conv2, conv3, conv4, conv5, conv6, fc6, fc7",
        ),
        ({"meet": ("conv3", "conv3")}, "at most once"),
        ({"columns": 0}, "model.columns is 0"),
        ({"conv3": Conv(0, 3)}, "model.conv3.kernels is 0; give at least 1"),
        ({"image_size": 19, "ragged": ()}, "model.image_size 19 leaves pool2 a map of 1x1, smaller than its window"),
        ({"conv3": Conv(383, 3)}, "model.conv3.kernels is 383, which 2 columns cannot share"),
    ],
)
def test_an_impossible_network_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        replace(ModelConfig(), **change)


def test_activations_are_the_elementwise_functions_of_jax_nn() -> None:
    names = networks.activations()
    assert {"relu", "tanh", "sigmoid", "gelu", "silu", "elu", "leaky_relu", "softplus", "relu6", "mish"} <= set(names)
    x = jax.random.normal(jax.random.key(0), (2, 6))
    for name in names:
        both = getattr(jax.nn, name)(x)
        # Half of the maps, as on one of two devices, give half of the result.
        np.testing.assert_array_equal(both[:, :3], getattr(jax.nn, name)(x[:, :3]), name)
    for name in ("softmax", "glu", "one_hot", "logsumexp", "nothing"):
        with pytest.raises(BadInput, match=f"model.activation is '{name}'; give one of jax.nn's celu, elu, gelu"):
            ModelConfig(activation=name)


def test_a_bias_schedule_equal_to_that_of_the_weights_is_stored_as_none() -> None:
    """Old run directories hold it twice."""
    optim, steps = OptimConfig(), Schedule("steps", epochs=(1.0,))
    assert replace(optim, bias_schedule=optim.schedule) == optim
    assert optim.schedules == (optim.schedule, optim.schedule)
    own = replace(optim, bias_schedule=steps)
    assert own.schedules == (optim.schedule, steps)
    plateau = json.dumps(asdict(optim.schedule))
    old = to_json(Config()).replace('"bias_schedule": null', f'"bias_schedule": {plateau}')
    assert from_json(old) == Config()
    assert from_json(to_json(Config(optim=own))).optim == own


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Schedule(warmup=-1.0), "a warmup of -1 epochs; give 0 or more"),
        (lambda: OptimConfig(trust=0.0), "optim.trust is 0; give a finite number of more than 0"),
    ],
)
def test_an_impossible_schedule_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make()
