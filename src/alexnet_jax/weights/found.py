"""A network in another program's layout, and its conversion to ours."""

import importlib
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from alexnet_jax.config import BadInput, Config, ModelConfig

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Found:
    """A network from another program's file, in that program's layout."""

    config: Config
    """the preset it matches, changed where the file differs: classes, image size, poolings"""
    kernels: Arrays
    """conv1 to conv5 [out, in / groups, height, width]; fc6 to fc8 [out, in], fc6's inputs in the order channel,
    height, width"""
    biases: Arrays
    """conv1 to fc8 [out]"""
    bgr: bool
    """whether conv1 reads blue, green, red; otherwise red, green, blue"""
    mean_C: np.ndarray
    """red, green, blue, on a scale of 0 to 255: the mean to subtract from an image"""
    scale_C: np.ndarray
    """red, green, blue: the divisor of the difference"""

    @property
    def model(self) -> ModelConfig:
        assert isinstance(self.config.model, ModelConfig)
        return self.config.model


def to_params(found: Found) -> dict[str, Arrays]:
    """The parameters in our layout: {"conv1": {"kernel", "bias"}, ..., "fc8": ...}, float32.

    Our networks read red, green, blue on a scale of 0 to 255, mean subtracted and times `data.scale`, with channels
    last. Therefore

    - conv1's input channels are reversed if they are blue, green, red;
    - conv1's kernels are divided by that program's divisor of the image and by `data.scale`, which plays its part here.
      Nothing else needs to change, as the zeros of conv1's padding stand for the mean pixel before and after that;
    - a convolution's kernels go from [out, in, height, width] to [height, width, in, out]. If they are grouped, `in` is
      the channels of one group, and `out` has group 0's kernels first, then group 1's: our columns 0 and 1;
    - a fully connected kernel goes from [out, in] to [in, out];
    - fc6 reads pool5 in the order channel, height, width there and height, width, channel here.

    Raises BadInput, naming the layer, if a shape is not the one in found.config.model.
    """
    params = {}
    for layer, expected in kernel_shapes(found.model).items():
        kernel, bias = found.kernels[layer], found.biases[layer]
        for what, array, shape in (("kernel", kernel, expected), ("bias", bias, expected[:1])):
            if array.shape != shape:
                raise BadInput(
                    f"{layer}'s {what} is {_times(array.shape)} and the preset {found.config.preset} needs "
                    f"{_times(shape)}: the file holds another network"
                )
            if array.dtype.kind != "f":
                raise BadInput(f"{layer}'s {what} consists of {array.dtype}; weights must be floating-point numbers")
        if layer == "conv1":
            scale_C = found.scale_C * found.config.data.scale
            kernel = (kernel[:, ::-1] if found.bgr else kernel) / scale_C[:, None, None]
        if layer == "fc6":
            side = found.model.sides()["pool5"]
            kernel = kernel.reshape(len(kernel), -1, side, side).transpose(2, 3, 1, 0).reshape(-1, len(kernel))
        else:
            kernel = kernel.transpose((2, 3, 1, 0) if kernel.ndim == 4 else (1, 0))
        # `array`, not `asarray`: the file's arrays may be read-only views of its bytes.
        params[layer] = {"kernel": np.array(kernel, np.float32, order="C"), "bias": np.array(bias, np.float32)}
    return params


def kernel_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """[out, in / groups, height, width] and [out, in] of the network's kernels in other programs."""
    shapes: dict[str, tuple[int, ...]] = {}
    width = model.channels
    for name, conv in model.convs.items():
        shapes[name] = (conv.kernels, width // groups(model, name), conv.size, conv.size)
        width = conv.kernels
    width *= model.sides()["pool5"] ** 2
    for name in ("fc6", "fc7", "fc8"):
        units = getattr(model, name).units
        shapes[name], width = (units, width), units
    return shapes


def groups(model: ModelConfig, layer: str) -> int:
    """The number of groups of a convolution: our columns, unless they meet there."""
    return 1 if layer == "conv1" or layer in model.meet else model.columns


def needs(module: str, kind: str) -> ModuleType:
    """A module that only conversion needs and that a plain installation does not have."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BadInput(f"reading {kind} file needs the extra convert: pip install '.[convert]' in the clone") from error


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"
