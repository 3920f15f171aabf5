"""diagnose tells healthy networks from broken ones by one batch and twenty steps on it."""

import math
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import run_command

from alexnet_jax import diagnose
from alexnet_jax.config import Config, presets
from alexnet_jax.data.records import EMBEDDED, Records
from alexnet_jax.diagnose import Diagnosis, Layer, look, verdict

embedded = Records(EMBEDDED)  # decoded once for all tests


def examined(config: Config) -> Diagnosis:
    return diagnose.examine(config, embedded)


def small_weights_and_biases_of_1(config: Config) -> Config:
    """The most common cause of failed reproductions: std 0.01 everywhere, and biases larger than the inputs."""
    names = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")
    model = config.model
    layers: dict[str, Any] = {name: replace(getattr(model, name), std=0.01, bias=1.0) for name in names}
    return replace(config, model=replace(model, **layers, fc8=replace(model.fc8, std=0.01)))


@pytest.mark.parametrize("name", ["fashion", "tutorial"])
def test_a_healthy_preset_is_called_healthy(name: str) -> None:
    found = examined(presets.preset(name))
    assert verdict(found).startswith("Nothing is wrong here"), found
    assert min(found.losses) < 0.8 * found.losses[0]
    assert found.layers[0].name == "conv1"
    assert all(layer.gradient > 0 and 0 < layer.change < 1 for layer in found.layers)


def test_small_weights_with_biases_of_1_are_found() -> None:
    found = examined(small_weights_and_biases_of_1(presets.preset("fashion")))
    said = verdict(found)
    assert said.startswith("The network cannot tell the images apart: activations vary between images by only"), said
    assert "of their size after conv4" in said
    assert "the loss stays near 2.303" in said
    assert found.losses[-1] == pytest.approx(math.log(10), abs=0.1), "the loss must really stay there"


def test_the_tutorials_std_of_1_is_found() -> None:
    tutorial = presets.preset("tutorial")
    found = examined(replace(tutorial, model=replace(tutorial.model, std=1.0)))
    assert verdict(found).startswith("The initial weights are too large: the first loss is"), found
    assert found.losses[0] > 1e5


def test_a_rate_ten_times_too_high_is_found() -> None:
    fashion = presets.preset("fashion")
    said = verdict(examined(replace(fashion, optim=replace(fashion.optim, rate=10 * fashion.optim.rate))))
    assert said.startswith("The learning rate is too high"), said


def layer(name: str, **changes: float) -> Layer:
    return Layer(name, mean=0.5, std=1.0, dead=0.1, differs=0.3, gradient=1.0, change=1e-3)._replace(**changes)


def test_a_dead_layer_is_named_with_its_share() -> None:
    layers = [layer("conv3"), layer("conv4", dead=0.98, differs=0.001), layer("fc8", differs=0.0)]
    said = verdict(Diagnosis(layers, [2.30, 2.30], ("conv3", 0.1), None, math.log(10)))
    assert said.startswith("conv4 is dead: 98% of its units never fire")


def test_a_loss_that_does_not_move_is_named() -> None:
    said = verdict(Diagnosis([layer("conv1"), layer("fc8")], [2.3030, 2.3029], ("conv1", 0.1), None, math.log(10)))
    assert said.startswith("The loss hardly moves: 2.3030 to 2.3029")


@pytest.mark.parametrize("std", [0.2, 1e-4])
def test_a_layer_that_shrinks_its_activations_a_thousandfold_is_named(tiny: Config, std: float) -> None:
    """But not with the std that keeps their size. The loss falls in both cases."""
    model = tiny.model.with_classes(10)
    found = examined(replace(tiny, model=replace(model, conv4=replace(model.conv4, std=std))))
    assert min(found.losses) < 0.99 * found.losses[0]
    before, layer = found.layers[2:4]
    shrinks = verdict(found).startswith(f"conv4 shrinks the activations by a factor of {before.size / layer.size:.0f}")
    assert shrinks == (std == 1e-4), verdict(found)


def test_a_layer_that_amplifies_its_activations_is_named() -> None:
    layers = [layer("conv1"), layer("conv2", mean=30.0, std=40.0), layer("fc7", mean=5.0, std=4.0), layer("fc8", std=9)]
    said = verdict(Diagnosis(layers, [2.3, 1.9], ("conv2", 0.1), None, math.log(10)))
    assert said.startswith("conv2 amplifies the activations by a factor of 45: their root mean square is 1.1 after")
    assert "smaller std" in said


def test_pixels_and_logits_may_have_any_size() -> None:
    layers = [layer("conv1", mean=1e-3, std=1e-3), layer("fc7", mean=1e-3, std=1e-3), layer("fc8", mean=0.0, std=1e-7)]
    said = verdict(Diagnosis(layers, [2.3, 1.9], ("conv1", 0.1), None, math.log(10)))
    assert said.startswith("Nothing is wrong here: the network tells the images apart, and the loss on them falls")


@pytest.mark.parametrize(("name", "named"), [("conv2", True), ("fc8", False)])
def test_a_first_update_that_overwrites_a_kernel_other_than_fc8s_is_named(name: str, named: bool) -> None:
    layers = [layer(there, change=2.6 if there == name else 0.8) for there in ("conv1", "conv2", "fc8")]
    said = verdict(Diagnosis(layers, [2.3, 1.9], ("conv1", 0.1), None, math.log(10)))
    assert said.startswith("The first update is 260% of conv2's kernel") == named, said
    assert said.startswith("Nothing is wrong here") != named


def test_a_rate_that_makes_the_loss_explode_is_named_with_the_step() -> None:
    said = verdict(
        Diagnosis([layer("conv1"), layer("fc8")], [2.3, 9.0, 50.0, math.nan], ("conv1", 0.1), None, math.log(10))
    )
    assert "the loss goes from 2.300 to 50 in 2 steps." in said
    said = verdict(Diagnosis([layer("conv1"), layer("fc8")], [2.3, 24.0, 2.0], ("conv1", 0.1), None, math.log(10)))
    assert "the loss goes from 2.300 to 24 in 1 step." in said, "even if the loss comes back"


def test_look_measures_a_layer_as_defined() -> None:
    """Two images and two units. One unit varies with the position, the other with the image."""
    act = np.stack([np.tile([[0.0], [4.0]], (1, 2)), np.tile([[0.0], [4.0]], (1, 2))])[..., None]
    act = np.concatenate([act, np.broadcast_to(np.reshape([1.0, 3.0], (2, 1, 1, 1)), act.shape)], axis=-1)
    figures = look("conv1", act, jnp.full(4, 2.0), jnp.full(4, 5.0), jnp.full(4, 0.1))
    size = ((8 + 5) / 2) ** 0.5
    assert (figures.mean, figures.size) == pytest.approx((2.0, size))
    assert figures.differs == pytest.approx(0.5 / size), "deviations between the images are 0 and 1"
    assert (figures.gradient, figures.change, figures.dead) == pytest.approx((10.0, 0.05, 0.0))
    act[..., 0] = 4.0
    assert look("conv1", act, jnp.zeros(4), jnp.zeros(4), jnp.zeros(4)).dead == 0.5


def test_a_rate_that_kills_units_or_is_worse_than_a_tenth_of_it_is_named() -> None:
    layers = [layer("conv1"), layer("conv5"), layer("fc8")]
    said = verdict(Diagnosis(layers, [2.3, 2.2], ("conv5", 0.89), [2.3, 2.2], math.log(10)))
    assert "silence conv5. 10% of its units were dead before them, 89% are dead after them" in said
    said = verdict(Diagnosis(layers, [2.3, 2.2], ("conv5", 0.3), [2.3, 1.5], math.log(10)))
    assert "the loss falls from 2.300 to 2.200 at best. With a tenth of the rate it falls to 1.500" in said


def test_a_layer_is_measured_after_its_activation() -> None:
    """In 2012 conv1's ReLU came after the pooling; in Caffe it comes first."""
    seen = {name: diagnose.after_activation(presets.preset(name).model) for name in ("cuda_convnet", "caffe")}
    assert seen["cuda_convnet"] == {
        "conv1": "pool1", "conv2": "conv2", "conv3": "conv3", "conv4": "conv4", "conv5": "pool5",
        "fc6": "fc6", "fc7": "fc7", "fc8": "fc8",
    }  # fmt: skip
    assert seen["caffe"]["conv1"] == "conv1"
    assert list(diagnose.after_activation(presets.preset("cifar_11pct").model))[-3:] == ["local3", "local4", "fc10"]


def test_the_command_enlarges_the_embedded_images_for_a_network_that_reads_larger_ones() -> None:
    ended = run_command("diagnose", "cifar")
    assert ended.code == 0, ended.err
    assert "cifar on 32 enlarged embedded images of 36x36x3" in ended.out
    assert all(f"│ {layer} " in ended.out for layer in ("conv1", "conv2", "conv3", "fc10"))
    assert "Nothing is wrong here" in ended.out
    assert "there is no preset 'alexnet'" in run_command("diagnose", "alexnet").refused
    assert "there is no data directory" in run_command("diagnose", "cifar", "--data", "nowhere").refused
