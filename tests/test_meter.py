"""What evaluation refuses, and that it ends. test_commands.py and test_fit.py check its figures."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alexnet_jax.config import BadInput, Config
from alexnet_jax.training.meter import check_fit, check_same_data


def data(classes: list[str], shape: tuple[int, int, int] = (28, 28, 1)) -> Any:
    """Records with the fields that these checks read."""
    return SimpleNamespace(classes=classes, image_shape=shape, directory=Path("data"))


@pytest.mark.parametrize("shape", [(28, 32, 1), (32, 28, 1)])
def test_a_crop_must_fit_both_sides_of_a_padded_image(tiny: Config, shape: tuple[int, int, int]) -> None:
    def config(size: int, pad: int) -> Config:
        return replace(tiny, model=replace(tiny.model, image_size=size), data=replace(tiny.data, pad=pad))

    check_fit(config(30, pad=1), data(["a"], shape))
    for size, pad in ((30, 0), (31, 1)):
        with pytest.raises(BadInput, match=f"are {shape[0]}x{shape[1]} and the network's crops {size}x{size}"):
            check_fit(config(size, pad), data(["a"], shape))


def test_classes_must_agree_by_name_or_for_other_programs_in_number() -> None:
    def trained(fingerprint: str | None) -> Any:
        about = {"classes": ["0", "1"], "fingerprint": fingerprint, "image_shape": [28, 28, 1]}
        return SimpleNamespace(data=about, path=Path("run"))

    check_same_data(data(["0", "1"]), trained("a1"))
    check_same_data(data(["cat", "dog"]), trained(None))
    for fingerprint, classes in (("a1", ["cat", "dog"]), (None, ["cat", "dog", "cow"])):
        with pytest.raises(
            BadInput, match=rf"data has {len(classes)} classes \(cat, dog.*was trained on 2 classes \(0, 1\)"
        ):
            check_same_data(data(classes), trained(fingerprint))
    for fingerprint in ("a1", None):
        with pytest.raises(BadInput, match=r"the images in data are \(28, 30, 1\); run was trained on \(28, 28, 1\)"):
            check_same_data(data(["0", "1"], (28, 30, 1)), trained(fingerprint))


FIVE_NETWORKS = """
from dataclasses import replace

import jax
import numpy as np

import alexnet_jax as alexnet
from alexnet_jax.data.augment import Statistics
from alexnet_jax.data.views import test_views
from alexnet_jax.networks import columns
from alexnet_jax.training.step import make_probabilities, mean_probabilities

fashion = alexnet.preset("fashion")
model = replace(fashion.model, image_size=40, channels=3)
config, mesh = replace(fashion, model=model, data=replace(fashion.data, pad=0)), alexnet.make_mesh(1, 2)
statistics = Statistics(np.zeros((48, 48, 3), np.float32), np.ones(3, np.float32), np.eye(3, dtype=np.float32))
params = [alexnet.shard(alexnet.init(model, jax.random.key(seed)), model, mesh) for seed in range(5)]
mean = mean_probabilities(
    [make_probabilities(alexnet.forward(model, mesh), test_views(config, statistics, mesh)) for _ in params]
)
for _ in range(3):
    images = columns.shard_batch({"image": np.ones((128, 48, 48, 3), np.uint8)}, mesh, 128)["image"]
    mean(params, images, 10).block_until_ready()
"""


def test_many_networks_on_two_devices_do_not_wait_for_each_other_forever() -> None:
    """Without `waited_for` this stands still about every other time on two cores, and XLA ends it after 40 seconds.

    It needs a process with two devices: with eight, as in the other tests, XLA has more threads.
    """
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
    subprocess.run([sys.executable, "-c", FIVE_NETWORKS], env=env, check=True, timeout=300)
