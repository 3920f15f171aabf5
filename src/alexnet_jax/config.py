"""What a run is: frozen dataclasses, their differences, and their JSON.

The defaults are the paper's printed values (Krizhevsky, Sutskever, Hinton 2012), so `Config()` is the
preset `paper` and every other preset shows only where it departs from it.
"""

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any, Literal, get_origin, get_type_hints


class BadInput(ValueError):
    """Something the user gave cannot work; the message is one sentence that says what, where and what to do."""


# What may follow a convolution. The activation belongs to the layer it stands behind.
Follow = Literal["activation", "norm", "map_norm", "pool"]


@dataclass(frozen=True)
class Conv:
    """A convolutional layer, and what follows it, in order."""

    kernels: int
    """kernels of all columns together"""
    size: int
    """height and width of a kernel"""
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    """zero rows and columns before and after the picture, the same for both axes"""
    std: float = 0.01
    """standard deviation of the initial kernels, which are drawn from N(0, std^2)"""
    bias: float = 0.0
    """initial bias"""
    then: tuple[Follow, ...] = ("activation",)
    """what follows: activation, norm (LRN), map_norm (cuda-convnet's same-map norm), pool"""

    def __post_init__(self) -> None:
        if min(self.size, self.stride) < 1 or min(self.padding) < 0:
            raise BadInput(
                f"a convolution has size {self.size}, stride {self.stride} and padding {self.padding}; "
                f"size and stride are at least 1, padding at least 0"
            )


@dataclass(frozen=True)
class Dense:
    """A fully connected layer."""

    units: int
    """units of all columns together"""
    std: float = 0.01
    """standard deviation of the initial kernel, drawn from N(0, std^2)"""
    bias: float = 0.0
    """initial bias"""


@dataclass(frozen=True)
class Pool:
    """Pooling (section 3.4). Windows may reach over the bottom and right border, as in cuda-convnet."""

    kind: Literal["max", "average"] = "max"
    size: int = 3
    stride: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.size:
            raise BadInput(f"model.pool has stride {self.stride} and size {self.size}; 1 <= stride <= size")


@dataclass(frozen=True)
class ResponseNorm:
    """b = a / (k + alpha * sum of a^2 over a window of n)^beta (section 3.3)."""

    k: float = 2.0
    n: int = 5
    alpha: float = 1e-4
    beta: float = 0.75

    def __post_init__(self) -> None:
        if self.n < 1 or self.k <= 0 or self.alpha < 0:
            raise BadInput(
                f"a response norm has k {self.k:g}, n {self.n}, alpha {self.alpha:g}; k > 0, n >= 1, alpha >= 0"
            )


@dataclass(frozen=True)
class ModelConfig:
    """The network of section 3.5."""

    image_size: int = 224
    """height and width of the crop that enters the network"""
    channels: int = 3
    columns: int = 2
    """columns, each with its share of every layer's kernels"""
    columns_meet: bool = True
    """whether conv3, fc6 and fc7 read all columns; otherwise the columns meet only in the logits"""
    activation: Literal["relu", "tanh", "sigmoid"] = "relu"
    pool: Pool = Pool()
    norm: bool = True
    """False leaves out every response normalisation"""
    lrn: ResponseNorm = ResponseNorm()
    """across the maps of one column, at one position"""
    map_norm: ResponseNorm = ResponseNorm(k=1.0, alpha=4e-5)
    """across n x n positions of one map; absent from the paper"""
    dropout: float = 0.5
    """probability that a unit of fc6 and fc7 is dropped in training"""
    dropout_scale: Literal["test", "train"] = "test"
    """test: units are multiplied by 1 - dropout at test time (the paper); train: by its inverse in training"""
    conv1: Conv = Conv(96, 11, stride=4, padding=(0, 3), then=("activation", "norm", "pool"))
    conv2: Conv = Conv(256, 5, padding=(2, 2), bias=1.0, then=("activation", "norm", "pool"))
    conv3: Conv = Conv(384, 3, padding=(1, 1))
    conv4: Conv = Conv(384, 3, padding=(1, 1), bias=1.0)
    conv5: Conv = Conv(256, 3, padding=(1, 1), bias=1.0, then=("activation", "pool"))
    fc6: Dense = Dense(4096, bias=1.0)
    fc7: Dense = Dense(4096, bias=1.0)
    fc8: Dense = Dense(1000)

    @property
    def classes(self) -> int:
        return self.fc8.units

    @property
    def convs(self) -> dict[str, Conv]:
        return {name: getattr(self, name) for name in ("conv1", "conv2", "conv3", "conv4", "conv5")}

    def __post_init__(self) -> None:
        if self.columns < 1:
            raise BadInput(f"model.columns is {self.columns}; a network has at least one column")
        if not 0 <= self.dropout < 1:
            raise BadInput(f"model.dropout is {self.dropout:g}; it is a probability from 0 up to but not 1")
        widths = {f"{name}.kernels": conv.kernels for name, conv in self.convs.items()}
        widths |= {"fc6.units": self.fc6.units, "fc7.units": self.fc7.units}
        for name, width in widths.items():
            if width < 1 or width % self.columns:
                raise BadInput(f"model.{name} is {width}, which {self.columns} columns cannot share equally")
        self.sides()

    def sides(self) -> dict[str, int]:
        """Height and width of what leaves each convolution and pooling layer: {"conv1": 55, "pool1": 27, ...}.

        Raises BadInput where nothing is left of the picture.
        """
        side, sides = self.image_size, {}
        for name, conv in self.convs.items():
            if side + sum(conv.padding) < conv.size:
                raise BadInput(
                    f"model.image_size {self.image_size} does not fit the network: {name}'s {conv.size}x{conv.size} "
                    f"kernel reads a map of {side}x{side}; give a larger --model.image-size"
                )
            side = (side + sum(conv.padding) - conv.size) // conv.stride + 1
            sides[name] = side
            if "pool" in conv.then:
                side = pooled(side, self.pool)
                sides[name.replace("conv", "pool")] = side
        return sides


def pooled(side: int, pool: Pool) -> int:
    """Height or width after pooling: a last, ragged window counts (cuda-convnet's layer.py)."""
    return 1 + max(0, -(-(side - pool.size) // pool.stride))


@dataclass(frozen=True)
class Schedule:
    """How a rate falls over the run: the factor in (0, 1] that multiplies it."""

    kind: Literal["constant", "steps", "staircase", "plateau"] = "constant"
    """steps: at each of `epochs`; staircase: over `stairs` equal parts of the run (cuda-convnet's dexp);
    plateau: when the validation error stops improving (section 5)"""
    factor: float = 10.0
    """the rate is divided by it: at each drop (steps, plateau), or over the whole run (staircase)"""
    epochs: tuple[float, ...] = ()
    """steps: the epochs at which the rate drops"""
    stairs: int = 4
    """staircase: how many levels"""
    patience: int = 5
    """plateau: epochs without a lower validation top-1 error before a drop"""
    drops: int = 3
    """plateau: how often the rate may drop"""

    def __post_init__(self) -> None:
        if self.factor <= 0 or min(self.stairs, self.patience) < 1:
            raise BadInput(
                f"a schedule has factor {self.factor:g}, {self.stairs} stairs and patience {self.patience}; "
                f"the factor is more than 0, the others at least 1"
            )


@dataclass(frozen=True)
class LayerRates:
    """What each layer's rate is multiplied by; 0 freezes the layer entirely."""

    conv1: float = 1.0
    conv2: float = 1.0
    conv3: float = 1.0
    conv4: float = 1.0
    conv5: float = 1.0
    fc6: float = 1.0
    fc7: float = 1.0
    fc8: float = 1.0


@dataclass(frozen=True)
class OptimConfig:
    """Stochastic gradient descent of section 5: v <- momentum v - decay rate w - rate g;  w <- w + v."""

    batch: int = 128
    epochs: float = 90.0
    """length of the run, and what a staircase is laid over"""
    rate: float = 0.01
    momentum: float = 0.9
    decay: float = 0.0005
    """weight decay, multiplied by the rate"""
    decay_biases: bool = True
    bias_rate: float = 1.0
    """the biases' rate, in units of `rate`"""
    schedule: Schedule = Schedule("plateau")
    """of the weights' rate"""
    bias_schedule: Schedule = Schedule("plateau")
    """of the biases' rate"""
    layer_rates: LayerRates = LayerRates()
    freeze_conv1: float | None = None
    """epoch from which conv1 stands still (the 2012 code)"""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise BadInput(f"optim.batch is {self.batch}; it is at least 1")
        for name in ("epochs", "rate"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise BadInput(f"optim.{name} is {value:g}; it is more than 0 and finite")


@dataclass(frozen=True)
class DataConfig:
    """What is done to the pictures on their way in (sections 2 and 4.1)."""

    pad: int = 0
    """zero rows and columns put around a picture before it is cropped"""
    crop: bool = True
    """random crops in training; otherwise the central one"""
    flip: bool = True
    """random horizontal reflections in training"""
    crop_run: int = 1
    """how many consecutive pictures of a batch share a crop and a flip"""
    mean: Literal["pixel", "centre"] = "pixel"
    """pixel: each pixel's own mean is subtracted; centre: the central crop of the mean image, whatever the crop"""
    colour_noise: Literal["none", "eigenvalue", "stdev"] = "eigenvalue"
    """eigenvalue: the printed formula, on a scale of 0 to 1; stdev: the 2012 code, which also divides by 1.1"""
    colour_noise_until: float | None = None
    """epoch from which there is no more colour noise"""
    reshuffle: bool = True
    """a new order every epoch; otherwise always the order of the records"""

    def __post_init__(self) -> None:
        if self.pad < 0 or self.crop_run < 1:
            raise BadInput(
                f"data.pad is {self.pad} and data.crop_run {self.crop_run}; they are at least 0 and at least 1"
            )


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run, except the pictures themselves."""

    preset: str = "paper"
    """the preset it is a variation of"""
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    data: DataConfig = DataConfig()
    seed: int = 0
    """of the initial weights, the order of the pictures, crops, flips, colours and dropout"""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise BadInput(f"seed is {self.seed}; it is at least 0 and less than 2^32")


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """{"model.conv1.kernels": 96, ...}"""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        values |= flat(value, f"{name}.") if dataclasses.is_dataclass(value) else {name: value}
    return values


def diff(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """The fields in which b differs from a: {"model.dropout": (0.5, 0.0)}."""
    in_a, in_b = flat(a), flat(b)
    return {name: (in_a[name], in_b[name]) for name in in_a if in_a[name] != in_b[name]}


def to_json(config: Config) -> str:
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """The Config that `to_json` wrote. Raises BadInput where the text is not one."""
    try:
        return _build(Config, json.loads(text), "")
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise BadInput(f"not the JSON of a Config: {error}") from error


def _build(kind: Any, value: Any, name: str) -> Any:
    if not dataclasses.is_dataclass(kind):
        return tuple(value) if get_origin(kind) is tuple else value
    make: Any = kind
    types = get_type_hints(kind)
    for key in value:
        if key not in types:
            raise BadInput(f"{name + key} is not a field of a Config")
    return make(**{key: _build(types[key], item, f"{name}{key}.") for key, item in value.items()})
