"""python -m alexnet_jax.convert SOURCE DST: imports weights of other programs, exports StableHLO."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import tyro
from jax import Array

from alexnet_jax import command_line
from alexnet_jax.config import BadInput, check_local
from alexnet_jax.data import augment
from alexnet_jax.networks import functional
from alexnet_jax.training import checkpoint
from alexnet_jax.training.trained import Trained, trained

STABLEHLO = ".stablehlo"


@dataclass(frozen=True)
class Options:
    """Imports the weights of another program into a run directory, or exports a run as a StableHLO program.

    SOURCE: a .caffemodel, .onnx, .pth or .safetensors file of an AlexNet, or a run. DST: the run directory to make, or
    a file that ends in .stablehlo, which jax.export.deserialize reads. That program takes any number b of uint8 images
    [b, H, W, C] of the size the run was trained on and returns the class probabilities [b, K] of the central crop.
    """

    source: tyro.conf.Positional[Path]
    """file of weights, run directory or checkpoint"""
    dst: tyro.conf.Positional[Path]
    """run directory or .stablehlo file to make"""


def stablehlo(there: Trained) -> bytes:
    """The network with its weights as a serialised program for CPU, CUDA, ROCm and TPU."""
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
    check_local(dst)
    if dst.exists():
        raise BadInput(f"{dst} already exists; give another name")
    if not out and src.is_dir() and checkpoint.find(src):
        raise BadInput(f"{src} is already a run; give a DST that ends in {STABLEHLO} to export its network")
    there = trained(src)
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
