"""Weights of other programs, by the suffix of their file."""

from pathlib import Path

from alexnet_jax.config import BadInput
from alexnet_jax.weights import caffe_file, onnx_file, torch_file
from alexnet_jax.weights.found import Found

READERS = {
    ".caffemodel": caffe_file.read,
    ".onnx": onnx_file.read,
    ".pth": torch_file.read,
    ".pt": torch_file.read,
    ".safetensors": torch_file.read,
}


def read(path: Path) -> Found:
    """The network in a file of Caffe, ONNX or PyTorch. Raises BadInput if it is not one of their AlexNets."""
    if path.suffix.lower() not in READERS:
        raise BadInput(f"{path} has the suffix {path.suffix!r}; weights files end in {', '.join(READERS)}")
    if not path.is_file():
        raise BadInput(f"there is no file {path}")
    try:
        return READERS[path.suffix.lower()](path)
    except BadInput:
        raise
    except Exception as error:  # damaged bytes may fail anywhere in protobuf, onnx, pickle, zipfile and NumPy
        kind = path.suffix.lower()
        raise BadInput(f"{path} is damaged or not a {kind} file ({type(error).__name__})") from error
