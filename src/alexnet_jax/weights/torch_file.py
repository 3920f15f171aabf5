"""torchvision's alexnet as .safetensors, and as .pth and .pt without PyTorch and without executing what they pickle.

A file of torch.save is a program for Python's pickle machine and can call any function. This reader allows the few that
a dict of tensors needs, as functions of its own, and rejects all others by name.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np

from alexnet_jax.config import BadInput, ModelConfig
from alexnet_jax.config.presets import preset
from alexnet_jax.weights.found import Found, needs

NAMES = {
    "conv1": "features.0", "conv2": "features.3", "conv3": "features.6", "conv4": "features.8", "conv5": "features.10",
    "fc6": "classifier.1", "fc7": "classifier.4", "fc8": "classifier.6",
}  # fmt: skip
# Red, green, blue, of images on a scale of 0 to 1.
MEAN_C = (0.485, 0.456, 0.406)
STD_C = (0.229, 0.224, 0.225)


def read(path: Path) -> Found:
    """The network of a .safetensors, .pth or .pt file. Raises BadInput if it is not torchvision's alexnet."""
    arrays = _safetensors(path) if path.suffix.lower() == ".safetensors" else _pickled(path)
    kernels = {layer: arrays[f"{name}.weight"] for layer, name in NAMES.items()}
    biases = {layer: arrays[f"{name}.bias"] for layer, name in NAMES.items()}
    config = preset("one_weird_trick")
    assert isinstance(config.model, ModelConfig)
    config = replace(config, model=config.model.with_classes(biases["fc8"].size))
    return Found(config, kernels, biases, bgr=False, mean_C=255 * np.array(MEAN_C), scale_C=255 * np.array(STD_C))


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    with needs("safetensors", "a .safetensors").safe_open(path, "numpy") as file:
        names = _names(path, file.keys())
        for called in names.values():
            if (kind := file.get_slice(called).get_dtype()) not in ("F16", "F32", "F64"):
                raise BadInput(f"{path} holds {called!r} as {kind}; only F16, F32 and F64 can be read")
        return {name: file.get_tensor(called) for name, called in names.items()}


def _pickled(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    held, raw = _zipped(path) if zipped else _legacy(path)
    for key in ("state_dict", "model"):
        held = held[key] if isinstance(held, dict) and isinstance(held.get(key), dict) else held
    if not isinstance(held, dict):
        raise BadInput(f"{path} does not hold a dict of tensors; save the model's state_dict()")
    tensors = {called: tensor for called, tensor in held.items() if isinstance(tensor, Tensor)}
    return {name: _view(path, called, tensors[called], raw) for name, called in _names(path, tensors).items()}


def _names(path: Path, held: Iterable[str]) -> dict[str, str]:
    """The names of alexnet's arrays in the file, possibly with the prefix "module.". Raises BadInput for others."""
    wanted = [f"{layer}.{what}" for layer in NAMES.values() for what in ("weight", "bias")]
    names = {called.removeprefix("module."): called for called in held}
    for name in wanted:
        if name not in names:
            raise BadInput(f"{path} is not torchvision's alexnet, which has {name}")
    for name in names:
        if name not in wanted:
            raise BadInput(f"{path} is not torchvision's alexnet, which does not have {name!r}")
    return names


# ------------------------------------------------------------------------------------------------ pickled files


@dataclass(frozen=True)
class Storage:
    """A run of numbers; tensors are views of it."""

    dtype: str
    key: str
    size: int


@dataclass(frozen=True)
class Tensor:
    """A view of a storage, as described by the pickle, which is not to be trusted."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def __setstate__(self, state: object) -> None:
        """Pickles of 2017 set a Parameter's flags afterwards; they are ignored."""


STORAGES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2"}


def _admitted() -> dict[str, Any]:
    """The functions a pickle may call. Made anew for every file, as a pickle can set attributes of functions."""

    def tensor(storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
        return Tensor(storage, offset, size, stride)

    class Parameter:
        def __new__(cls, data: Tensor, *_: object) -> Any:
            return data

    return {
        "collections.OrderedDict": OrderedDict,
        "torch._utils._rebuild_tensor": tensor,
        "torch._utils._rebuild_tensor_v2": tensor,
        "torch._utils._rebuild_parameter": Parameter,
        "torch.nn.parameter.Parameter": Parameter,
    } | {f"torch.{name}": dtype for name, dtype in STORAGES.items()}


class Unpickler(pickle.Unpickler):
    """Runs a pickle that may call only allowed functions, and remembers the storages it names."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__(file, encoding="utf-8")
        self.path, self.admitted = path, _admitted()
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        called = f"{module}.{name}"
        if called not in self.admitted:
            if module == "torch" and name.endswith("Storage"):
                raise BadInput(f"{self.path} holds {called!r}; only {', '.join(STORAGES)} can be read")
            raise BadInput(
                f"{self.path} tries to call {called!r}, which a dict of tensors does not need; nothing was executed; "
                f"save the model's state_dict()"
            )
        return self.admitted[called]

    def persistent_load(self, pid: Any) -> Storage:
        match pid:
            # A legacy file's last item is a view of another storage, which PyTorch has not written since 0.4.
            case ("storage", str(dtype), str(key), _, int(size)) | (
                "storage",
                str(dtype),
                str(key),
                _,
                int(size),
                None,
            ):
                if dtype in STORAGES.values():
                    return self.storages.setdefault(key, Storage(dtype, key, size))
        raise BadInput(f"{self.path} is damaged: it names a storage in a way that PyTorch never does")


Raw = Callable[[Storage], bytes]


def _zipped(path: Path) -> tuple[Any, Raw]:
    """The contents of a torch.save file and a reader of its storages: the format since PyTorch 1.6, a zip archive."""
    with zipfile.ZipFile(path) as archive:
        # Members are stored uncompressed, so they cannot be longer than the file.
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise BadInput(f"{path} is a compressed archive, which torch.save does not write")
        [pickled] = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        folder = pickled.removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise BadInput(f"{path} was written on a big-endian machine; save it on another")
        held = Unpickler(io.BytesIO(archive.read(pickled)), path).load()

    @cache
    def raw(storage: Storage) -> bytes:
        with zipfile.ZipFile(path) as archive:
            return archive.read(f"{folder}data/{storage.key}")

    return held, raw


def _legacy(path: Path) -> tuple[Any, Raw]:
    """The same for the format before 1.6: five pickles, then the storages."""
    with path.open("rb") as file:
        if Unpickler(file, path).load() != 0x1950A86A20F9469CFC6C:
            raise BadInput(f"{path} was not written by torch.save: its first number is wrong")
        for _ in ("version of the format", "sizes of C's integers"):
            Unpickler(file, path).load()
        unpickler = Unpickler(file, path)
        held = unpickler.load()
        numbers, end = {}, path.stat().st_size
        for key in Unpickler(file, path).load():
            storage = unpickler.storages[key]
            size = int.from_bytes(file.read(8), "little") * np.dtype(storage.dtype).itemsize
            if file.tell() + size > end:
                raise BadInput(f"{path} is truncated in the middle of its numbers")
            numbers[key] = file.read(size)
    return held, lambda storage: numbers[storage.key]


def _view(path: Path, called: str, tensor: Tensor, raw: Raw) -> np.ndarray:
    """The tensor's numbers. Raises BadInput if they lie outside their storage."""
    size, stride, offset = tensor.size, tensor.stride, tensor.offset
    numbers = np.frombuffer(raw(tensor.storage), tensor.storage.dtype)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    inside = min(offset, *stride, *(length - 1 for length in size), last) >= 0 and last < len(numbers)
    if not inside or len(numbers) != tensor.storage.size:
        raise BadInput(f"{path} is damaged: the numbers of {called!r} lie outside their storage")
    steps = [step * numbers.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(numbers[offset:], size, steps, writeable=False)
