"""The networks as frozen dataclasses. The defaults of `ModelConfig` are the paper's printed values (section 3.5)."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar, Literal, get_args

import jax

from alexnet_jax.config.errors import BadInput

# What may follow a convolution. The activation belongs to the layer it follows.
Follow = Literal["activation", "norm", "map_norm", "batch_norm", "pool"]


@dataclass(frozen=True)
class Conv:
    """A convolutional layer, and what follows it, in order."""

    kernels: int
    """kernels of all columns together"""
    size: int
    """height and width of a kernel"""
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    """zero rows and columns before and after the image, the same on both axes"""
    std: float = 0.01
    """standard deviation of the initial kernels, which are drawn from N(0, std^2)"""
    bias: float = 0.0
    """initial bias"""
    bias_std: float = 0.0
    """standard deviation of the initial biases around `bias`"""
    then: tuple[Follow, ...] = ("activation",)
    """what follows: activation, norm (LRN), map_norm (cuda-convnet's same-map norm), batch_norm, pool"""

    def __post_init__(self) -> None:
        if min(self.size, self.stride) < 1 or min(self.padding) < 0:
            raise BadInput(
                f"a convolution has size {self.size}, stride {self.stride} and padding {self.padding}; "
                f"give a size and stride of at least 1 and a padding of at least 0"
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
    bias_std: float = 0.0
    """standard deviation of the initial biases around `bias`"""


@dataclass(frozen=True)
class Pool:
    """Pooling (section 3.4)."""

    kind: Literal["max", "average"] = "max"
    size: int = 3
    stride: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.size:
            raise BadInput(f"model.pool has stride {self.stride} and size {self.size}; give 1 <= stride <= size")


@dataclass(frozen=True)
class ResponseNorm:
    """b = a / (k + alpha * sum of a^2 over a window of n)^beta (section 3.3)."""

    k: float = 2.0
    n: int = 5
    alpha: float = 1e-4
    beta: float = 0.75

    @property
    def reach(self) -> tuple[int, int]:
        """How far a window reaches before and after its own place (cuda-convnet's conv_util.cu)."""
        return self.n // 2, self.n - 1 - self.n // 2

    def __post_init__(self) -> None:
        if self.n < 1 or self.k <= 0 or self.alpha < 0:
            raise BadInput(
                f"a response norm has k {self.k:g}, n {self.n}, alpha {self.alpha:g}; give k > 0, n >= 1, alpha >= 0"
            )


@dataclass(frozen=True)
class BatchNorm:
    """Each map minus its mean over the batch, divided by its standard deviation (Ioffe and Szegedy 2015).

    Then times a learnt scale plus a learnt bias. At test time the mean and variance are running averages.
    """

    momentum: float = 0.9
    """share of the running averages that a step keeps"""
    epsilon: float = 1e-4
    """added to the variance"""

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1 or self.epsilon <= 0:
            raise BadInput(
                f"a batch norm has momentum {self.momentum:g} and epsilon {self.epsilon:g}; "
                f"give a momentum from 0 to less than 1, and an epsilon of more than 0"
            )


@cache
def activations() -> tuple[str, ...]:
    """The names of the functions in `jax.nn` that take one array and work on each element alike."""
    found = []
    for name, function in inspect.getmembers(jax.nn, callable):
        parameters = inspect.signature(function).parameters
        required = [parameter.name for parameter in parameters.values() if parameter.default is parameter.empty]
        if required == ["x"] and "axis" not in parameters:
            found.append(name)
    return tuple(found)


def check_activation(name: str) -> None:
    """Raises BadInput if `jax.nn` has no such activation."""
    if name not in activations():
        raise BadInput(f"model.activation is {name!r}; give one of jax.nn's {', '.join(activations())}")


# Layers at which the columns may meet. All of them read the image in conv1, and all of them meet in the logits.
Meeting = Literal["conv2", "conv3", "conv4", "conv5", "conv6", "fc6", "fc7"]


@dataclass(frozen=True)
class ModelConfig:
    """The network of section 3.5, and networks that differ from it in a few choices."""

    logits: ClassVar[str] = "fc8"

    network: Literal["alexnet"] = "alexnet"
    image_size: int = 224
    """height and width of the crop that enters the network"""
    channels: int = 3
    columns: int = 2
    """number of columns; each has an equal share of every layer's kernels"""
    meet: tuple[Meeting, ...] = ("conv3", "conv6", "fc6", "fc7")
    """layers that read all columns; the others read their own, and the logits are a sum over all columns"""
    activation: str = "relu"
    """a function of jax.nn that takes one array, such as relu, tanh, sigmoid or gelu (section 3.1)"""
    pool: Pool = Pool()
    ragged: tuple[Literal["pool1", "pool2", "pool5"], ...] = ("pool1", "pool2", "pool5")
    """pooling layers whose last window may reach past the bottom and right border, as in cuda-convnet and Caffe"""
    norm: bool = True
    """False removes every response normalisation"""
    lrn: ResponseNorm = ResponseNorm()
    """normalisation across the maps at one position"""
    lrn_across_columns: bool = False
    """whether its windows reach into the next column, as in Caffe; otherwise they stop at the column's border"""
    map_norm: ResponseNorm = ResponseNorm(k=1.0, alpha=4e-5)
    """normalisation across n x n positions of one map; the paper does not mention it"""
    batch_norm: BatchNorm = BatchNorm()
    """normalisation across the images of a batch, where a layer's `then` names it; it came after the paper"""
    dropout: float = 0.5
    """probability that a unit is dropped in training"""
    dropout_before: tuple[Literal["fc6", "fc7", "fc8"], ...] = ("fc7", "fc8")
    """layers whose inputs are dropped; the inputs of fc7 and fc8 are the units of fc6 and fc7"""
    dropout_scale: Literal["test", "train"] = "test"
    """test: units are multiplied by 1 - dropout at test time (the paper); train: by its inverse in training"""
    conv1: Conv = Conv(96, 11, stride=4, padding=(0, 3), then=("activation", "norm", "pool"))
    conv2: Conv = Conv(256, 5, padding=(2, 2), bias=1.0, then=("activation", "norm", "pool"))
    conv3: Conv = Conv(384, 3, padding=(1, 1))
    conv4: Conv = Conv(384, 3, padding=(1, 1), bias=1.0)
    conv5: Conv = Conv(256, 3, padding=(1, 1), bias=1.0, then=("activation", "pool"))
    without: tuple[Literal["conv3", "conv4"], ...] = ()
    """convolutions that are left out (section 7)"""
    conv6: Conv | None = None
    """a sixth convolution after the last pooling layer; it reads all columns (section 6, note 1)"""
    fc6: Dense = Dense(4096, bias=1.0)
    fc7: Dense = Dense(4096, bias=1.0)
    fc8: Dense = Dense(1000)

    @property
    def classes(self) -> int:
        return self.fc8.units

    def with_classes(self, classes: int) -> "ModelConfig":
        return replace(self, fc8=replace(self.fc8, units=classes))

    @property
    def convs(self) -> dict[str, Conv]:
        layers = {f"conv{number}": getattr(self, f"conv{number}") for number in range(1, 7)}
        return {name: layer for name, layer in layers.items() if layer and name not in self.without}

    def __post_init__(self) -> None:
        if self.columns < 1:
            raise BadInput(f"model.columns is {self.columns}; give at least 1")
        check_activation(self.activation)
        unknown = [layer for layer in self.meet if layer not in get_args(Meeting)]
        if unknown or len(set(self.meet)) < len(self.meet):
            raise BadInput(
                f"model.meet is {', '.join(self.meet)}; name each of {', '.join(get_args(Meeting))} at most once"
            )
        if not 0 <= self.dropout < 1:
            raise BadInput(f"model.dropout is {self.dropout:g}; give at least 0 and less than 1")
        widths = {f"{name}.kernels": conv.kernels for name, conv in self.convs.items()}
        widths |= {"fc6.units": self.fc6.units, "fc7.units": self.fc7.units}
        check_widths(widths, self.columns)
        self.sides()

    def sides(self) -> dict[str, int]:
        """Height and width of the output of each convolution and pooling layer: {"conv1": 55, "pool1": 27, ...}.

        Raises BadInput if the image is too small for the network.
        """
        return sides(self.image_size, self.convs, lambda name, side: pooled(side, self.pool, name in self.ragged))


@dataclass(frozen=True)
class TutorialConfig:
    """The MNIST network of the TensorFlow tutorials (aymericdamien/TensorFlow-Examples, alexnet.py).

    Each convolution is followed by its ReLU, pooling, LRN and dropout, in this order, fc1 and fc2 only by their ReLU.
    """

    columns: ClassVar[int] = 1
    logits: ClassVar[str] = "out"

    network: Literal["tutorial"] = "tutorial"
    image_size: int = 28
    channels: int = 1
    activation: str = "relu"
    pool: Pool = Pool(size=2, stride=2)
    norm: bool = True
    lrn: ResponseNorm = ResponseNorm(k=1.0, n=9, alpha=0.001 / 9)
    """TensorFlow's depth_radius of 4 is a window of 9"""
    dropout: float = 0.2
    """probability that a position of a map is dropped in training, after each norm; the others are scaled up"""
    std: float | None = None
    """one standard deviation for all initial weights and biases instead of the layers' own; the tutorial's is 1"""
    conv1: Conv = Conv(64, 3, padding=(1, 1), std=math.sqrt(2 / 9), then=("activation", "pool", "norm"))
    conv2: Conv = Conv(128, 3, padding=(1, 1), std=math.sqrt(2 / 576), then=("activation", "pool", "norm"))
    conv3: Conv = Conv(256, 3, padding=(1, 1), std=math.sqrt(2 / 1152), then=("activation", "pool", "norm"))
    fc1: Dense = Dense(1024, std=math.sqrt(2 / 4096))
    fc2: Dense = Dense(1024, std=math.sqrt(2 / 1024))
    out: Dense = Dense(10, std=math.sqrt(1 / 1024))

    @property
    def classes(self) -> int:
        return self.out.units

    def with_classes(self, classes: int) -> "TutorialConfig":
        return replace(self, out=replace(self.out, units=classes))

    @property
    def convs(self) -> dict[str, Conv]:
        return {"conv1": self.conv1, "conv2": self.conv2, "conv3": self.conv3}

    def __post_init__(self) -> None:
        check_activation(self.activation)
        if not 0 <= self.dropout < 1:
            raise BadInput(f"model.dropout is {self.dropout:g}; give at least 0 and less than 1")
        check_no_batch_norm(self.convs)
        widths = {f"{name}.kernels": conv.kernels for name, conv in self.convs.items()}
        check_widths(widths | {"fc1.units": self.fc1.units, "fc2.units": self.fc2.units})
        sides(self.image_size, self.convs, lambda name, side: pooled(side, self.pool))


@dataclass(frozen=True)
class CifarConfig:
    """The CIFAR-10 networks of cuda-convnet's example-layers.

    Two convolutions, then either a third (section 3.1, Figure 1) or two local layers, which have different kernels at
    every position (section 3.3, footnote 1).
    """

    columns: ClassVar[int] = 1
    logits: ClassVar[str] = "fc10"

    network: Literal["cifar"] = "cifar"
    image_size: int = 32
    channels: int = 3
    activation: str = "relu"
    pool1: Pool = Pool()
    pool2: Pool = Pool("average")
    pool3: Pool = Pool("average")
    norm: bool = True
    lrn: ResponseNorm = ResponseNorm(k=1.0, n=9, alpha=0.001 / 9)
    conv1: Conv = Conv(32, 5, padding=(2, 2), std=0.0001, then=("pool", "activation"))
    conv2: Conv = Conv(32, 5, padding=(2, 2), then=("activation", "pool"))
    conv3: Conv | None = Conv(64, 5, padding=(2, 2), then=("activation", "pool"))
    local3: Conv | None = None
    local4: Conv | None = None
    fc10: Dense = Dense(10)

    @property
    def classes(self) -> int:
        return self.fc10.units

    def with_classes(self, classes: int) -> "CifarConfig":
        return replace(self, fc10=replace(self.fc10, units=classes))

    @property
    def convs(self) -> dict[str, Conv]:
        layers = {name: getattr(self, name) for name in ("conv1", "conv2", "conv3", "local3", "local4")}
        return {name: layer for name, layer in layers.items() if layer}

    def __post_init__(self) -> None:
        check_activation(self.activation)
        for name, layer in self.convs.items():
            if name.startswith("local") and layer.then != ("activation",):
                raise BadInput(f"model.{name}.then is {layer.then}; give a local layer its activation alone")
        check_no_batch_norm(self.convs)
        check_widths({f"{name}.kernels": conv.kernels for name, conv in self.convs.items()})
        sides(self.image_size, self.convs, lambda name, side: pooled(side, getattr(self, name)))


Model = ModelConfig | TutorialConfig | CifarConfig


def check_no_batch_norm(convs: dict[str, Conv]) -> None:
    """Raises BadInput if one of them is followed by batch norm."""
    for name, conv in convs.items():
        if "batch_norm" in conv.then:
            raise BadInput(f"model.{name}.then has batch_norm, which only AlexNet's convolutions can have")


def check_widths(widths: dict[str, int], columns: int = 1) -> None:
    """Raises BadInput if a layer has no kernels or units, or the columns cannot share them equally."""
    for name, width in widths.items():
        if width < 1:
            raise BadInput(f"model.{name} is {width}; give at least 1")
        if width % columns:
            raise BadInput(f"model.{name} is {width}, which {columns} columns cannot share equally")


def sides(image_size: int, convs: dict[str, Conv], pool: Callable[[str, int], int]) -> dict[str, int]:
    """Height and width of each convolution's output and, by `pool`(name, side), of each pooling layer's."""
    side, found = image_size, {}
    for name, conv in convs.items():
        if side + sum(conv.padding) < conv.size:
            raise BadInput(
                f"model.image_size {image_size} does not fit the network: {name}'s {conv.size}x{conv.size} "
                f"kernel reads a map of {side}x{side}; give a larger --model.image-size"
            )
        side = (side + sum(conv.padding) - conv.size) // conv.stride + 1
        found[name] = side
        if "pool" in conv.then:
            name = name.replace("conv", "pool")
            if pool(name, side) < 1:
                raise BadInput(
                    f"model.image_size {image_size} leaves {name} a map of {side}x{side}, smaller than its window"
                )
            side = found[name] = pool(name, side)
    return found


def pooled(side: int, pool: Pool, ragged: bool = True) -> int:
    """Height or width after pooling. A `ragged` last window counts, as in cuda-convnet's layer.py."""
    room = side - pool.size
    return 1 + (max(0, -(-room // pool.stride)) if ragged else room // pool.stride)
