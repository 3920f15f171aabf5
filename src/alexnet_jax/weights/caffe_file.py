"""Caffe's AlexNet and CaffeNet as .caffemodel files, in today's format or that of 2014."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.config import BadInput
from alexnet_jax.weights.caffe_net import MEAN_C, Layer, reading
from alexnet_jax.weights.found import Found, needs

# The fields of caffe.proto that decide an AlexNet's numbers: number, type (* repeated), default if it is not 0.
# Protobuf skips all others. The names are ours. Some types stand for others with the same wire format: an enum is an
# int32, and packed numbers are bytes, as fc6 alone would take more than a gigabyte as Python floats.
MESSAGES: dict[str, dict[str, tuple[Any, ...]]] = {
    "Net": {
        "layers": (2, "OldLayer*"), "input_dim": (4, "int32*"), "input_shape": (8, "Shape*"), "layer": (100, "Layer*"),
    },
    "Layer": {
        "name": (1, "bytes"), "type": (2, "bytes"), "blobs": (7, "Blob*"), "transform": (100, "Transform"),
        "conv": (106, "Conv"), "dense": (117, "Dense"), "norm": (118, "Norm"), "pool": (121, "Pool"),
        "relu": (123, "ReLU"), "input": (143, "Input"),
    },
    "OldLayer": {
        "oldest": (1, "bytes"), "name": (4, "bytes"), "type": (5, "int32"), "blobs": (6, "Blob*"),
        "conv": (10, "Conv"), "dense": (17, "Dense"), "norm": (18, "Norm"), "pool": (19, "Pool"),
        "relu": (30, "ReLU"), "transform": (36, "Transform"),
    },
    "Blob": {
        "num": (1, "int32"), "channels": (2, "int32"), "height": (3, "int32"), "width": (4, "int32"),
        "floats": (5, "bytes*"), "shape": (7, "Shape"), "doubles": (8, "bytes*"),
    },
    "Shape": {"dim": (1, "int64*")},
    "Transform": {"scale": (1, "float", "1"), "crop": (3, "uint32"), "mean": (5, "float*")},
    "Input": {"shape": (1, "Shape*")},
    "Conv": {
        "pad": (3, "uint32*"), "size": (4, "uint32*"), "groups": (5, "uint32", "1"), "stride": (6, "uint32*"),
        "pad_h": (9, "uint32"), "pad_w": (10, "uint32"), "size_h": (11, "uint32"), "size_w": (12, "uint32"),
        "stride_h": (13, "uint32"), "stride_w": (14, "uint32"), "dilation": (18, "uint32*"),
    },
    "Pool": {
        "kind": (1, "int32"), "size": (2, "uint32*"), "stride": (3, "uint32*"), "pad": (4, "uint32*"),
        "size_h": (5, "uint32"), "size_w": (6, "uint32"), "stride_h": (7, "uint32"), "stride_w": (8, "uint32"),
        "pad_h": (9, "uint32"), "pad_w": (10, "uint32"), "everywhere": (12, "bool"), "floor": (13, "int32"),
    },
    "Norm": {
        "n": (1, "uint32", "5"), "alpha": (2, "float", "1"), "beta": (3, "float", "0.75"), "region": (4, "int32"),
        "k": (5, "float", "1"),
    },
    "Dense": {"transpose": (6, "bool")},
    "ReLU": {"slope": (1, "float")},
}  # fmt: skip
# In the format of 2014 layer types are numbers.
TYPES = {
    1: "Accuracy", 4: "Convolution", 5: "Data", 6: "Dropout", 8: "Flatten", 9: "HDF5Data", 12: "ImageData",
    14: "InnerProduct", 15: "LRN", 17: "Pooling", 18: "ReLU", 20: "Softmax", 21: "SoftmaxWithLoss", 22: "Split",
    24: "WindowData", 29: "MemoryData", 32: "DummyData", 36: "Silence",
}  # fmt: skip
NETWORK = ("Convolution", "InnerProduct", "LRN", "Pooling", "ReLU")
# Layers that change no number between an image and the logits.
SILENT = (set(TYPES.values()) | {"Input", "Reshape"}) - set(NETWORK)


def read(path: Path) -> Found:
    """The network in a .caffemodel file. Raises BadInput if it is neither of Caffe's two."""
    net = _net_class().FromString(path.read_bytes())
    if any(layer.HasField("oldest") for layer in net.layers):
        raise BadInput(f"{path} is in Caffe's format of 2013; convert it with Caffe's upgrade_net_proto_binary")
    messages = [*net.layer, *net.layers]
    transforms = [layer.transform for layer in messages]
    inputs = [shape for layer in net.layer for shape in layer.input.shape]
    dims = [*net.input_dim[3:4], *(shape.dim[-1] for shape in (*inputs, *net.input_shape) if shape.dim)]
    image_size = next((size for size in (*(told.crop for told in transforms), *dims) if size), None)
    mean_C = next((np.resize(told.mean, 3)[::-1].tolist() for told in transforms if told.mean), MEAN_C)
    scale = next((told.scale for told in transforms if told.scale not in (0, 1)), 1.0)
    layers = [layer for message in messages if (layer := _layer(path, message))]
    return reading(path, layers, image_size, mean_C, scale)


def _layer(path: Path, message: Any) -> Layer | None:
    """A layer with the settings in the file, and Caffe's defaults for missing ones."""
    kind = TYPES.get(message.type, message.type) if isinstance(message.type, int) else _text(message.type)
    called = _text(message.name)
    says: dict[str, Any] = {}
    match kind:
        case "Convolution":
            if message.HasField("conv"):
                says = _window(message.conv) | {"groups": message.conv.groups}
                says["dilation"] = tuple(([*message.conv.dilation] or [1]) * 2)[:2]
            return Layer("conv", called, says, _weights(path, called, message.blobs))
        case "InnerProduct":
            kernel, bias = _weights(path, called, message.blobs)
            kernel = kernel.reshape(kernel.shape[-2:]) if kernel.shape[:-2] == (1, 1) else kernel
            return Layer("fc", called, {}, (kernel.T if message.dense.transpose else kernel, bias))
        case "ReLU":
            return Layer("activation", called, {"slope": message.relu.slope})
        case "LRN":
            if message.HasField("norm"):
                norm = message.norm
                says = {"region": "within a channel" if norm.region else "across channels", "n": norm.n, "k": norm.k}
                # Caffe divides alpha by n.
                says |= {"alpha": norm.alpha / max(norm.n, 1), "beta": norm.beta}
            return Layer("norm", called, says)
        case "Pooling":
            if message.HasField("pool"):
                pool = message.pool
                kind = "global" if pool.everywhere else "max" if pool.kind == 0 else "average or stochastic"
                says = _window(pool) | {"kind": kind}
            return Layer("pool", called, says | {"ragged": not message.pool.floor})
    if kind not in SILENT:
        raise BadInput(f"{path} has a layer of type {kind!r} ({called!r}), which neither of Caffe's AlexNets has")
    return None


def _window(told: Any) -> dict[str, Any]:
    """Size, stride and padding, which Caffe writes as one number for both axes, a list of two, or two fields."""

    def pair(name: str, otherwise: int) -> tuple[int, ...]:
        if told.HasField(f"{name}_h"):
            return getattr(told, f"{name}_h"), getattr(told, f"{name}_w")
        return tuple(([*getattr(told, name)] or [otherwise]) * 2)[:2]

    return {"size": pair("size", 0), "stride": pair("stride", 1), "padding": pair("pad", 0) * 2}


def _weights(path: Path, called: str, blobs: Any) -> tuple[np.ndarray, np.ndarray]:
    if len(blobs) != 2:
        raise BadInput(f"{path} holds {len(blobs)} arrays of weights for {called!r} instead of a kernel and a bias")
    kernel, bias = (_array(path, called, blob) for blob in blobs)
    return kernel, bias.reshape(-1)


def _array(path: Path, called: str, blob: Any) -> np.ndarray:
    """A blob's numbers in its shape, which in 2014 had four dimensions: a bias 1x1x1x96, fc6 1x1x4096x9216."""
    shape = tuple(blob.shape.dim) if blob.HasField("shape") else (blob.num, blob.channels, blob.height, blob.width)
    kind, raw = ("<f8", b"".join(blob.doubles)) if blob.doubles else ("<f4", b"".join(blob.floats))
    if min(shape, default=0) < 0 or len(raw) != math.prod(shape) * np.dtype(kind).itemsize:
        raise BadInput(f"{path} has {len(raw)} bytes of {kind} for {called!r}, which do not fill the shape {shape}")
    return np.frombuffer(raw, kind).reshape(shape)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")


def _net_class() -> Any:
    """The class of a complete network, which the protobuf library makes from MESSAGES."""
    descriptor = needs("google.protobuf.descriptor_pb2", "a .caffemodel")
    file = descriptor.FileDescriptorProto(name="alexnet_jax.proto", package="alexnet_jax", syntax="proto2")
    for message, fields in MESSAGES.items():
        made = file.message_type.add(name=message)
        for field, (number, kind, *default) in fields.items():
            part = made.field.add(name=field, number=number)
            part.label = part.LABEL_REPEATED if kind.endswith("*") else part.LABEL_OPTIONAL
            if (kind := kind.removesuffix("*")) in MESSAGES:
                part.type, part.type_name = part.TYPE_MESSAGE, f".alexnet_jax.{kind}"
            else:
                part.type = getattr(part, f"TYPE_{kind.upper()}")
            if default:
                part.default_value = default[0]
    pool = needs("google.protobuf.descriptor_pool", "a .caffemodel").DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    factory = needs("google.protobuf.message_factory", "a .caffemodel")
    return factory.GetMessageClass(pool.FindMessageTypeByName("alexnet_jax.Net"))
