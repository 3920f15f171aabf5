"""Presets against the published numbers (paper; layers-145.cfg and its params of the released code)."""

import jax
import numpy as np
import pytest

from alexnet_jax import presets
from alexnet_jax.config import BadInput, Config
from alexnet_jax.networks import alexnet

LEAVES = {
    "conv1": (55, 55, 96), "norm1": (55, 55, 96), "pool1": (27, 27, 96),
    "conv2": (27, 27, 256), "norm2": (27, 27, 256), "pool2": (13, 13, 256),
    "conv3": (13, 13, 384), "conv4": (13, 13, 384), "conv5": (13, 13, 256), "pool5": (6, 6, 256),
    "fc6": (4096,), "fc7": (4096,), "fc8": (1000,),
}  # fmt: skip
KERNELS = {
    "conv1": (11, 11, 3, 96), "conv2": (5, 5, 48, 256), "conv3": (3, 3, 256, 384), "conv4": (3, 3, 192, 384),
    "conv5": (3, 3, 192, 256), "fc6": (9216, 4096), "fc7": (4096, 4096), "fc8": (4096, 1000),
}  # fmt: skip
PARAMETERS = {
    "conv1": 34_944, "conv2": 307_456, "conv3": 885_120, "conv4": 663_936, "conv5": 442_624,
    "fc6": 37_752_832, "fc7": 16_781_312, "fc8": 4_097_000,
}  # fmt: skip
MULTIPLY_ADDS = {
    "conv1": 105_415_200, "conv2": 223_948_800, "conv3": 149_520_384, "conv4": 112_140_288, "conv5": 74_760_192,
    "fc6": 37_748_736, "fc7": 16_777_216, "fc8": 4_096_000,
}  # fmt: skip


@pytest.mark.parametrize("name", ["paper", "cuda_convnet"])
def test_layers_are_those_of_2012(name: str) -> None:
    model = presets.preset(name).model
    params = jax.eval_shape(lambda key: alexnet.init(model, key), jax.random.key(0))
    assert sum(array.size for array in jax.tree.leaves(params)) == 60_965_224
    assert {layer: both["kernel"].shape for layer, both in params.items()} == KERNELS
    picture = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
    acts = jax.eval_shape(alexnet.features(model), params, picture)
    assert {layer: act.shape[1:] for layer, act in acts.items()} == LEAVES
    rows = alexnet.describe(model)
    assert {row.layer: row.parameters for row in rows} == PARAMETERS
    assert {row.layer: row.multiply_adds for row in rows} == MULTIPLY_ADDS
    assert sum(row.multiply_adds for row in rows) == 724_406_816


def test_initial_weights_are_those_asked_for() -> None:
    model = presets.preset("cuda_convnet").model
    params = jax.jit(lambda key: alexnet.init(model, key))(jax.random.key(0))
    for layer, std in {"conv1": 0.01, "conv2": 0.01, "conv3": 0.03, "conv4": 0.03, "conv5": 0.03, "fc8": 0.01}.items():
        kernel = np.asarray(params[layer]["kernel"])
        assert kernel.std() == pytest.approx(std, rel=0.02)
        assert abs(kernel).max() > 3.5 * std, "the normal distribution was cut off"
    ones = [layer for layer in params if (np.asarray(params[layer]["bias"]) == 1).all()]
    zeros = [layer for layer in params if (np.asarray(params[layer]["bias"]) == 0).all()]
    assert sorted(ones) == ["conv2", "conv4", "conv5", "fc6", "fc7"]
    assert sorted(zeros) == ["conv1", "conv3", "fc8"]


def test_paper_is_the_printed_values() -> None:
    paper = presets.preset("paper")
    assert paper == Config()
    assert (paper.model.lrn.k, paper.model.lrn.n, paper.model.lrn.alpha, paper.model.lrn.beta) == (2, 5, 1e-4, 0.75)
    assert {conv.std for conv in paper.model.convs.values()} == {0.01}
    assert (paper.optim.batch, paper.optim.momentum, paper.optim.decay, paper.optim.rate) == (128, 0.9, 0.0005, 0.01)


def test_cuda_convnet_is_what_ran() -> None:
    """The rows of fidelity that the two presets decide differently."""
    config = presets.preset("cuda_convnet")
    model, optim, data = config.model, config.optim, config.data
    assert model.lrn.alpha == pytest.approx(2e-5)
    assert (model.map_norm.k, model.map_norm.alpha) == (1.0, pytest.approx(0.001 / 25))
    assert model.conv1.then == ("norm", "pool", "activation")
    assert model.conv2.then == ("activation", "norm", "map_norm", "pool")
    assert model.conv5.then == ("pool", "activation")
    assert (optim.bias_rate, optim.decay_biases, optim.freeze_conv1) == (2.0, False, 74.0)
    assert (data.crop_run, data.mean, data.colour_noise, data.colour_noise_until) == (32, "centre", "stdev", 68.0)
    assert not data.reshuffle
    assert (model.image_size, model.conv1.padding) == (224, (0, 3))


def test_an_unknown_preset_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BadInput, match="no preset 'alexnet'; there are fashion, paper, cuda_convnet"):
        presets.preset("alexnet")
