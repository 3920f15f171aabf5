"""What a run takes from a network that is already trained."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alexnet_jax as alexnet
from alexnet_jax.config import BadInput, Config, Pool
from alexnet_jax.networks import columns
from alexnet_jax.training.trained import Trained, start_from, trained, transfer


def layer(value: float, outputs: int = 3, biases: int | None = None) -> dict[str, jax.Array]:
    return {"kernel": jnp.full((2, outputs), value), "bias": jnp.full(biases or outputs, value)}


def filled(config: Config, value: float) -> Any:
    """The parameters of a network, all equal to one value."""
    shapes = jax.eval_shape(lambda key: alexnet.init(config.model, key), jax.random.key(0))
    return jax.tree.map(lambda shape: jnp.full(shape.shape, value), shapes)


def test_a_layer_is_taken_with_its_biases_or_not_at_all() -> None:
    fresh = {name: layer(0.0) for name in ("conv1", "conv2", "fc6", "fc8")}
    there = {"conv1": layer(1.0), "conv2": layer(1.0, biases=1), "fc6": layer(1.0, outputs=4), "fc8": layer(1.0)}
    params, new = transfer(fresh, there, "fc8", same_classes=True)
    assert {name: float(own["bias"][0]) for name, own in params.items()} == {"conv1": 1, "conv2": 0, "fc6": 0, "fc8": 1}
    assert {name: float(own["kernel"][0, 0]) for name, own in params.items()} == {
        "conv1": 1, "conv2": 0, "fc6": 0, "fc8": 1,
    }  # fmt: skip
    assert set(new) == {"conv2", "fc6"}
    assert new["fc6"] == "its kernel is 2x4 in the trained network and 2x3 in this one"
    params, new = transfer(fresh, there, "fc8", same_classes=False)
    assert float(params["fc8"]["bias"][0]) == 0
    assert new["fc8"] == "it was trained on other classes"
    assert transfer(fresh, {}, "fc8", True)[1] == dict.fromkeys(fresh, "not among them")


def test_a_taken_layer_is_sharded_as_the_fresh_one_was(tiny: Config) -> None:
    mesh = alexnet.make_mesh(1, 2)
    params = filled(tiny, 1.0)
    taken, new = transfer(alexnet.shard(params, tiny.model, mesh), params, "fc8", same_classes=True)
    assert not new
    assert jax.tree.map(lambda x: x.sharding, taken) == columns.shardings(params, mesh)


@pytest.mark.parametrize(
    ("classes", "foreign", "fc8"),
    [
        (["a", "b", "c"], False, "taken"),
        (["x", "y", "z"], False, "it was trained on other classes"),
        (["0", "1", "2"], True, "taken"),
        (["0", "1"], True, "it was trained on other classes"),
    ],
)
def test_the_last_layer_is_taken_for_the_same_classes_and_differences_are_printed(
    tiny: Config, monkeypatch: pytest.MonkeyPatch, classes: list[str], foreign: bool, fc8: str
) -> None:
    """The classes of another program have no names, so only their number is compared."""
    model = replace(tiny.model, pool=Pool(size=3, stride=3), fc6=replace(tiny.model.fc6, std=7.0))
    config = replace(tiny, model=model, data=replace(tiny.data, mean="centre", scale=0.5, flip=False))
    there = Trained(config, filled(tiny, 1.0), Any, classes, (28, 28, 1), foreign)  # type: ignore[arg-type]
    monkeypatch.setattr("alexnet_jax.training.trained.trained", lambda path: there)
    records: Any = SimpleNamespace(classes=["a", "b", "c"])
    said: list[str] = []
    params = start_from(Path("run"), tiny, records, filled(tiny, 0.0), lambda line, **_: said.append(line))
    assert np.all(params["fc7"]["kernel"] == 1)
    assert np.all(params["fc8"]["kernel"] == (1 if fc8 == "taken" else 0))
    layers = "conv1, conv2, conv3, conv4, conv5, fc6, fc7"
    assert said == [
        f"Taken from run: {layers}{', fc8' if fc8 == 'taken' else ''}.",
        *([] if fc8 == "taken" else [f"New: fc8; {fc8}."]),
        "The trained network has another model.pool.stride: 3 instead of 2",
        "The trained network has another data.mean: centre instead of pixel",
        "The trained network has another data.scale: 0.5 instead of 1.0",
    ]
    with pytest.raises(BadInput, match=r"--init run has no layer that fits fashion \(other: not among them\)"):
        start_from(Path("run"), tiny, records, {"other": layer(0.0)}, print)


def test_a_network_of_another_program_has_its_mean_colour(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").write_bytes(b"")
    found = SimpleNamespace(config=tiny, model=tiny.model, mean_C=np.array([124.0, 117.0, 104.0]))
    monkeypatch.setattr("alexnet_jax.training.trained.read", lambda path: found)
    monkeypatch.setattr("alexnet_jax.training.trained.to_params", lambda found: {})
    there = trained(tmp_path / "weights")
    assert (there.classes, there.foreign, there.image_shape) == (["0", "1", "2"], True, (256, 256, 3))
    mean_HWC = np.asarray(there.statistics.mean_HWC)
    assert mean_HWC.shape == there.image_shape
    assert mean_HWC.dtype == np.float32
    np.testing.assert_array_equal(mean_HWC[[0, 255], [255, 0]], [[124, 117, 104]] * 2)
