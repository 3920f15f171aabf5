"""Named Configs, each with its source. A preset is `Config()`, the paper as printed, with what it changes."""

from dataclasses import replace
from typing import TypeVar

from alexnet_jax.config.errors import BadInput
from alexnet_jax.config.networks import (
    CifarConfig,
    Conv,
    Dense,
    Follow,
    ModelConfig,
    Pool,
    ResponseNorm,
    TutorialConfig,
)
from alexnet_jax.config.run import Config, DataConfig, OptimConfig, Schedule

# The printed formulae: every kernel N(0, 0.01^2), LRN after ReLU with alpha as printed, one learning rate for all
# parameters, divided by ten when the validation error stalls, three times in about 90 epochs.
PAPER = Config()
_PAPER = ModelConfig()

# What ran: net 145 of the released 2012 code (layers-145.cfg), with the automatic schedule of run 170.
_CUDA_CONVNET = ModelConfig(
    # The code divides alpha by n (layer.py).
    lrn=ResponseNorm(alpha=1e-4 / 5),
    # The first norm and pool read conv1 before its ReLU, negative responses included.
    conv1=replace(_PAPER.conv1, then=("norm", "pool", "activation")),
    conv2=replace(_PAPER.conv2, then=("activation", "norm", "map_norm", "pool")),
    conv3=replace(_PAPER.conv3, std=0.03),
    conv4=replace(_PAPER.conv4, std=0.03),
    conv5=replace(_PAPER.conv5, std=0.03, then=("pool", "activation")),
)
CUDA_CONVNET = Config(
    preset="cuda_convnet",
    model=_CUDA_CONVNET,
    optim=OptimConfig(
        decay_biases=False,
        bias_rate=2.0,
        schedule=Schedule("staircase", factor=250.0, stairs=4),
        bias_schedule=Schedule("staircase", factor=10.0, stairs=2),
        freeze_conv1=74.0,
    ),
    data=DataConfig(
        crop_run=32,
        mean="centre",
        colour_noise="stdev",
        colour_noise_until=68.0,
        reshuffle=False,
    ),
)

# The paper's comparison of two columns with one (section 3.2): net 145-half of the released code. It has the width of
# one column, except in conv5, fc6 and fc7. They keep the width of both columns, so that the network is no smaller.
HALF = replace(
    CUDA_CONVNET,
    preset="half",
    model=replace(
        _CUDA_CONVNET,
        columns=1,
        conv1=replace(_CUDA_CONVNET.conv1, kernels=48),
        conv2=replace(_CUDA_CONVNET.conv2, kernels=128),
        conv3=replace(_CUDA_CONVNET.conv3, kernels=192),
        conv4=replace(_CUDA_CONVNET.conv4, kernels=192),
    ),
)

# Net 146 of the released code, pre-trained on all of ImageNet and then fine-tuned with `train --init` (section 6,
# note 1): a sixth convolution after the last pooling layer. Its bottleneck before 21,843 classes is left out.
SIX_CONV = replace(
    CUDA_CONVNET,
    preset="six_conv",
    model=replace(_CUDA_CONVNET, conv6=Conv(256, 3, padding=(1, 1), std=0.03, bias=1.0)),
)

# BVLC's AlexNet (caffe/models/bvlc_alexnet): crops of 227, LRN across the column border, and biases of 0.1, because it
# did not train with biases of 1 and a std of 0.01. 450,000 steps over 1,281,167 images.
_DROP = 100_000 * 256 / 1_281_167
_CAFFE_SCHEDULE = Schedule("steps", factor=10.0, epochs=(_DROP, 2 * _DROP, 3 * _DROP, 4 * _DROP))
_CAFFE = ModelConfig(
    image_size=227,
    # lrn_layer.cpp divides alpha by n.
    lrn=ResponseNorm(k=1.0, alpha=1e-4 / 5),
    lrn_across_columns=True,
    dropout_scale="train",
    conv1=replace(_PAPER.conv1, padding=(0, 0)),
    conv2=replace(_PAPER.conv2, bias=0.1),
    conv4=replace(_PAPER.conv4, bias=0.1),
    conv5=replace(_PAPER.conv5, bias=0.1),
    fc6=Dense(4096, std=0.005, bias=0.1),
    fc7=Dense(4096, std=0.005, bias=0.1),
)
CAFFE = Config(
    preset="caffe",
    model=_CAFFE,
    optim=OptimConfig(
        batch=256,
        epochs=4.5 * _DROP,
        decay_biases=False,
        bias_rate=2.0,
        schedule=_CAFFE_SCHEDULE,
    ),
    data=DataConfig(square="warp", colour_noise="none", reshuffle=False),
)

# BVLC's CaffeNet (caffe/models/bvlc_reference_caffenet): pooling before LRN, and the paper's biases of 1.
_POOL_FIRST: tuple[Follow, ...] = ("activation", "pool", "norm")
CAFFENET = replace(
    CAFFE,
    preset="caffenet",
    model=replace(
        _CAFFE,
        conv1=replace(_CAFFE.conv1, then=_POOL_FIRST),
        conv2=replace(_CAFFE.conv2, then=_POOL_FIRST, bias=1.0),
        conv4=replace(_CAFFE.conv4, bias=1.0),
        conv5=replace(_CAFFE.conv5, bias=1.0),
        fc6=Dense(4096, std=0.005, bias=1.0),
        fc7=Dense(4096, std=0.005, bias=1.0),
    ),
)

# AlexNet for large batches (You, Gitman, Ginsburg 2017): batch norm in place of LRN, LARS, a warm-up, and a rate that
# falls to 0. The network and its training are those of the authors' Caffe (borisgin/nvcaffe, models/alexnet_bn:
# train_val.prototxt, solver_8K.prototxt), 156 steps an epoch. Three things differ. There each GPU's statistics were
# those of its own images; here they are the whole batch's, so that every layout trains alike. There the warm-up began
# at a tenth of the rate, here at 0. And the convolutions keep their biases, which batch norm makes useless.
_NORMALISED: tuple[Follow, ...] = ("batch_norm", "activation", "pool")
LARGE_BATCH = replace(
    CAFFE,
    preset="large_batch",
    model=replace(
        _CAFFE,
        lrn_across_columns=False,
        conv1=replace(_CAFFE.conv1, then=_NORMALISED),
        conv2=replace(_CAFFE.conv2, bias=0.0, then=_NORMALISED),
        conv3=replace(_CAFFE.conv3, then=_NORMALISED[:2]),
        conv4=replace(_CAFFE.conv4, bias=0.0, then=_NORMALISED[:2]),
        conv5=replace(_CAFFE.conv5, then=_NORMALISED),
    ),
    optim=OptimConfig(
        rule="lars",
        batch=8192,
        epochs=100.0,
        rate=10.0,
        schedule=Schedule("poly", warmup=600 / 156, power=2.0),
    ),
)


Layer = TypeVar("Layer", Conv, Dense)


def _pytorch(layer: Layer, inputs: int) -> Layer:
    """The layer with the std of PyTorch's initial weights and biases, U(-1/sqrt(inputs), 1/sqrt(inputs))."""
    std = (3 * inputs) ** -0.5
    return replace(layer, std=std, bias_std=std)


# The single column of "One weird trick" (Krizhevsky 2014) as torchvision reads it: no LRN, dropout before fc6. The
# trick itself is a layout, `--layout hybrid`. The recipe is torchvision's, too (references/classification/README.md, on
# 8 GPUs): pixels divided by their standard deviation, here that of all three colours together, and a learning rate
# divided by ten every 30 epochs.
_THIRTIES = Schedule("steps", factor=10.0, epochs=(30.0, 60.0))
ONE_WEIRD_TRICK = Config(
    preset="one_weird_trick",
    model=ModelConfig(
        columns=1,
        norm=False,
        dropout_before=("fc6", "fc7"),
        dropout_scale="train",
        conv1=_pytorch(Conv(64, 11, stride=4, padding=(2, 2), then=("activation", "pool")), 11 * 11 * 3),
        conv2=_pytorch(Conv(192, 5, padding=(2, 2), then=("activation", "pool")), 5 * 5 * 64),
        conv3=_pytorch(Conv(384, 3, padding=(1, 1)), 3 * 3 * 192),
        conv4=_pytorch(Conv(256, 3, padding=(1, 1)), 3 * 3 * 384),
        conv5=_pytorch(Conv(256, 3, padding=(1, 1), then=("activation", "pool")), 3 * 3 * 256),
        fc6=_pytorch(Dense(4096), 6 * 6 * 256),
        fc7=_pytorch(Dense(4096), 4096),
        fc8=_pytorch(Dense(1000), 4096),
    ),
    optim=OptimConfig(batch=256, decay=1e-4, schedule=_THIRTIES),
    data=DataConfig(scale=1 / (255 * 0.226), colour_noise="none"),
)

# The paper's network cut to size for 28x28 grey images: the default of `train`. LRN, pooling, dropout and momentum are
# the paper's. Our own are the widths, the biases of 0, weights that give every layer's activations a std near 1, a
# lower learning rate in conv1, whose inputs reach 255, and a learning rate that falls in small stairs.
_FALL = Schedule("staircase", factor=30.0, stairs=8)
_FASHION = ModelConfig(
    image_size=28,
    channels=1,
    conv1=Conv(32, 5, stride=2, padding=(2, 2), std=0.006, then=("activation", "norm", "pool")),
    conv2=Conv(64, 3, padding=(1, 1), std=0.14, then=("activation", "norm", "pool")),
    conv3=Conv(128, 3, padding=(1, 1), std=0.075),
    conv4=Conv(128, 3, padding=(1, 1), std=0.06),
    conv5=Conv(128, 3, padding=(1, 1), std=0.06, then=("activation", "pool")),
    fc6=Dense(1024, std=0.045),
    fc7=Dense(1024, std=0.045),
    fc8=Dense(10, std=0.015),
)
FASHION = Config(
    preset="fashion",
    model=_FASHION,
    optim=OptimConfig(
        batch=64,
        epochs=28.0,
        rate=0.04,
        decay_biases=False,
        schedule=_FALL,
        layer_rates=(("conv1", 0.01),),
    ),
    data=DataConfig(pad=2, colour_noise="none"),
)


def _he(layer: Layer, inputs: int) -> Layer:
    """The layer with weights of std^2 = 2 / inputs (He et al. 2015), which suits ReLU."""
    return replace(layer, std=(2 / inputs) ** 0.5)


# For a low error on all of Fashion-MNIST in about half an hour on two cores. What came after 2012: kernels of 3x3 at a
# stride of 1, batch norm in place of LRN, and a learning rate that falls along a cosine. One column, because on a CPU
# it takes hardly longer than two. No crops: the error on held-out images was lower without (experiments/LOG.md).
FASHION_BEST = replace(
    FASHION,
    preset="fashion_best",
    model=replace(
        _FASHION,
        columns=1,
        conv1=_he(Conv(32, 3, padding=(1, 1), then=_NORMALISED), 3 * 3),
        conv2=_he(Conv(64, 3, padding=(1, 1), then=_NORMALISED), 3 * 3 * 32),
        conv3=_he(Conv(128, 3, padding=(1, 1), then=_NORMALISED[:2]), 3 * 3 * 64),
        conv4=_he(Conv(128, 3, padding=(1, 1), then=_NORMALISED[:2]), 3 * 3 * 128),
        conv5=_he(Conv(128, 3, padding=(1, 1), then=_NORMALISED), 3 * 3 * 128),
        fc6=_he(Dense(512), 3 * 3 * 128),
        fc7=_he(Dense(512), 512),
        fc8=Dense(10, std=0.02),
    ),
    optim=replace(
        FASHION.optim,
        batch=128,
        epochs=22.0,
        rate=0.1,
        schedule=Schedule("cosine", warmup=1.0),
        layer_rates=(),
    ),
    data=replace(FASHION.data, pad=0, scale=1 / 80),
)

# TensorFlow-Examples' alexnet.py: 200,000 images in batches of 64 by Adam, from the 55,000 that its MNIST trains on.
# Its initial weights and biases are all N(0, 1), which is `--model.std 1`. Here they suit ReLU: std^2 = 2 / inputs.
TUTORIAL = Config(
    preset="tutorial",
    model=TutorialConfig(),
    optim=OptimConfig(
        rule="adam",
        batch=64,
        epochs=200_000 / 55_000,
        rate=0.001,
        decay=0.0,
        schedule=Schedule("constant"),
    ),
    data=DataConfig(crop=False, flip=False, mean="none", scale=1 / 255, colour_noise="none"),
)

# Figure 1: four layers, no regularisation. The paper does not print the network. This is cuda-convnet's network of four
# layers (layers-19pct.cfg), without its weight decay and with a constant learning rate.
CIFAR = Config(
    preset="cifar",
    model=CifarConfig(norm=False),
    optim=OptimConfig(
        epochs=40.0,
        rate=0.001,
        decay=0.0,
        bias_rate=2.0,
        schedule=Schedule("constant"),
    ),
    data=DataConfig(crop=False, flip=False, colour_noise="none", reshuffle=False),
)

# Section 3.3, footnote 1: 13 % without normalisation, 11 % with it. cuda-convnet's layers-conv-local-13pct.cfg and
# -11pct.cfg differ in more than that: local3 has 32 or 64 kernels, fc10 a weight decay of 0.004 or 0.01. Both have the
# schedule of the second: about 500 epochs, then ten at a tenth and ten at a hundredth of the learning rate.
_TENTHS = Schedule("steps", factor=10.0, epochs=(500.0, 510.0))
_UNDECAYED = (("conv1", 0.0), ("conv2", 0.0))
_LOCAL = Conv(32, 3, padding=(1, 1), std=0.04)
_CIFAR_13PCT = CifarConfig(
    image_size=24,
    pool2=Pool(),
    norm=False,
    conv1=Conv(64, 5, padding=(2, 2), std=0.0001, then=("activation", "pool")),
    conv2=Conv(64, 5, padding=(2, 2), then=("activation", "pool")),
    conv3=None,
    local3=_LOCAL,
    local4=_LOCAL,
)
CIFAR_13PCT = Config(
    preset="cifar_13pct",
    model=_CIFAR_13PCT,
    optim=OptimConfig(
        epochs=520.0,
        rate=0.001,
        decay=0.004,
        decay_biases=False,
        bias_rate=2.0,
        schedule=_TENTHS,
        bias_schedule=Schedule("constant"),
        layer_decays=_UNDECAYED,
    ),
    data=DataConfig(mean="centre", colour_noise="none", reshuffle=False),
)
CIFAR_11PCT = replace(
    CIFAR_13PCT,
    preset="cifar_11pct",
    model=replace(
        _CIFAR_13PCT,
        norm=True,
        conv1=replace(_CIFAR_13PCT.conv1, then=("activation", "pool", "norm")),
        conv2=replace(_CIFAR_13PCT.conv2, then=("activation", "norm", "pool")),
        local3=replace(_LOCAL, kernels=64),
    ),
    optim=replace(CIFAR_13PCT.optim, layer_decays=(*_UNDECAYED, ("fc10", 0.01))),
)

PRESETS = {
    config.preset: config
    for config in (
        FASHION,
        FASHION_BEST,
        PAPER,
        CUDA_CONVNET,
        HALF,
        SIX_CONV,
        CAFFE,
        CAFFENET,
        LARGE_BATCH,
        ONE_WEIRD_TRICK,
        TUTORIAL,
        CIFAR,
        CIFAR_13PCT,
        CIFAR_11PCT,
    )
}


def preset(name: str) -> Config:
    """The config of that name, with .model, .optim, .data, .seed and .precision; all are frozen dataclasses.

    `dataclasses.replace` makes variations. Presets and sources are listed in docs/fidelity.md. Raises BadInput if
    there is no such preset, and names those that exist.

    >>> config = alexnet.preset("fashion")
    >>> config = replace(config, model=replace(config.model, dropout=0.0))
    """
    if name not in PRESETS:
        raise BadInput(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
