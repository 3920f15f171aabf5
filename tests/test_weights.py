"""Weights of Caffe, ONNX and PyTorch: layouts against slow index formulae, and files that must be refused."""

import io
import os
import pickle
import re
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_jax.config import BadInput, ModelConfig
from alexnet_jax.networks import functional
from alexnet_jax.weights import found, torch_file
from alexnet_jax.weights.read import read

Arrays = dict[str, np.ndarray]
CAFFE = {
    "conv1": (96, 3, 11, 11), "conv2": (256, 48, 5, 5), "conv3": (384, 256, 3, 3), "conv4": (384, 192, 3, 3),
    "conv5": (256, 192, 3, 3), "fc6": (4096, 9216), "fc7": (4096, 4096), "fc8": (1000, 4096),
}  # fmt: skip
TORCHVISION = {
    "conv1": (64, 3, 11, 11), "conv2": (192, 64, 5, 5), "conv3": (384, 192, 3, 3), "conv4": (256, 384, 3, 3),
    "conv5": (256, 256, 3, 3), "fc6": (4096, 9216), "fc7": (4096, 4096), "fc8": (1000, 4096),
}  # fmt: skip
LAYERS = list(CAFFE)
IN_TORCH = {
    "conv1": "features.0", "conv2": "features.3", "conv3": "features.6", "conv4": "features.8", "conv5": "features.10",
    "fc6": "classifier.1", "fc7": "classifier.4", "fc8": "classifier.6",
}  # fmt: skip


@pytest.fixture(scope="module")
def numbers() -> np.ndarray:
    """As many numbers as the larger network has, small enough for activations of ordinary size."""
    return np.random.default_rng(0).uniform(-0.02, 0.02, 61_100_840).astype(np.float32)


@pytest.fixture(scope="module")
def few() -> tuple[Arrays, Arrays]:
    """Kernels and biases with shapes of no network, for tests of the file format alone."""
    rng = np.random.default_rng(1)
    shapes = {layer: (3, 2, 2, 2) if layer.startswith("conv") else (3, 2) for layer in LAYERS}
    kernels = {layer: rng.standard_normal(shape).astype(np.float32) for layer, shape in shapes.items()}
    return kernels, {layer: rng.standard_normal(3).astype(np.float32) for layer in LAYERS}


def cut(numbers: np.ndarray, shapes: dict[str, tuple[int, ...]]) -> tuple[Arrays, Arrays]:
    at, kernels, biases = 0, Arrays(), Arrays()
    for layer, shape in shapes.items():
        size = int(np.prod(shape))
        kernels[layer], biases[layer] = numbers[at : at + size].reshape(shape), numbers[at + size :][: shape[0]]
        at += size + shape[0]
    return kernels, biases


def is_ours(params: dict[str, Arrays], kernels: Arrays, biases: Arrays, bgr: bool, scale: tuple[float, ...]) -> None:
    """Compares numbers at random indices."""
    rng = np.random.default_rng(2)
    assert list(params) == LAYERS
    for layer, theirs in kernels.items():
        ours = params[layer]["kernel"]
        assert ours.dtype == params[layer]["bias"].dtype == np.float32
        assert np.array_equal(params[layer]["bias"], biases[layer])
        out, inputs, *size = theirs.shape
        assert ours.shape == (*size, inputs, out)
        for _ in range(300):
            o, i = rng.integers(out), rng.integers(inputs)
            if layer == "conv1":
                h, w = rng.integers(11), rng.integers(11)
                expected = theirs[o, 2 - i if bgr else i, h, w] / np.float64(scale[i])
                assert ours[h, w, i, o] == pytest.approx(expected, rel=1e-6)
            elif layer.startswith("conv"):
                h, w = rng.integers(size[0]), rng.integers(size[1])
                assert ours[h, w, i, o] == theirs[o, i, h, w]
            elif layer == "fc6":
                h, w, c = rng.integers(6), rng.integers(6), rng.integers(256)
                assert ours[(h * 6 + w) * 256 + c, o] == theirs[o, c * 36 + h * 6 + w]
            else:
                assert ours[i, o] == theirs[o, i]


def same(got: found.Found, kernels: Arrays, biases: Arrays) -> None:
    """Compares the arrays in the layout of the file."""
    for layer in LAYERS:
        np.testing.assert_array_equal(got.kernels[layer], kernels[layer])
        np.testing.assert_array_equal(got.biases[layer], biases[layer])


def refusal(path: Path) -> str:
    """The one sentence that refuses the file."""
    with pytest.raises(BadInput) as refused:
        read(path)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def model_of(got: found.Found) -> ModelConfig:
    assert isinstance(got.config.model, ModelConfig)
    return got.config.model


# ------------------------------------------------------------------------------------------------------ Caffe
# The files are written byte by byte with the field numbers of caffe.proto, which tests the reader's table too.

Fields = list[tuple[int, Any]]
NEW_PARAMS = {"transform": 100, "conv": 106, "dense": 117, "norm": 118, "pool": 121, "relu": 123, "input": 143}
OLD_PARAMS = {"conv": 10, "dense": 17, "norm": 18, "pool": 19, "relu": 30, "transform": 36}
OLD_TYPES = {
    "Data": 5, "Convolution": 4, "ReLU": 18, "LRN": 15, "Pooling": 17, "InnerProduct": 14, "Dropout": 6,
    "SoftmaxWithLoss": 21, "Sigmoid": 19,
}  # fmt: skip


def varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number % 128 + 128]) + varint(number >> 7)


def message(fields: Fields) -> bytes:
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts += [varint(number << 3), varint(value)]
        elif isinstance(value, float):
            parts += [varint(number << 3 | 5), struct.pack("<f", value)]
        else:
            raw = value.encode() if isinstance(value, str) else value
            parts += [varint(number << 3 | 2), varint(len(raw)), raw]
    return b"".join(parts)


def conv(size: int, stride: int = 1, pad: int = 0, groups: int = 1) -> dict[str, Fields]:
    fields = [(4, size), (6, stride), (3, pad), (5, groups)]
    return {"conv": [field for field in fields if field not in ((6, 1), (3, 0), (5, 1))]}


NORM = {"norm": [(1, 5), (2, 1e-4), (3, 0.75)]}
POOL = {"pool": [(1, 0), (2, 3), (3, 2)]}
NET: dict[str, tuple[str, dict[str, Fields]]] = {
    "data": ("Data", {"transform": [(3, 227)]}),
    "conv1": ("Convolution", conv(11, stride=4)), "relu1": ("ReLU", {}), "norm1": ("LRN", NORM),
    "pool1": ("Pooling", POOL),
    "conv2": ("Convolution", conv(5, pad=2, groups=2)), "relu2": ("ReLU", {}), "norm2": ("LRN", NORM),
    "pool2": ("Pooling", POOL),
    "conv3": ("Convolution", conv(3, pad=1)), "relu3": ("ReLU", {}),
    "conv4": ("Convolution", conv(3, pad=1, groups=2)), "relu4": ("ReLU", {}),
    "conv5": ("Convolution", conv(3, pad=1, groups=2)), "relu5": ("ReLU", {}), "pool5": ("Pooling", POOL),
    "fc6": ("InnerProduct", {}), "relu6": ("ReLU", {}), "drop6": ("Dropout", {}),
    "fc7": ("InnerProduct", {}), "relu7": ("ReLU", {}), "drop7": ("Dropout", {}),
    "fc8": ("InnerProduct", {}), "loss": ("SoftmaxWithLoss", {}),
}  # fmt: skip


def blob(array: np.ndarray, old: bool) -> bytes:
    shape = array.shape
    if old:
        fields: Fields = list(enumerate((1,) * (4 - len(shape)) + shape, 1))
    else:
        fields = [(7, message([(1, b"".join(map(varint, shape)))]))]
    return message([*fields, (5 if array.dtype == np.float32 else 8, array.tobytes())])


def caffemodel(
    path: Path, arrays: tuple[Arrays, Arrays], net: dict[str, tuple[str, dict[str, Fields]]] = NET, old: bool = False
) -> Path:
    params, layers = OLD_PARAMS if old else NEW_PARAMS, []
    for name, (kind, settings) in net.items():
        blobs = [blob(both[name], old) for both in arrays if name in both]
        fields: Fields = [(4, name), (5, OLD_TYPES[kind])] if old else [(1, name), (2, kind)]
        fields += [(6 if old else 7, raw) for raw in blobs]
        # A loss weight, which the reader ignores.
        fields += [(35 if old else 5, 1.0)] + [(params[param], message(told)) for param, told in settings.items()]
        layers.append((2 if old else 100, message(fields)))
    path.write_bytes(message([(1, "AlexNet"), *layers]))
    return path


def test_a_caffemodel_is_converted_to_our_layout(tmp_path: Path, numbers: np.ndarray) -> None:
    kernels, biases = cut(numbers, CAFFE)
    path = caffemodel(tmp_path / "bvlc_alexnet.caffemodel", (kernels, biases))
    got = read(path)
    path.unlink()
    assert got.config.preset == "caffe"
    assert (model_of(got).image_size, model_of(got).classes) == (227, 1000)
    assert model_of(got).ragged == ("pool1", "pool2", "pool5")
    assert got.bgr
    # Caffe's order is blue, green, red.
    assert got.mean_C.tolist() == [122.67891434, 116.66876762, 104.00698793]
    is_ours(found.to_params(got), kernels, biases, bgr=True, scale=(1, 1, 1))


def test_a_caffemodel_in_the_format_of_2014_gives_the_same(tmp_path: Path, few: tuple[Arrays, Arrays]) -> None:
    got = read(caffemodel(tmp_path / "old.caffemodel", few, old=True))
    assert got.config.preset == "caffe"
    assert model_of(got).image_size == 227
    same(got, *few)


def test_a_caffemodel_in_double_precision_gives_the_same(tmp_path: Path, few: tuple[Arrays, Arrays]) -> None:
    kernels, biases = ({layer: array.astype(np.float64) for layer, array in both.items()} for both in few)
    same(read(caffemodel(tmp_path / "double.caffemodel", (kernels, biases))), *few)


@pytest.mark.parametrize("old", [False, True])
def test_pooling_before_norms_means_caffenet(tmp_path: Path, few: tuple[Arrays, Arrays], old: bool) -> None:
    turned = {"norm1": "pool1", "pool1": "norm1", "norm2": "pool2", "pool2": "norm2"}
    net = {turned.get(name, name): NET[turned.get(name, name)] for name in NET}
    got = read(caffemodel(tmp_path / "caffenet.caffemodel", few, net, old))
    assert got.config.preset == "caffenet"
    same(got, *few)


def test_a_caffemodel_without_settings_is_read_as_alexnet(tmp_path: Path, few: tuple[Arrays, Arrays]) -> None:
    got = read(caffemodel(tmp_path / "bare.caffemodel", few, {name: (NET[name][0], {}) for name in LAYERS}))
    assert got.config.preset == "caffe"
    assert model_of(got).ragged == ("pool1", "pool2", "pool5")
    same(got, *few)


def test_size_scale_mean_and_pooling_are_read_from_a_caffemodel(tmp_path: Path, few: tuple[Arrays, Arrays]) -> None:
    transform = [(1, 0.5), (3, 224), (5, 104.0), (5, 117.0), (5, 123.0)]
    floor = {"pool": [*POOL["pool"], (13, 1)]}
    net = NET | {"data": ("Data", {"transform": transform}), "pool1": ("Pooling", floor)}
    got = read(caffemodel(tmp_path / "own.caffemodel", few, net))
    assert (model_of(got).image_size, model_of(got).classes) == (224, 3)
    assert model_of(got).ragged == ("pool2", "pool5")
    assert got.mean_C.tolist() == [123, 117, 104]
    assert got.scale_C.tolist() == [2, 2, 2]
    picture = {"input": [(1, message([(1, b"".join(map(varint, (10, 3, 231, 231))))]))]}
    names = ["input", *list(NET)[1:]]
    net = {name: ("Input", picture) if name == "input" else NET[name] for name in names}
    assert model_of(read(caffemodel(tmp_path / "own.caffemodel", few, net))).image_size == 231


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("layer", "settings", "what"),
    [
        ("conv1", conv(11, stride=2), "stride"),
        ("conv1", conv(7, stride=4), "size"),
        ("conv2", conv(5, groups=2), "padding"),
        ("conv2", conv(5, pad=2), "groups"),
        ("conv3", conv(3, pad=1, groups=2), "groups"),
        ("conv4", {"conv": [(9, 1), (10, 2), (4, 3), (5, 2)]}, "padding"),
        ("conv5", {"conv": [*conv(3, pad=1, groups=2)["conv"], (18, 2)]}, "dilation"),
        ("norm1", {"norm": [(1, 5), (2, 5e-4)]}, "alpha"),
        ("norm1", {"norm": [(1, 5), (2, 1e-4), (5, 2.0)]}, "k"),
        ("norm2", {"norm": [(1, 3), (2, 1e-4 * 3 / 5)]}, "n"),
        ("norm2", {"norm": [(2, 1e-4), (3, 0.5)]}, "beta"),
        ("norm2", {"norm": [(2, 1e-4), (4, 1)]}, "region"),
        ("pool1", {"pool": [(2, 2), (3, 2)]}, "size"),
        ("pool2", {"pool": [(2, 3)]}, "stride"),
        ("pool5", {"pool": [(1, 1), (2, 3), (3, 2)]}, "kind"),
        ("pool5", {"pool": [(2, 3), (3, 2), (4, 1)]}, "padding"),
        ("relu6", {"relu": [(1, 0.1)]}, "slope"),
    ],
)
def test_a_caffemodel_with_another_setting_is_refused(
    tmp_path: Path, few: tuple[Arrays, Arrays], layer: str, settings: dict[str, Fields], what: str, old: bool
) -> None:
    net = NET | {layer: (NET[layer][0], settings)}
    layer = layer.replace("relu", "activation")
    assert f" as {layer}'s {what}, where the preset caffe has " in refusal(
        caffemodel(tmp_path / "own.caffemodel", few, net, old)
    )


@pytest.mark.parametrize("old", [False, True])
def test_a_caffemodel_of_another_network_is_refused(tmp_path: Path, few: tuple[Arrays, Arrays], old: bool) -> None:
    path = tmp_path / "other.caffemodel"

    def refused(net: dict[str, tuple[str, dict[str, Fields]]], arrays: tuple[Arrays, Arrays] = few) -> str:
        return refusal(caffemodel(path, arrays, net, old))

    assert "instead of norm2 it has pool2 ('pool2')" in refused({name: NET[name] for name in NET if name != "norm2"})
    assert "instead of fc8 it has nothing" in refused({name: NET[name] for name in NET if name != "fc8"})
    assert "instead of nothing it has fc9 ('fc9')" in refused(NET | {"fc9": NET["fc8"]}, more(few, "fc9"))
    assert "type 'Sigmoid' ('relu3')" in refused(NET | {"relu3": ("Sigmoid", {})}).replace("19", "'Sigmoid'")
    assert "instead of conv1 it has nothing" in refused({})
    kernels, biases = few
    assert "1 arrays of weights for 'conv4'" in refused(NET, (kernels, without(biases, "conv4")))
    assert "0 arrays of weights for 'fc7'" in refused(NET, (without(kernels, "fc7"), without(biases, "fc7")))


def more(arrays: tuple[Arrays, Arrays], layer: str) -> tuple[Arrays, Arrays]:
    kernels, biases = arrays
    return kernels | {layer: kernels["fc8"]}, biases | {layer: biases["fc8"]}


def without(arrays: Arrays, layer: str) -> Arrays:
    return {name: array for name, array in arrays.items() if name != layer}


def test_a_file_that_is_no_caffemodel_is_refused(tmp_path: Path, few: tuple[Arrays, Arrays]) -> None:
    path = tmp_path / "none.caffemodel"
    path.write_bytes(message([(2, message([(1, message([(1, "conv1"), (2, "conv")]))]))]))
    assert "format of 2013" in refusal(path)
    path.write_text('name: "AlexNet"\nlayer { name: "data" }\n')
    assert "damaged or not a .caffemodel file" in refusal(path)
    short = message(
        [(1, "conv1"), (2, "Convolution"), *[(7, message([(7, message([(1, varint(9))])), (5, b"1234")]))] * 2]
    )
    path.write_bytes(message([(100, short)]))
    assert "4 bytes of <f4 for 'conv1', which do not fill the shape (9,)" in refusal(path)


# ------------------------------------------------------------------------------------------------------- ONNX


def onnx_file(path: Path, arrays: tuple[Arrays, Arrays], edit: Callable[[Any], None] = lambda graph: None) -> Path:
    """The graph of AlexNet from the onnx package, with these weights."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(Path(onnx.__file__).parent / "backend/test/data/light/light_bvlc_alexnet.onnx")
    graph = model.graph
    edit(graph)
    for letter, both in zip("wb", arrays, strict=True):
        for layer, array in both.items():
            graph.initializer.append(onnx.numpy_helper.from_array(array, f"{layer}_{letter}_0"))
    kept = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    del graph.node[:]
    graph.node.extend(kept)
    path.write_bytes(model.SerializeToString())
    return path


def node(graph: Any, output: str) -> Any:
    return next(node for node in graph.node if output in node.output)


def set_attribute(graph: Any, output: str, name: str, value: object) -> None:
    onnx = pytest.importorskip("onnx")
    attributes = node(graph, output).attribute
    kept = [attribute for attribute in attributes if attribute.name != name]
    del attributes[:]
    attributes.extend([*kept, onnx.helper.make_attribute(name, value)])


def test_an_onnx_file_is_converted_with_the_same_logits(tmp_path: Path, numbers: np.ndarray) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    kernels, biases = cut(numbers, CAFFE)

    def logits_too(graph: Any) -> None:
        graph.output.add(name="r24").type.tensor_type.elem_type = 1

    path = onnx_file(tmp_path / "bvlcalexnet.onnx", (kernels, biases), logits_too)
    got = read(path)
    assert got.config.preset == "caffe"
    assert (model_of(got).image_size, model_of(got).classes) == (224, 1000)
    assert model_of(got).ragged == ("pool5",)
    assert got.bgr
    params = found.to_params(got)
    is_ours(params, kernels, biases, bgr=True, scale=(1, 1, 1))

    picture_HWC = np.random.default_rng(3).uniform(0, 255, (224, 224, 3)).astype(np.float32)
    bgr_HWC = picture_HWC[:, :, ::-1] - np.float32((104.00698793, 116.66876762, 122.67891434))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [theirs] = session.run(["r24"], {"data_0": bgr_HWC.transpose(2, 0, 1)[None]})
    path.unlink()
    agree(functional.forward(model_of(got))(params, (picture_HWC - np.float32(got.mean_C))[None]), theirs)


def agree(ours: Any, theirs: np.ndarray) -> None:
    """Compares logits up to rounding errors, relative to their standard deviation."""
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * theirs.std(), rtol=0)


def test_an_onnx_file_with_other_attributes_is_read(tmp_path: Path, few: tuple[Arrays, Arrays]) -> None:
    path = tmp_path / "own.onnx"

    def ceil_mode(graph: Any) -> None:
        for output in ("r3", "r7", "r14"):
            set_attribute(graph, output, "ceil_mode", 1)
            set_attribute(graph, output, "pads", [0, 0, 0, 0])

    assert model_of(read(onnx_file(path, few, ceil_mode))).ragged == ("pool1", "pool2", "pool5")
    assert model_of(read(onnx_file(path, few, lambda graph: set_attribute(graph, "r14", "pads", [0] * 4)))).ragged == ()

    def untransposed(graph: Any) -> None:
        set_attribute(graph, "r20", "transB", 0)

    kernels, biases = few
    got = read(onnx_file(path, (kernels | {"fc7": kernels["fc7"].T.copy()}, biases), untransposed))
    assert model_of(got).classes == 3
    same(got, kernels, biases)


def test_an_onnx_file_with_pooling_before_norms_is_caffenet(tmp_path: Path, few: tuple[Arrays, Arrays]) -> None:
    def turn(graph: Any) -> None:
        for relu, norm, pool in (("r1", "r2", "r3"), ("r5", "r6", "r7")):
            first, second = node(graph, norm), node(graph, pool)
            first_was = type(first).FromString(first.SerializeToString())
            first.CopyFrom(second)
            second.CopyFrom(first_was)
            first.input[0], first.output[0], second.input[0], second.output[0] = relu, norm, norm, pool

    got = read(onnx_file(tmp_path / "caffenet.onnx", few, turn))
    assert got.config.preset == "caffenet"
    same(got, *few)


@pytest.mark.parametrize(
    ("output", "name", "value", "what"),
    [
        ("r0", "strides", [2, 2], "conv1's stride"),
        ("r0", "kernel_shape", [7, 7], "conv1's size"),
        ("r4", "pads", [0, 0, 4, 4], "conv2's padding"),
        ("r4", "auto_pad", "SAME_LOWER", "conv2's padding"),
        ("r8", "dilations", [2, 2], "conv3's dilation"),
        ("r10", "group", 1, "conv4's groups"),
        ("r2", "alpha", 5e-4, "norm1's alpha"),
        ("r2", "size", 3, "norm1's n"),
        ("r6", "bias", 2.0, "norm2's k"),
        ("r6", "beta", 0.5, "norm2's beta"),
        ("r3", "kernel_shape", [2, 2], "pool1's size"),
        ("r7", "strides", [3, 3], "pool2's stride"),
        ("r14", "pads", [1, 1, 1, 1], "pool5's padding"),
        ("r16", "alpha", 2.0, "fc6's factors"),
    ],
)
def test_an_onnx_file_with_another_setting_is_refused(
    tmp_path: Path, few: tuple[Arrays, Arrays], output: str, name: str, value: object, what: str
) -> None:
    path = onnx_file(tmp_path / "own.onnx", few, lambda graph: set_attribute(graph, output, name, value))
    assert f" as {what}, where the preset caffe has " in refusal(path)


def test_an_onnx_file_of_another_network_is_refused(tmp_path: Path, few: tuple[Arrays, Arrays]) -> None:
    path = tmp_path / "other.onnx"
    kernels, biases = few

    def refused(edit: Callable[[Any], None], arrays: tuple[Arrays, Arrays] = few) -> str:
        return refusal(onnx_file(path, arrays, edit))

    def rename(output: str, kind: str) -> Callable[[Any], None]:
        return lambda graph: setattr(node(graph, output), "op_type", kind)

    def resize(*sizes: int) -> Callable[[Any], None]:
        def edit(graph: Any) -> None:
            for dim, size in zip(graph.input[0].type.tensor_type.shape.dim, sizes, strict=True):
                dim.dim_value = size

        return edit

    assert "a node of type Sigmoid ('n9')" in refused(rename("r9", "Sigmoid"))
    assert "instead of activation3 it has conv4 ('n10')" in refused(rename("r9", "Identity"))
    assert "[[1, 3, 224, 256]]" in refused(resize(1, 3, 224, 256))
    assert "[[1, 3, 0, 0]]" in refused(resize(1, 3, 0, 0))
    assert "[[1, 1, 224, 224]]" in refused(resize(1, 1, 224, 224))
    assert "does not fit the network" in refused(resize(1, 3, 8, 8))
    assert "no bias in 'n19'" in refused(lambda graph: node(graph, "r20").input.pop())
    assert "'fc7_b_0': they are an input" in refused(lambda graph: None, (kernels, without(biases, "fc7")))


def test_an_onnx_file_without_weights_is_refused(tmp_path: Path, few: tuple[Arrays, Arrays]) -> None:
    onnx = pytest.importorskip("onnx")
    light = Path(onnx.__file__).parent / "backend/test/data/light/light_bvlc_alexnet.onnx"
    assert "the weights 'conv1_w_0': a node of type ConstantOfShape makes them" in refusal(light)
    path = tmp_path / "none.onnx"
    path.write_bytes(b"no graph at all")
    assert "damaged or not a .onnx file" in refusal(path)


# ---------------------------------------------------------------------------------------------------- PyTorch


def state_dict(arrays: tuple[Arrays, Arrays], prefix: str = "") -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    state = OrderedDict()
    for layer, name in IN_TORCH.items():
        for what, both in zip(("weight", "bias"), arrays, strict=True):
            state[f"{prefix}{name}.{what}"] = torch.from_numpy(both[layer])
    return state


def saved(path: Path, held: object, legacy: bool = False) -> Path:
    pytest.importorskip("torch").save(held, path, _use_new_zipfile_serialization=not legacy)
    return path


def test_a_state_dict_is_converted_with_the_same_logits(tmp_path: Path, numbers: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    kernels, biases = cut(numbers, TORCHVISION)
    path = saved(tmp_path / "alexnet.pth", state_dict((kernels, biases)))
    got = read(path)
    path.unlink()
    assert got.config.preset == "one_weird_trick"
    assert (model_of(got).image_size, model_of(got).classes) == (224, 1000)
    assert not got.bgr
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    np.testing.assert_allclose(got.mean_C, np.array(mean) * 255)
    params = found.to_params(got)
    is_ours(params, kernels, biases, bgr=False, scale=tuple(part / 0.226 for part in std))

    picture_HWC = np.random.default_rng(3).uniform(0, 255, (224, 224, 3)).astype(np.float32)
    x = torch.from_numpy(((picture_HWC / 255 - mean) / std).astype(np.float32).transpose(2, 0, 1)[None].copy())
    weights = {layer: (torch.from_numpy(kernels[layer]), torch.from_numpy(biases[layer])) for layer in LAYERS}
    functions = torch.nn.functional
    for layer, stride, padding in zip(LAYERS[:5], (4, 1, 1, 1, 1), (2, 2, 1, 1, 1), strict=True):
        x = functions.conv2d(x, *weights[layer], stride=stride, padding=padding).relu()
        x = functions.max_pool2d(x, 3, 2) if layer in ("conv1", "conv2", "conv5") else x
    x = functions.adaptive_avg_pool2d(x, 6).flatten(1)
    x = functions.linear(functions.linear(x, *weights["fc6"]).relu(), *weights["fc7"]).relu()
    theirs = functions.linear(x, *weights["fc8"]).numpy()
    images = (got.config.data.scale * (picture_HWC - got.mean_C))[None].astype(np.float32)
    agree(functional.forward(model_of(got))(params, images), theirs)


@pytest.mark.parametrize("legacy", [False, True])
def test_both_formats_of_torch_save_are_read(tmp_path: Path, few: tuple[Arrays, Arrays], legacy: bool) -> None:
    torch = pytest.importorskip("torch")
    path, state = tmp_path / "alexnet.pt", state_dict(few)
    same(read(saved(path, state, legacy)), *few)
    same(read(saved(path, state_dict(few, "module."), legacy)), *few)
    same(read(saved(path, {"epoch": 7, "state_dict": state, "best": 0.5, "arch": "alexnet"}, legacy)), *few)
    same(read(saved(path, {"model": state, "optimizer": {"state": {0: {"step": 1}}, "none": [None]}}, legacy)), *few)
    parameters = {name: torch.nn.Parameter(tensor) for name, tensor in state.items()}
    same(read(saved(path, parameters, legacy)), *few)
    for dtype in (torch.float64, torch.float16):
        got = read(saved(path, {name: tensor.to(dtype) for name, tensor in state.items()}, legacy))
        kernels, biases = few
        assert got.kernels["conv1"].dtype == getattr(np, str(dtype).removeprefix("torch."))
        np.testing.assert_allclose(got.kernels["conv1"], kernels["conv1"], rtol=1e-3)
        np.testing.assert_allclose(got.biases["fc8"], biases["fc8"], rtol=1e-3)


@pytest.mark.parametrize("legacy", [False, True])
def test_views_of_a_shared_storage_are_read(tmp_path: Path, few: tuple[Arrays, Arrays], legacy: bool) -> None:
    torch = pytest.importorskip("torch")
    kernels, biases = few
    state = state_dict(few)
    together = torch.from_numpy(np.concatenate([biases[layer] for layer in LAYERS]))
    for at, name in enumerate(IN_TORCH.values()):
        state[f"{name}.bias"] = together[3 * at : 3 * at + 3]
    # A transposed view, every other row of a larger tensor, and a tensor with channels last.
    state["classifier.1.weight"] = torch.from_numpy(kernels["fc6"].T.copy()).t()
    state["classifier.4.weight"] = torch.from_numpy(np.repeat(kernels["fc7"], 2, axis=0))[::2]
    state["features.0.weight"] = state["features.0.weight"].to(memory_format=torch.channels_last)
    assert not state["features.0.weight"].is_contiguous()
    same(read(saved(tmp_path / "views.pth", state, legacy)), *few)


def test_a_safetensors_file_gives_the_same(tmp_path: Path, few: tuple[Arrays, Arrays]) -> None:
    numpy_file = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "alexnet.safetensors"
    arrays = {}
    for layer, name in IN_TORCH.items():
        arrays[f"module.{name}.weight"], arrays[f"module.{name}.bias"] = few[0][layer], few[1][layer]
    numpy_file.save_file(arrays, path)
    got = read(path)
    assert got.config.preset == "one_weird_trick"
    same(got, *few)
    path.write_bytes(path.read_bytes()[:-3])
    assert "is damaged" in refusal(path)
    numpy_file.save_file(arrays | {"module.features.0.bias": np.arange(3)}, path)
    assert "'module.features.0.bias' as I64" in refusal(path)


def test_a_state_dict_of_another_network_is_refused(tmp_path: Path, few: tuple[Arrays, Arrays]) -> None:
    torch = pytest.importorskip("torch")
    path, state = tmp_path / "other.pth", state_dict(few)
    vgg = {f"features.{number}.{what}": torch.zeros(2) for number in (0, 2, 5, 7, 10) for what in ("weight", "bias")}
    assert "not torchvision's alexnet, which has features.3.weight" in refusal(saved(path, vgg))
    deeper = state | {"features.12.weight": torch.zeros(2)}
    assert "not torchvision's alexnet, which does not have 'features.12.weight'" in refusal(saved(path, deeper))
    assert "does not hold a dict of tensors" in refusal(saved(path, [1, 2]))
    assert "which has features.0.weight" in refusal(saved(path, {"state_dict": {}}))
    state["classifier.6.bias"] = torch.zeros(3, dtype=torch.bfloat16)
    assert "'torch.BFloat16Storage'; only FloatStorage, DoubleStorage, HalfStorage can be read" in refusal(
        saved(path, state)
    )


class Evil:
    """Pickled, this is a call of os.system."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.witness}",)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_pickle_that_runs_a_command_is_refused_and_does_not_run(
    tmp_path: Path, few: tuple[Arrays, Arrays], form: str
) -> None:
    path, witness = tmp_path / "evil.pth", tmp_path / "witness"
    held = {"evil": Evil(witness), **(state_dict(few) if form != "pickle" else {})}
    if form == "pickle":
        path.write_bytes(pickle.dumps(held))
        pickle.loads(path.read_bytes())
    else:
        pytest.importorskip("torch").load(saved(path, held, legacy=form == "legacy"), weights_only=False)
    assert witness.exists(), "the file must be dangerous, or the test shows nothing"
    witness.unlink()
    said = refusal(path)
    assert re.search(r"tries to call '(posix|nt)\.system', .*nothing was executed", said)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("program", "wanted"),
    [
        (b"cbuiltins\neval\n(X\x04\x00\x00\x001+1\ntR.", "builtins.eval"),
        # An attribute of an allowed name, as protocol 4 allows.
        (b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93.", "collections.OrderedDict.__init__"),
        (b"\x80\x04\x8c\x01a\x8c\x03b\nc\x93.", "a.b\\nc"),
        (b"ctorch\nload\n.", "torch.load"),
        (b"ctorchvision.models.alexnet\nAlexNet\n.", "torchvision.models.alexnet.AlexNet"),
    ],
)
def test_a_pickle_may_call_no_other_function(tmp_path: Path, program: bytes, wanted: str) -> None:
    path = tmp_path / "evil.pt"
    path.write_bytes(program)
    assert f"tries to call '{wanted}'" in refusal(path)


def test_a_pickle_cannot_change_the_reader(tmp_path: Path, few: tuple[Arrays, Arrays]) -> None:
    """Setting attributes calls nothing, but it must not affect files that are read later."""
    path, names = tmp_path / "evil.pt", ("torch._utils\n_rebuild_tensor_v2", "torch.nn.parameter\nParameter")
    for name in (*names, "collections\nOrderedDict", "torch\nFloatStorage"):
        # BUILD with the state (None, {"__defaults__": None, "__new__": None}).
        state = b"(N}(X\x0c\x00\x00\x00__defaults__NX\x07\x00\x00\x00__new__Nut"
        path.write_bytes(b"c" + name.encode() + b"\n" + state + b"b.")
        refusal(path)
    parameters = {name: pytest.importorskip("torch").nn.Parameter(part) for name, part in state_dict(few).items()}
    same(read(saved(path, parameters)), *few)


def test_a_parameter_as_pickled_in_2017_is_read(tmp_path: Path) -> None:
    """PyTorch 0.1 creates a Parameter by NEWOBJ and BUILD, and a tensor by _rebuild_tensor."""
    program = (
        b"\x80\x02ctorch.nn.parameter\nParameter\nctorch._utils\n_rebuild_tensor\n(("
        b"X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x007X\x03\x00\x00\x00cpuK\x04NtQ"
        b"K\x01K\x03\x85K\x01\x85tR\x85\x81(\x88\x89Ntb."
    )
    tensor = torch_file.Unpickler(io.BytesIO(program), tmp_path).load()
    assert tensor == torch_file.Tensor(torch_file.Storage("<f4", "7", 4), 1, (3,), (1,))


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (1, (3, 2), (2, 1)),
        (0, (3, 2), (3, 1)),
        (-1, (3, 2), (2, 1)),
        (5, (3, 2), (-2, -1)),
        (0, (2**40, 2**40), (2**40, 1)),
        (0, (2**40, 2**40), (0, 0)),
        (0, (0, 2), (2, 1)),
        (0, (3, 2), (1,)),
        (0, (3.0, 2), (2, 1)),
        (0, None, None),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(
    tmp_path: Path, few: tuple[Arrays, Arrays], offset: int, size: Any, stride: Any
) -> None:
    path, program = tmp_path / "outside.pth", state_dict(few)

    class Elsewhere:
        def __reduce__(self) -> tuple[object, ...]:
            return rebuild, (storage, offset, size, stride, False, OrderedDict())

    rebuild = pytest.importorskip("torch")._utils._rebuild_tensor_v2
    storage = program["classifier.1.weight"].storage()
    same(read(saved(path, program)), *few)
    program["classifier.1.weight"] = Elsewhere()
    assert "is damaged" in refusal(saved(path, program))


# ------------------------------------------------------------------------------------------- damaged and foreign


def files(folder: Path, few: tuple[Arrays, Arrays]) -> Iterator[Path]:
    yield caffemodel(folder / "new.caffemodel", few)
    yield caffemodel(folder / "old.caffemodel", few, old=True)
    yield onnx_file(folder / "graph.onnx", few)
    yield saved(folder / "zip.pth", state_dict(few))
    yield saved(folder / "legacy.pth", state_dict(few), legacy=True)
    path = folder / "alexnet.safetensors"
    pytest.importorskip("safetensors.torch").save_file(state_dict(few), path)
    yield path


def test_truncated_files_are_refused(tmp_path: Path, few: tuple[Arrays, Arrays]) -> None:
    for path in files(tmp_path, few):
        whole = path.read_bytes()
        same(read(path), *few)
        for length in (0, 1, 5, 100, len(whole) // 3, len(whole) // 2, len(whole) - 200, len(whole) - 1):
            if path.name != "new.caffemodel" or length != len(whole) - 1:
                path.write_bytes(whole[:length])
                refusal(path)


def test_a_file_with_changed_bytes_never_crashes_the_reader(tmp_path: Path, few: tuple[Arrays, Arrays]) -> None:
    rng, refused = np.random.default_rng(4), 0
    for path in files(tmp_path, few):
        whole = path.read_bytes()
        for _ in range(150):
            damaged = bytearray(whole)
            for at in rng.integers(len(whole), size=rng.integers(1, 4)):
                damaged[at] = rng.integers(256)
            path.write_bytes(damaged)
            try:
                found.to_params(read(path))
            except BadInput as error:
                refused += "asks for" not in str(error)
    assert refused > 100


def test_a_compressed_or_big_endian_archive_is_refused(tmp_path: Path, few: tuple[Arrays, Arrays]) -> None:
    path = saved(tmp_path / "alexnet.pth", state_dict(few))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)
    assert "compressed" in refusal(path)
    members["alexnet/byteorder"] = b"big"
    with zipfile.ZipFile(path, "w") as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)
    assert "big-endian" in refusal(path)


def test_a_layer_of_another_shape_is_refused_by_its_name(tmp_path: Path, few: tuple[Arrays, Arrays]) -> None:
    kernels = {layer: np.broadcast_to(np.float32(0), shape) for layer, shape in CAFFE.items()}
    biases = {layer: np.broadcast_to(np.float32(0), shape[:1]) for layer, shape in CAFFE.items()}
    whole = replace(read(caffemodel(tmp_path / "few.caffemodel", few)), kernels=kernels, biases=biases)
    whole = replace(whole, config=replace(whole.config, model=model_of(whole).with_classes(1000)))

    def refused(layer: str, what: str, shape: tuple[int, ...], dtype: str = "float32") -> str:
        arrays = getattr(whole, what) | {layer: np.broadcast_to(np.zeros((), dtype), shape)}
        with pytest.raises(BadInput) as refusal:
            found.to_params(replace(whole, **{what: arrays}))
        return str(refusal.value)

    assert "conv2's kernel is 256x96x5x5 and the preset caffe needs 256x48x5x5:" in refused(
        "conv2", "kernels", (256, 96, 5, 5)
    )
    assert "fc6's kernel is 4096x6400 and the preset caffe needs 4096x9216:" in refused("fc6", "kernels", (4096, 6400))
    assert "conv3's bias is 256 and the preset caffe needs 384:" in refused("conv3", "biases", (256,))
    assert "fc8's kernel is a single number and the preset caffe needs 1000x4096:" in refused("fc8", "kernels", ())
    assert "conv1's kernel consists of int8" in refused("conv1", "kernels", CAFFE["conv1"], "int8")
    # fc6's inputs depend on the size of the image.
    wider = replace(whole, config=replace(whole.config, model=replace(model_of(whole), image_size=259)))
    with pytest.raises(BadInput, match="fc6's kernel is 4096x9216 and the preset caffe needs 4096x12544:"):
        found.to_params(wider)


def test_unknown_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "alexnet.h5"
    assert refusal(path).endswith("weights files end in .caffemodel, .onnx, .pth, .pt, .safetensors")
    assert "there is no file" in refusal(tmp_path / "alexnet.pth")


@pytest.mark.parametrize(
    ("module", "suffix", "kind"),
    [
        ("onnx", ".onnx", "an .onnx"),
        ("google.protobuf.descriptor_pb2", ".caffemodel", "a .caffemodel"),
        ("safetensors", ".safetensors", "a .safetensors"),
    ],
)
def test_without_the_extra_convert_the_message_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, suffix: str, kind: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    path = tmp_path / f"alexnet{suffix}"
    path.touch()
    assert refusal(path) == f"reading {kind} file needs the extra convert: pip install '.[convert]' in the clone"
