"""A run as frozen dataclasses: the network, its optimisation, its data.

The defaults are the paper's printed values (Krizhevsky, Sutskever, Hinton 2012), so `Config()` is the preset `paper`,
and every other preset states only where it differs from it.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from alexnet_jax.config.errors import BadInput
from alexnet_jax.config.networks import Model, ModelConfig


@dataclass(frozen=True)
class Schedule:
    """How a learning rate changes over the run: the factor from 0 to 1 that multiplies it."""

    kind: Literal["constant", "steps", "staircase", "plateau", "cosine", "poly"] = "constant"
    """steps: it drops at each of `epochs`; staircase: over `stairs` equal parts of the run (cuda-convnet's dexp);
    plateau: when the validation error stops improving (section 5); cosine: from 1 to 0 along half a wave;
    poly: a power of the share of the run that is left"""
    warmup: float = 0.0
    """epochs at the start over which the rate rises linearly from 0"""
    factor: float = 10.0
    """the rate is divided by this: at each drop (steps, plateau), or over the whole run (staircase)"""
    epochs: tuple[float, ...] = ()
    """steps: the epochs at which the rate drops"""
    stairs: int = 4
    """staircase: number of levels"""
    patience: int = 5
    """plateau: epochs without a lower validation top-1 error before a drop"""
    drops: int = 3
    """plateau: how many times the rate may drop"""
    power: float = 2.0
    """poly: that power"""

    def __post_init__(self) -> None:
        if min(self.factor, self.power) <= 0 or min(self.stairs, self.patience) < 1:
            raise BadInput(
                f"a schedule has factor {self.factor:g}, power {self.power:g}, {self.stairs} stairs and patience "
                f"{self.patience}; give a factor and a power of more than 0, and at least 1 for the others"
            )
        if not 0 <= self.warmup < math.inf:
            raise BadInput(f"a schedule has a warmup of {self.warmup:g} epochs; give 0 or more")


@dataclass(frozen=True)
class OptimConfig:
    """Stochastic gradient descent of section 5: v <- momentum v - decay rate w - rate g;  w <- w + v."""

    rule: Literal["sgd", "adam", "adamw", "lars", "lamb"] = "sgd"
    """lars: sgd with each kernel's rate multiplied by a trust ratio (You and others 2017); adam (Kingma and Ba 2015),
    adamw (Loshchilov and Hutter 2019) and lamb (You and others 2020) take their usual constants, and no `momentum`"""
    batch: int = 128
    epochs: float = 90.0
    """length of the run, and of a staircase or cosine"""
    rate: float = 0.01
    """initial learning rate of the weights"""
    momentum: float = 0.9
    decay: float = 0.0005
    """weight decay, multiplied by the learning rate"""
    trust: float = 0.001
    """lars: trust coefficient"""
    decay_biases: bool = True
    bias_rate: float = 1.0
    """the biases' learning rate, as a multiple of `rate`"""
    schedule: Schedule = Schedule("plateau")
    """of the weights' learning rate"""
    bias_schedule: Schedule | None = None
    """of the biases' learning rate; None: the same as the weights"""
    layer_rates: tuple[tuple[str, float], ...] = ()
    """layers and the factors of their learning rates, as in `conv1 0.01`; 0 freezes a layer entirely"""
    layer_decays: tuple[tuple[str, float], ...] = ()
    """layers and their own weight decays"""
    freeze_conv1: float | None = None
    """epoch from which conv1 is frozen (the 2012 code)"""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise BadInput(f"optim.batch is {self.batch}; give at least 1")
        for name in ("epochs", "rate", "trust"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise BadInput(f"optim.{name} is {value:g}; give a finite number of more than 0")
        if not 0 <= self.momentum < 1 or not 0 <= self.decay < math.inf:
            raise BadInput(
                f"optim.momentum is {self.momentum:g} and optim.decay {self.decay:g}; "
                f"give a momentum from 0 to less than 1, and a finite decay of at least 0"
            )
        if self.bias_schedule == self.schedule:  # one way to write it, so that equal runs have equal configs
            object.__setattr__(self, "bias_schedule", None)

    @property
    def schedules(self) -> tuple[Schedule, Schedule]:
        """Those of the weights and of the biases."""
        return self.schedule, self.bias_schedule or self.schedule


@dataclass(frozen=True)
class DataConfig:
    """What is done to the images before the network reads them (sections 2 and 4.1)."""

    pad: int = 0
    """zero rows and columns put around an image before it is cropped"""
    crop: bool = True
    """random crops in training; otherwise the central crop"""
    flip: bool = True
    """random horizontal reflections in training"""
    crop_run: int = 1
    """how many consecutive images of a batch share a crop and a flip"""
    square: Literal["crop", "warp"] = "crop"
    """how an image of any shape is made square: its centre is cut out (section 2), or both sides are scaled (Caffe)"""
    mean: Literal["pixel", "centre", "none"] = "pixel"
    """pixel: each pixel's own mean is subtracted; centre: the central crop of the mean image, whatever the crop"""
    scale: float = 1.0
    """factor of the pixels, which are 0 to 255 minus the mean"""
    colour_noise: Literal["none", "eigenvalue", "stdev"] = "eigenvalue"
    """eigenvalue: the printed formula, on a scale of 0 to 1; stdev: the 2012 code, which also divides by 1.1"""
    colour_noise_until: float | None = None
    """epoch at which colour noise ends"""
    reshuffle: bool = True
    """a new order every epoch; otherwise always the order of the records"""

    def __post_init__(self) -> None:
        if self.pad < 0 or self.crop_run < 1:
            raise BadInput(f"data.pad is {self.pad} and data.crop_run {self.crop_run}; give at least 0 and at least 1")


Precision = Literal["float32", "tf32", "bfloat16"]


def check_precision(precision: str) -> None:
    """Raises BadInput if there is no such precision."""
    if precision not in get_args(Precision):
        raise BadInput(f"precision is {precision!r}; give one of {', '.join(get_args(Precision))}")


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run, except the images themselves."""

    preset: str = "paper"
    """the preset that this is a variation of"""
    model: Model = ModelConfig()
    optim: OptimConfig = OptimConfig()
    data: DataConfig = DataConfig()
    seed: int = 0
    """of the initial weights, the order of the images, crops, flips, colours and dropout"""
    precision: Precision = "float32"
    """of what the layers compute; parameters, moments and updates are always float32. tf32: float32 whose products
    have fewer bits on accelerators, TF32 on NVIDIA's; on a CPU it is float32"""
    own: tuple[tuple[str, str], ...] = ()
    """the caller's own parts in a run of `fit`, which a config cannot hold: each part and the name of its code"""

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if not 0 <= self.seed < 2**32:
            raise BadInput(f"seed is {self.seed}; give at least 0 and less than 2^32")
