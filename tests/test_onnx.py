"""onnxruntime as an independent judge of every tensor in Caffe's AlexNet, from the ONNX model zoo.

The onnx package contains the graph without its weights. Here they are random.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from conftest import run_command

import alexnet_jax as alexnet
from alexnet_jax.config import Config
from alexnet_jax.networks import layers, products

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
onnxruntime.set_default_logger_severity(3)  # errors only

GRAPH = Path(onnx.__file__).parent / "backend/test/data/light/light_bvlc_alexnet.onnx"
# The graph's names of the tensors before each activation, and of those that our `features` returns.
BEFORE = {
    "conv1": "r0", "conv2": "r4", "conv3": "r8", "conv4": "r10", "conv5": "r12", "fc6": "r16", "fc7": "r20",
}  # fmt: skip
AFTER = {
    "conv1": "r1", "norm1": "r2", "pool1": "r3", "conv2": "r5", "norm2": "r6", "pool2": "r7", "conv3": "r9",
    "conv4": "r11", "conv5": "r13", "pool5": "r14", "fc6": "r17", "fc7": "r21", "fc8": "r24",
}  # fmt: skip
READS = {"conv2": "pool1", "conv3": "pool2", "conv4": "conv3", "conv5": "conv4", "fc6": "pool5", "fc7": "fc6"}
SIDES = {224: (54, 26, 12, 6), 227: (55, 27, 13, 6)}


class Judged(NamedTuple):
    """The tensors of the graph, and the same network converted."""

    tensors: dict[str, np.ndarray]
    images: np.ndarray
    """[B, H, W, 3], red, green, blue, mean subtracted"""
    config: Config
    params: Any


def with_random_weights(size: int) -> Any:
    """The graph with random weights, for images of `size` pixels."""
    model, rng = onnx.load(GRAPH), np.random.default_rng(0)
    shapes = {i.name.removesuffix("__SHAPE"): onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    made = [node for node in model.graph.node if node.op_type == "ConstantOfShape"]
    for node in made:
        name = node.output[0]
        shape = shapes[name]
        std = np.sqrt(2 / np.prod(shape[1:])) / (50 if name.startswith("conv1") else 1) if len(shape) > 1 else 0.1
        weights = rng.normal(0, std, shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
        model.graph.node.remove(node)
    for axis, length in enumerate((2, 3, size, size)):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = length
    for tensor in model.graph.initializer:  # the zoo's graph is for a batch of 1
        if tensor.name == "OC2_DUMMY_1":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([2, 9216]), tensor.name))
    return model


@pytest.fixture(scope="module", params=SIDES)
def judged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Judged:
    size, folder = request.param, tmp_path_factory.mktemp("onnx")
    model = with_random_weights(size)
    onnx.save(model, folder / "bvlc_alexnet.onnx")
    ended = run_command("convert", folder / "bvlc_alexnet.onnx", folder / "run")
    assert ended.code == 0, ended.err
    names = [*BEFORE.values(), *AFTER.values()]
    for name in names:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    bgr = np.random.default_rng(1).normal(0, 50, (2, 3, size, size)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    values = session.run([*names, "prob_1"], {"data_0": bgr})
    images = np.ascontiguousarray(bgr[:, ::-1].transpose(0, 2, 3, 1))
    return Judged(dict(zip([*names, "prob_1"], values, strict=True)), images, *alexnet.load(folder / "run"))


def channels_last(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


def furthest(ours: Any, theirs: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    theirs = channels_last(theirs)
    assert ours.shape == theirs.shape
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def test_the_config_is_read_from_the_graph(judged: Judged) -> None:
    model = judged.config.model
    caffe = alexnet.preset("caffe").model
    sides = model.sides()
    assert tuple(sides[name] for name in ("conv1", "pool1", "pool2", "pool5")) == SIDES[model.image_size]
    assert model.ragged == ("pool5",)
    assert (model.lrn_across_columns, model.dropout_scale, model.classes) == (True, "train", 1000)
    assert (model.lrn.k, model.lrn.n, model.lrn.beta) == (1.0, 5, 0.75)
    assert model.lrn.alpha == pytest.approx(caffe.lrn.alpha)


@pytest.mark.parametrize("layout", [None, (1, 2)])
def test_every_tensor_agrees(judged: Judged, layout: tuple[int, int] | None) -> None:
    model, params = judged.config.model, judged.params
    mesh = layout and alexnet.make_mesh(*layout)
    acts = alexnet.features(model, mesh)(alexnet.shard(params, model, mesh) if mesh else params, judged.images)
    assert set(acts) == set(AFTER), "every layer is compared"
    distances = {name: furthest(acts[name], judged.tensors[theirs]) for name, theirs in AFTER.items()}
    # A relative difference of probabilities is an absolute difference of logits, so it grows with their size.
    probabilities = furthest(jax.nn.softmax(acts["fc8"]), judged.tensors["prob_1"])
    distances["probabilities"] = probabilities / max(1.0, float(np.abs(judged.tensors[AFTER["fc8"]]).max()))
    if layout is None:
        distances |= {f"before {name}": before_activation(judged, acts, name) for name in BEFORE}
    assert max(distances.values()) < 1e-5, distances


def before_activation(judged: Judged, acts: Any, name: str) -> float:
    """Compares our layer without its activation with the graph's tensor."""
    model, own = judged.config.model, judged.params[name]
    x = judged.images if name == "conv1" else acts[READS[name]]
    if name.startswith("fc"):
        return furthest(x.reshape(len(x), -1) @ own["kernel"] + own["bias"][None], judged.tensors[BEFORE[name]])
    layer = getattr(model, name)
    y = layers.in_columns(
        lambda x, kernel: products.convolve(x, kernel, stride=layer.stride, padding=layer.padding),
        2 if name in ("conv2", "conv4", "conv5") else 1,
        x,
        own["kernel"],
    )
    return furthest(y + own["bias"].reshape(1, 1, 1, -1), judged.tensors[BEFORE[name]])
