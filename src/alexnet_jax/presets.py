"""Named Configs, each with its source. A preset is `Config()`, the paper as printed, and what it changes in it."""

from dataclasses import replace

from alexnet_jax.config import (
    BadInput,
    Config,
    Conv,
    DataConfig,
    Dense,
    LayerRates,
    ModelConfig,
    OptimConfig,
    ResponseNorm,
    Schedule,
)

# The printed formulae: every kernel N(0, 0.01^2), LRN behind ReLU with alpha as printed, one rate for all
# parameters, divided by ten when the validation error stalls, three times in about 90 epochs.
PAPER = Config()

# What ran: net 145 of the released 2012 code (layers-145.cfg), trained by the hands-free schedule of its run 170.
CUDA_CONVNET = Config(
    preset="cuda_convnet",
    model=ModelConfig(
        # The code divides alpha by n (layer.py).
        lrn=ResponseNorm(alpha=1e-4 / 5),
        # The first norm and pool see conv1 before its ReLU, negative responses and all.
        conv1=replace(PAPER.model.conv1, then=("norm", "pool", "activation")),
        conv2=replace(PAPER.model.conv2, then=("activation", "norm", "map_norm", "pool")),
        conv3=replace(PAPER.model.conv3, std=0.03),
        conv4=replace(PAPER.model.conv4, std=0.03),
        conv5=replace(PAPER.model.conv5, std=0.03, then=("pool", "activation")),
    ),
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

# The same network cut to size for 28x28 grey pictures: what `train` runs when nothing is named. LRN, pooling,
# dropout and momentum are the paper's. Its own are: the widths; biases of 0, and weights drawn so that every layer's
# activations have a spread near 1; conv1's rate, as its inputs reach 255; a rate that falls in small stairs.
_FALL = Schedule("staircase", factor=30.0, stairs=8)
FASHION = Config(
    preset="fashion",
    model=ModelConfig(
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
    ),
    optim=OptimConfig(
        batch=64,
        epochs=28.0,
        rate=0.04,
        decay_biases=False,
        schedule=_FALL,
        bias_schedule=_FALL,
        layer_rates=LayerRates(conv1=0.01),
    ),
    data=DataConfig(pad=2, colour_noise="none"),
)

PRESETS = {config.preset: config for config in (FASHION, PAPER, CUDA_CONVNET)}


def preset(name: str) -> Config:
    """The preset of that name. Raises BadInput, which names those there are."""
    if name not in PRESETS:
        raise BadInput(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
