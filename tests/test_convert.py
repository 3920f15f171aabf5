"""The convert command: weights in and programs out. test_weights.py tests the file formats."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.export
import numpy as np
import pytest
from conftest import run_command

import alexnet_jax as alexnet
from alexnet_jax import convert
from alexnet_jax.data import records
from alexnet_jax.training.trained import trained


@pytest.fixture(scope="module")
def run(tiny_file: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps."""
    path = tmp_path_factory.mktemp("runs") / "run"
    assert run_command("train", tiny_file, "--data", tiny_data, "--workdir", path, "--steps", 2).code == 0
    return path


def test_stablehlo_is_the_network_with_its_weights_for_any_batch(run: Path, tiny_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("flatbuffers")
    ended = run_command("convert", run, tmp_path / "tiny.stablehlo")
    assert ended.code == 0, ended.err
    program = jax.export.deserialize(bytearray((tmp_path / "tiny.stablehlo").read_bytes()))
    assert set(program.platforms) == {"cpu", "cuda", "rocm", "tpu"}
    config, params = alexnet.load(run)
    data = records.Records(tiny_data)
    pictures = data.gather(records.VALIDATION, np.arange(5))["image"]
    padded = np.pad(pictures - data.statistics.mean_HWC, ((0, 0), (2, 2), (2, 2), (0, 0)))[:, 2:30, 2:30]
    expected = jax.nn.softmax(alexnet.forward(config.model)(params, padded))
    np.testing.assert_allclose(program.call(pictures), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(program.call(pictures[:2]), expected[:2], rtol=1e-5, atol=1e-6)


def test_stablehlo_has_the_precision_of_the_run(run: Path) -> None:
    pytest.importorskip("flatbuffers")
    there = trained(run)
    for precision, narrow in (("float32", False), ("bfloat16", True)):
        program = convert.stablehlo(there._replace(config=replace(there.config, precision=precision)))
        assert ("bf16" in jax.export.deserialize(bytearray(program)).mlir_module()) == narrow


def test_convert_refuses_what_it_cannot_convert(run: Path, tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        return run_command("convert", *arguments).refused

    assert "there is no run or checkpoint" in refused(tmp_path / "nothing", tmp_path / "new")
    (tmp_path / "weights.h5").write_bytes(b"what Keras writes")
    assert "weights files end in .caffemodel, .onnx" in refused(tmp_path / "weights.h5", tmp_path / "new")
    assert "already exists; give another name" in refused(tmp_path / "weights.h5", run)
    assert "is already a run" in refused(run, tmp_path / "new")
    (tmp_path / "cut.caffemodel").write_bytes(b"\x00")
    assert "cut.caffemodel" in refused(tmp_path / "cut.caffemodel", tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.caffemodel", "weights.h5"], "nothing else remains"


def test_trained_returns_a_run_with_its_classes_and_mean(run: Path, tiny_data: Path) -> None:
    there = trained(run)
    config, params = alexnet.load(run)
    assert (there.config, there.classes) == (config, records.Records(tiny_data).classes)
    assert there.image_shape == (28, 28, 1)
    np.testing.assert_array_equal(there.statistics.mean_HWC, records.Records(tiny_data).statistics.mean_HWC)
    for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(there.params), strict=True):
        np.testing.assert_array_equal(x, y)
