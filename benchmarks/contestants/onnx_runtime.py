"""onnxruntime: the same networks in inference, built from standard ONNX operators."""

import math
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from alexnet_jax.config import TutorialConfig
from contestants.ours import given
from contestants.turns import Worker


def graph(model: Any, params: dict[str, np.ndarray]) -> onnx.ModelProto:
    """images [B, C, H, W] -> logits [B, K] for a ModelConfig or a TutorialConfig."""
    nodes: list[Any] = []
    constants: dict[str, np.ndarray] = {}

    def constant(array: Any) -> str:
        name = f"constant{len(constants)}"
        constants[name] = np.ascontiguousarray(array, dtype=np.float32)
        return name

    def node(kind: str, *inputs: str, outputs: int = 1, **how: Any) -> Any:
        names = [f"value{len(nodes)}_{i}" for i in range(outputs)]
        nodes.append(helper.make_node(kind, inputs, names, **how))
        return names[0] if outputs == 1 else names

    def lrn(x: str) -> str:
        norm = model.lrn
        how: dict[str, Any] = {
            "size": norm.n,
            "alpha": norm.alpha * norm.n,  # ONNX divides alpha by n
            "beta": norm.beta,
            "bias": norm.k,
        }
        if columns == 1:
            return node("LRN", x, **how)
        parts = [node("LRN", part, **how) for part in node("Split", x, outputs=columns, axis=1, num_outputs=columns)]
        return node("Concat", *parts, axis=1)

    def map_norm(x: str) -> str:
        norm = model.map_norm
        before, after = norm.reach
        how: dict[str, Any] = {
            "kernel_shape": [norm.n] * 2,
            "pads": [before, before, after, after],
            "count_include_pad": 1,
        }
        means = node("AveragePool", node("Mul", x, x), **how)
        scale = node("Add", node("Mul", means, constant(norm.alpha * norm.n**2)), constant(norm.k))
        return node("Div", x, node("Pow", scale, constant(norm.beta)))

    tutorial = isinstance(model, TutorialConfig)
    columns = 1 if tutorial or model.lrn_across_columns else model.columns
    x = "images"
    for name, layer in model.convs.items():
        kernel, bias = params[f"{name}/kernel"], params[f"{name}/bias"]
        before, after = layer.padding
        x = node(
            *("Conv", x, constant(kernel.transpose(3, 2, 0, 1)), constant(bias)),
            strides=[layer.stride] * 2,
            pads=[before, before, after, after],
            group=model.columns if name in ("conv2", "conv4", "conv5") else 1,
        )
        for follow in layer.then:
            if follow == "activation":
                x = node("Relu", x)
            elif follow == "pool":
                ragged = tutorial or name.replace("conv", "pool") in model.ragged
                shape, strides = [model.pool.size] * 2, [model.pool.stride] * 2
                x = node("MaxPool", x, kernel_shape=shape, strides=strides, ceil_mode=int(ragged))
            elif follow == "norm" and model.norm:
                x = lrn(x)
            elif follow == "map_norm" and model.norm:
                x = map_norm(x)
    x, maps = node("Flatten", x), len(bias)
    for number, name in enumerate(("fc1", "fc2", "out") if tutorial else ("fc6", "fc7", "fc8")):
        if not tutorial and name in model.dropout_before and model.dropout_scale == "test":
            x = node("Mul", x, constant(1 - model.dropout))
        kernel = params[f"{name}/kernel"]
        if number == 0:  # ONNX flattens channel by channel
            side = math.isqrt(len(kernel) // maps)
            kernel = kernel.reshape(side, side, maps, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
        x = node("Gemm", x, constant(kernel), constant(params[f"{name}/bias"]))
        x = x if name == model.logits else node("Relu", x)
    nodes.append(helper.make_node("Identity", [x], ["logits"]))
    sides = (model.channels, model.image_size, model.image_size)
    return helper.make_model(
        helper.make_graph(
            nodes,
            "alexnet",
            [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["B", *sides])],
            [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["B", model.classes])],
            [numpy_helper.from_array(array, name) for name, array in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )


def session(model: Any, params: dict[str, np.ndarray], threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    program = graph(model, params).SerializeToString()
    return onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])


def role(directory: str) -> Worker:
    task, config, params, images_BHWC, labels = given(directory)
    run = session(config.model, params, task["threads"]).run
    feed = {"images": np.ascontiguousarray(images_BHWC.transpose(0, 3, 1, 2))}

    def losses() -> list[float]:
        (logits_BK,) = run(None, feed)
        likelihoods = logits_BK - np.log(np.exp(logits_BK).sum(axis=1, keepdims=True))
        return [float(-likelihoods[np.arange(len(labels)), labels].mean())]

    return Worker("cpu", losses, lambda: None, lambda _: run(None, feed), lambda _: None)
