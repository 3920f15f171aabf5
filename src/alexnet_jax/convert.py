"""python -m alexnet_jax.convert SOURCE DST: weights of other programs in, StableHLO out."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import tyro
from jax import Array

from alexnet_jax import command_line
from alexnet_jax.config import BadInput, Config
from alexnet_jax.data import augment
from alexnet_jax.data.imagenet import imagenet_classes
from alexnet_jax.networks import functional
from alexnet_jax.training import checkpoint
from alexnet_jax.weights.found import to_params
from alexnet_jax.weights.read import read

STABLEHLO = ".stablehlo"


@dataclass(frozen=True)
class Options:
    """Brings the weights of another program into a run directory, or takes a run's out as a program of StableHLO.

    SOURCE: a .caffemodel, .onnx, .pth or .safetensors file of an AlexNet, or a run. DST: the run directory to make, or
    a file that ends in .stablehlo, which jax.export.deserialize reads: uint8 pictures [b, H, W, C] of the size that the
    run was trained from, any number b, to the probabilities [b, K] of the classes, of the central crop.
    """

    source: tyro.conf.Positional[Path]
    """weights, or a run or checkpoint"""
    dst: tyro.conf.Positional[Path]
    """what to make"""


class Source(NamedTuple):
    """A network that was trained before, here or elsewhere."""

    config: Config
    params: dict[str, dict[str, Any]]
    statistics: augment.Statistics
    classes: list[str]
    image_shape: tuple[int, int, int]
    """of the pictures that its crops are cut from"""
    foreign: bool
    """whether it comes from another program, whose classes are known by their numbers alone"""


def source(path: Path) -> Source:
    """The network in a run, a checkpoint or a file of weights. Raises BadInput where there is none."""
    if not path.is_file():
        found = checkpoint.find(path)
        H, W, C = found.data["image_shape"]
        statistics = augment.Statistics(**found.statistics())
        foreign = found.data["fingerprint"] is None
        return Source(found.config, found.params(), statistics, found.data["classes"], (H, W, C), foreign)
    there = read(path)
    params, model = to_params(there), there.model
    classes = imagenet_classes() if model.classes == 1000 else [str(number) for number in range(model.classes)]
    # All of them cut their crops from pictures of 256; of the training pictures' colours their files say nothing.
    side = max(256, model.image_size)
    mean_HWC = np.broadcast_to(there.mean_C.astype(np.float32), (side, side, 3))
    statistics = augment.Statistics(mean_HWC.copy(), np.zeros(3, np.float32), np.eye(3, dtype=np.float32))
    return Source(there.config, params, statistics, classes, (side, side, 3), foreign=True)


def stablehlo(there: Source) -> bytes:
    """The network with its weights as a program for CPU, CUDA, ROCm and TPU, serialised."""
    config = there.config
    forward = functional.forward(config.model, precision=config.precision)

    def probabilities(pictures_BHWC: Array) -> Array:
        size = config.model.image_size
        view = augment.test_view(pictures_BHWC, jnp.int32(0), there.statistics, data=config.data, size=size)
        return jax.nn.softmax(forward(there.params, view))

    (batch,) = jax.export.symbolic_shape("b")
    pictures = jax.ShapeDtypeStruct((batch, *there.image_shape), jnp.uint8)
    try:
        program = jax.export.export(jax.jit(probabilities), platforms=("cpu", "cuda", "rocm", "tpu"))(pictures)
        return bytes(program.serialize())
    except ImportError as error:
        raise BadInput("writing StableHLO needs the extra convert: pip install '.[convert]' in the clone") from error


def convert() -> None:
    options = command_line.parse(Options)
    src, dst = options.source, options.dst
    out = dst.suffix == STABLEHLO
    if dst.exists():
        raise BadInput(f"{dst} is there already; give another name")
    if not out and src.is_dir() and checkpoint.find(src):
        raise BadInput(f"{src} is a run already; give a DST that ends in {STABLEHLO} to take its network out")
    there = source(src)
    unfinished = dst.with_name(f"{dst.name}.incomplete")
    dst.parent.mkdir(parents=True, exist_ok=True)
    if out:
        program = stablehlo(there)
        unfinished.write_bytes(program)
    else:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        data = {
            "path": None,
            "source": src.name,
            "fingerprint": None,
            "image_shape": list(there.image_shape),
            "classes": there.classes,
        }
        checkpoint.write_weights(unfinished, there.config, data, there.statistics._asdict(), there.params)
    unfinished.rename(dst)
    parameters = sum(array.size for array in jax.tree.leaves(there.params))
    print(f"{dst}: {there.config.preset}, {parameters:,} parameters, {len(there.classes)} classes, from {src}")


if __name__ == "__main__":
    command_line.main(convert)
