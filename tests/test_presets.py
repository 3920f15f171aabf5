"""Presets against published numbers: the paper, and layers-145.cfg with its params in the released code."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from alexnet_jax.config import BadInput, Config, presets
from alexnet_jax.networks import functional

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
    params = jax.eval_shape(lambda key: functional.init(model, key), jax.random.key(0))
    assert sum(array.size for array in jax.tree.leaves(params)) == 60_965_224
    assert {layer: both["kernel"].shape for layer, both in params.items()} == KERNELS
    picture = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
    acts = jax.eval_shape(functional.features(model), params, picture)
    assert {layer: act.shape[1:] for layer, act in acts.items()} == LEAVES
    rows = functional.describe(model)
    assert {row.layer: row.parameters for row in rows} == PARAMETERS
    assert {row.layer: row.multiply_adds for row in rows} == MULTIPLY_ADDS
    assert sum(row.multiply_adds for row in rows) == 724_406_816


# Parameters, and multiply-adds per image. Published where possible, otherwise counted by hand.
COUNTS = {
    "paper": (60_965_224, 724_406_816),
    "cuda_convnet": (60_965_224, 724_406_816),
    "caffe": (60_965_224, 724_406_816),
    "caffenet": (60_965_224, 724_406_816),
    # A scale, a bias and two running averages for each of 1,376 maps.
    "large_batch": (60_965_224 + 4 * 1_376, 724_406_816),
    "half": (59_798_312, 391_514_384),
    "six_conv": (60_965_224 + 590_080, 724_406_816 + 6 * 6 * 9 * 256 * 256),
    "one_weird_trick": (61_100_840, 714_188_480),
    "tutorial": (5_624_842, 34_606_080),
    "cifar": (89_578, 32**2 * 75 * 32 + 16**2 * 800 * 32 + 8**2 * 800 * 64 + 10_240),
    # conv1, conv2, two local layers with a kernel and biases for each of 6 x 6 positions, and fc10.
    "cifar_13pct": (
        4_864 + 102_464 + 36 * (576 * 32 + 32) + 36 * (288 * 32 + 32) + 11_530,
        24**2 * 75 * 64 + 12**2 * 1600 * 64 + 36 * 576 * 32 + 36 * 288 * 32 + 11_520,
    ),
    "cifar_11pct": (
        4_864 + 102_464 + 36 * (576 * 64 + 64) + 36 * (576 * 32 + 32) + 11_530,
        24**2 * 75 * 64 + 12**2 * 1600 * 64 + 36 * 576 * 64 + 36 * 576 * 32 + 11_520,
    ),
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_and_multiply_adds_are_those_of_the_literature(name: str) -> None:
    model = presets.preset(name).model
    params = jax.eval_shape(lambda key: functional.init(model, key), jax.random.key(0))
    rows = functional.describe(model)
    parameters = sum(array.size for array in jax.tree.leaves(params))
    assert (parameters, sum(row.multiply_adds for row in rows)) == COUNTS[name]
    assert sum(row.parameters for row in rows) == parameters


def test_every_preset_of_the_literature_is_counted() -> None:
    assert set(presets.PRESETS) - set(COUNTS) == {"fashion", "fashion_best"}


def test_the_network_without_columns_has_62_million_parameters() -> None:
    """96-256-384-384-256 in one column, as in most reimplementations."""
    model = replace(presets.preset("paper").model, columns=1)
    rows = functional.describe(model)
    assert sum(row.parameters for row in rows) == 62_378_344
    assert sum(row.multiply_adds for row in rows) == 1_135_256_096


def test_images_of_227_and_of_224_with_padding_give_maps_of_the_same_sides() -> None:
    caffe = presets.preset("caffe").model
    assert caffe.sides() == presets.preset("paper").model.sides(), "227 without padding and 224 with three zeros"
    native = replace(caffe, image_size=224, ragged=("pool5",)).sides()
    assert [native[name] for name in ("conv1", "pool1", "conv2", "pool2", "pool5")] == [54, 26, 26, 12, 6]
    owt = presets.preset("one_weird_trick").model.sides()
    assert [owt[name] for name in ("conv1", "pool1", "pool2", "pool5")] == [55, 27, 13, 6]


def test_large_batch_has_the_values_of_its_prototxt() -> None:
    """borisgin/nvcaffe, models/alexnet_bn: train_val.prototxt and solver_8K.prototxt."""
    config, caffe = presets.preset("large_batch"), presets.preset("caffe").model
    model, optim = config.model, config.optim
    assert {name: conv.then for name, conv in model.convs.items()} == {
        "conv1": ("batch_norm", "activation", "pool"),
        "conv2": ("batch_norm", "activation", "pool"),
        "conv3": ("batch_norm", "activation"),
        "conv4": ("batch_norm", "activation"),
        "conv5": ("batch_norm", "activation", "pool"),
    }
    assert {name: (c.kernels, c.size, c.stride, c.padding, c.std) for name, c in model.convs.items()} == {
        name: (c.kernels, c.size, c.stride, c.padding, c.std) for name, c in caffe.convs.items()
    }
    assert (model.batch_norm.momentum, model.batch_norm.epsilon) == (0.9, 1e-4)
    assert [(layer.units, layer.std, layer.bias) for layer in (model.fc6, model.fc7, model.fc8)] == [
        (4096, 0.005, 0.1), (4096, 0.005, 0.1), (1000, 0.01, 0.0),
    ]  # fmt: skip
    assert (optim.rule, optim.batch, optim.rate, optim.trust) == ("lars", 8192, 10.0, 0.001)
    assert (optim.momentum, optim.decay, optim.bias_rate, optim.decay_biases) == (0.9, 0.0005, 1.0, True)
    steps = 156  # of an epoch
    assert (optim.epochs * steps, optim.schedule.warmup * steps) == (15_600, 600)
    assert (optim.schedule.kind, optim.schedule.power) == ("poly", 2.0)


def test_caffe_has_the_values_of_its_prototxt() -> None:
    """models/bvlc_alexnet/train_val.prototxt and solver.prototxt; CaffeNet's differ in order and biases."""
    config, net = presets.preset("caffe"), presets.preset("caffenet")
    model, optim = config.model, config.optim
    layers = {**model.convs, "fc6": model.fc6, "fc7": model.fc7, "fc8": model.fc8}
    assert {name: layer.std for name, layer in layers.items()} == dict.fromkeys(layers, 0.01) | {
        "fc6": 0.005,
        "fc7": 0.005,
    }
    biases = {name: layer.bias for name, layer in layers.items()}
    assert biases == dict.fromkeys(layers, 0.0) | dict.fromkeys(("conv2", "conv4", "conv5", "fc6", "fc7"), 0.1)
    other = {**net.model.convs, "fc6": net.model.fc6, "fc7": net.model.fc7, "fc8": net.model.fc8}
    assert {name: layer.bias for name, layer in other.items()} == {
        name: 1.0 if bias else 0.0 for name, bias in biases.items()
    }
    assert {name: layer.std for name, layer in other.items()} == {name: layer.std for name, layer in layers.items()}
    assert (model.lrn.k, model.lrn.n, model.lrn.alpha, model.lrn.beta) == (1.0, 5, pytest.approx(2e-5), 0.75)
    assert (model.conv1.then, net.model.conv1.then) == (("activation", "norm", "pool"), ("activation", "pool", "norm"))
    assert [n for n, c in presets.PRESETS.items() if getattr(c.model, "lrn_across_columns", False)] == [
        "caffe",
        "caffenet",
    ]
    steps = [epochs * 1_281_167 / 256 for epochs in optim.schedule.epochs]
    assert steps == pytest.approx([100_000, 200_000, 300_000, 400_000])
    assert optim.epochs * 1_281_167 / 256 == pytest.approx(450_000)
    assert (optim.batch, optim.rate, optim.bias_rate, optim.momentum, optim.decay, optim.decay_biases) == (
        256, 0.01, 2.0, 0.9, 0.0005, False,
    )  # fmt: skip


def test_the_tutorial_can_start_with_its_original_weights() -> None:
    model = presets.preset("tutorial").model
    sane = functional.init(model, jax.random.key(0))
    written = functional.init(replace(model, std=1.0), jax.random.key(0))
    for layer, both in written.items():
        assert float(both["kernel"].std()) == pytest.approx(1, rel=0.15), layer
    assert float(written["fc1"]["bias"].std()) == pytest.approx(1, rel=0.1)
    assert float(sane["fc1"]["kernel"].std()) == pytest.approx((2 / 4096) ** 0.5, rel=0.02)
    assert not sane["fc1"]["bias"].any()


def test_one_weird_trick_starts_with_pytorchs_std_in_each_layer() -> None:
    """U(-1/sqrt(inputs), 1/sqrt(inputs)) for weights and biases: a std of 1/sqrt(3 inputs)."""
    model = presets.preset("one_weird_trick").model
    shapes = jax.eval_shape(lambda key: functional.init(model, key), jax.random.key(0))
    for name, layer in shapes.items():
        expected = (3 * np.prod(layer["kernel"].shape[:-1])) ** -0.5
        assert getattr(model, name).std == getattr(model, name).bias_std == pytest.approx(expected)


def test_initial_weights_have_the_configs_std_and_bias() -> None:
    model = presets.preset("cuda_convnet").model
    params = jax.jit(lambda key: functional.init(model, key))(jax.random.key(0))
    for layer, std in {"conv1": 0.01, "conv2": 0.01, "conv3": 0.03, "conv4": 0.03, "conv5": 0.03, "fc8": 0.01}.items():
        kernel = np.asarray(params[layer]["kernel"])
        assert kernel.std() == pytest.approx(std, rel=0.02)
        assert abs(kernel).max() > 3.5 * std, "the normal distribution is truncated"
    ones = [layer for layer in params if (np.asarray(params[layer]["bias"]) == 1).all()]
    zeros = [layer for layer in params if (np.asarray(params[layer]["bias"]) == 0).all()]
    assert sorted(ones) == ["conv2", "conv4", "conv5", "fc6", "fc7"]
    assert sorted(zeros) == ["conv1", "conv3", "fc8"]


def test_paper_has_the_printed_values() -> None:
    paper = presets.preset("paper")
    assert paper == Config()
    assert (paper.model.lrn.k, paper.model.lrn.n, paper.model.lrn.alpha, paper.model.lrn.beta) == (2, 5, 1e-4, 0.75)
    assert {conv.std for conv in paper.model.convs.values()} == {0.01}
    assert (paper.optim.batch, paper.optim.momentum, paper.optim.decay, paper.optim.rate) == (128, 0.9, 0.0005, 0.01)


def test_cuda_convnet_has_the_values_that_ran() -> None:
    """The rows of docs/fidelity.md in which it differs from the paper."""
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


def test_an_unknown_preset_is_refused_with_a_list_of_the_known_ones() -> None:
    with pytest.raises(
        BadInput, match="no preset 'alexnet'; there are fashion, fashion_best, paper, cuda_convnet, half, six_conv"
    ):
        presets.preset("alexnet")
