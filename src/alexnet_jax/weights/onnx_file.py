"""Caffe's AlexNet and CaffeNet as ONNX graphs: the model zoo's bvlcalexnet and caffenet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.config import BadInput
from alexnet_jax.weights.caffe_net import Layer, reading
from alexnet_jax.weights.found import Found, needs

# Nodes that change no number on the way to the logits. A Constant is a shape here; weights are initializers.
SILENT = ("Constant", "ConstantOfShape", "Dropout", "Flatten", "Identity", "Reshape", "Softmax")


def read(path: Path) -> Found:
    """The network in an .onnx file. Raises BadInput if it is neither of Caffe's two."""
    onnx = needs("onnx", "an .onnx")
    graph = onnx.load(path).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    made_by = {output: node.op_type for node in graph.node for output in node.output}

    def array(name: str) -> np.ndarray:
        if name not in stored:
            source = f"a node of type {made_by[name]} makes them" if name in made_by else "they are an input"
            raise BadInput(f"{path} does not hold the weights {name!r}: {source}")
        return onnx.numpy_helper.to_array(stored[name])

    layers = []
    for node in graph.node:
        if node.op_type not in SILENT:
            told = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
            names = node.input[1:] if node.op_type in ("Conv", "Gemm") else ()
            called = node.name or node.output[0]
            if len(names) == 1:
                raise BadInput(f"{path} has no bias in {called!r}, but every layer of AlexNet has one")
            layers.append(_layer(path, node.op_type, called, told, tuple(map(array, names))))
    return reading(path, layers, _image_size(path, [value for value in graph.input if value.name not in stored]))


def _layer(path: Path, kind: str, called: str, told: dict[str, Any], arrays: tuple[np.ndarray, ...]) -> Layer:
    """A node with its attributes, and ONNX's defaults for missing ones."""
    match kind:
        case "Conv":
            return Layer("conv", called, _window(told) | {"groups": told.get("group", 1)}, arrays)
        case "Gemm":
            kernel, bias = arrays
            factors = {"factors": (told.get("alpha", 1.0), told.get("beta", 1.0))}
            return Layer("fc", called, factors, (kernel if told.get("transB", 0) else kernel.T, bias.reshape(-1)))
        case "Relu":
            return Layer("activation", called)
        case "LRN":
            n = told.get("size", 1)
            # ONNX divides alpha by n.
            says = {"n": n, "alpha": told.get("alpha", 1e-4) / n}
            return Layer("norm", called, says | {"k": told.get("bias", 1.0), "beta": told.get("beta", 0.75)})
        case "MaxPool":
            # A converter writes Caffe's ragged windows as padding at the bottom and right, or not at all.
            window = _window(told)
            padded = window["padding"] == (0, 0, 1, 1)
            says = window | {"padding": (0, 0, 0, 0)} if padded else window
            return Layer("pool", called, says | {"ragged": padded or bool(told.get("ceil_mode", 0))})
    raise BadInput(f"{path} has a node of type {kind} ({called!r}), which neither of Caffe's AlexNets has")


def _window(told: dict[str, Any]) -> dict[str, Any]:
    by_rule = told.get("auto_pad", b"NOTSET").decode()
    return {
        "stride": tuple(told.get("strides", (1, 1))),
        "padding": tuple(told.get("pads", (0, 0, 0, 0))) if by_rule in ("NOTSET", "VALID") else by_rule,
        "dilation": tuple(told.get("dilations", (1, 1))),
    } | ({"size": tuple(told["kernel_shape"])} if "kernel_shape" in told else {})


def _image_size(path: Path, inputs: Sequence[Any]) -> int:
    sizes = [[size.dim_value for size in value.type.tensor_type.shape.dim] for value in inputs]
    match sizes:
        case [[_, 3, height, width]] if height == width > 0:
            return height
    raise BadInput(f"{path} reads {sizes}, where 0 is any size; a network of Caffe reads [[N, 3, S, S]]")
