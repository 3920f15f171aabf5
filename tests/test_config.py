from dataclasses import replace

import pytest

from alexnet_jax.config import BadInput, Config, Conv, ModelConfig, Pool, diff, from_json, pooled, presets, to_json


@pytest.mark.parametrize("name", presets.PRESETS)
def test_json_gives_an_equal_config(name: str) -> None:
    config = presets.preset(name)
    assert from_json(to_json(config)) == config


def test_diff_names_the_fields_and_both_values() -> None:
    config = Config()
    other = replace(config, seed=3, model=replace(config.model, conv1=replace(config.model.conv1, kernels=64)))
    assert diff(config, other) == {"seed": (0, 3), "model.conv1.kernels": (96, 64)}
    assert diff(config, config) == {}


def test_json_with_an_unknown_field_says_which() -> None:
    with pytest.raises(BadInput, match=r"model\.dropuot is not a field"):
        from_json(to_json(Config()).replace('"dropout"', '"dropuot"'))


def test_json_of_a_network_that_is_not_there_says_so() -> None:
    with pytest.raises(BadInput, match="there is no network 'resnet'"):
        from_json(to_json(Config()).replace('"alexnet"', '"resnet"'))


def test_rates_by_layer_that_were_an_object_are_read() -> None:
    old = to_json(Config()).replace('"layer_rates": []', '"layer_rates": {"conv1": 0.01, "fc8": 1.0}')
    assert from_json(old).optim.layer_rates == (("conv1", 0.01),)


def test_sides_of_the_paper() -> None:
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
        ({"columns": 0}, "model.columns is 0"),
        ({"conv3": Conv(0, 3)}, "model.conv3.kernels is 0; it is at least 1"),
        ({"image_size": 19, "ragged": ()}, "model.image_size 19 leaves pool2 a map of 1x1, less than its window"),
        ({"conv3": Conv(383, 3)}, "model.conv3.kernels is 383, which 2 columns cannot share"),
    ],
)
def test_a_network_that_cannot_be_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        replace(ModelConfig(), **change)
