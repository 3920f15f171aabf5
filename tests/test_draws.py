"""Random draws are independent of each other: weights, order, crops, flips, colours, dropout."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2_contingency
from scipy.stats.contingency import crosstab

import alexnet_jax as alexnet
from alexnet_jax.config import CifarConfig, Config, Conv, DataConfig, Dense, Model, OptimConfig, TutorialConfig
from alexnet_jax.data import augment, pipeline, records, writing
from alexnet_jax.training.optimiser import Rates
from alexnet_jax.training.step import make_train_step, new_state


def assert_independent(a: np.ndarray, b: np.ndarray, what: object) -> None:
    """Both vary, and a chi-squared test finds no dependence."""
    (values, others), table = crosstab(a, b)
    assert min(len(values), len(others)) > 1, what
    assert chi2_contingency(table).pvalue > 1e-4, what


# ------------------------------------------------------------------------------------------- one key for each draw


def narrow_tutorial() -> TutorialConfig:
    conv = Conv(4, 3, padding=(1, 1), then=("activation", "pool", "norm"))
    return TutorialConfig(conv1=conv, conv2=conv, conv3=conv, fc1=Dense(4), fc2=Dense(4), out=Dense(3))


@pytest.mark.parametrize("network", ["alexnet", "tutorial"])
def test_no_key_is_drawn_from_twice(tiny: Config, network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records the bits of every key that is drawn from, in three steps with eight images for each of two seeds.

    By JAX's rule no key that others are derived from may be drawn from either.
    """
    drawn: list[tuple[int, ...]] = []
    parents: set[tuple[int, ...]] = set()

    def watch(name: str, note: Callable[[tuple[int, ...]], None]) -> None:
        original = getattr(jax.random, name)

        def watched(key: jax.Array, *arguments: Any, **options: Any) -> Any:
            jax.debug.callback(lambda bits: note(tuple(map(int, bits))), jax.random.key_data(key))
            return original(key, *arguments, **options)

        monkeypatch.setattr(jax.random, name, watched)

    for name in ("bernoulli", "normal", "randint"):
        watch(name, drawn.append)
    for name in ("fold_in", "split"):
        watch(name, parents.add)

    model: Model = replace(tiny.model, dropout_before=("fc6", "fc7", "fc8"))
    if network == "tutorial":
        model = narrow_tutorial()
    data = DataConfig(pad=2, colour_noise="stdev")
    measured = augment.Statistics(
        np.zeros((28, 28, 1), np.float32), np.ones(1, np.float32), np.eye(1, dtype=np.float32)
    )

    def view(images: jax.Array, key: jax.Array, noise: jax.Array) -> jax.Array:
        return augment.training_view(images, jnp.arange(8), key, measured, noise, data=data, size=28)

    whole = alexnet.forward(model)

    def forward(params: Any, images: jax.Array, **draw: Any) -> jax.Array:
        return jax.lax.stop_gradient(whole(params, images, **draw))  # the backward pass draws nothing

    step = make_train_step(forward, view, tiny.optim)
    params = jax.tree.map(jnp.zeros_like, jax.eval_shape(lambda key: alexnet.init(model, key), jax.random.key(0)))
    for seed in (0, 1):
        state, key = new_state(jax.tree.map(jnp.copy, params), tiny.optim), jax.random.key(seed)
        for _ in range(3):
            images = np.zeros((8, 28, 28, 1), np.uint8)
            state, _ = step(state, images, np.zeros(8, np.int32), key, Rates(0.1, 0.1, 1.0), 1.0)
    jax.effects_barrier()

    masks = 3 * model.columns  # three layers of each network drop
    assert len(drawn) == 2 * 3 * 8 * (3 + masks), "crop, flip, colour and masks of each image"
    assert len(set(drawn)) == len(drawn)
    assert not parents & set(drawn)


# ----------------------------------------------------------------------------------------------- crops, flips, colours

IMAGES = 3000


def seen(key: jax.Array) -> dict[str, np.ndarray]:
    """The crop and the flip of many images, and the quartile of each of their three colour shifts.

    The colour of a pixel encodes its position, so the view shows them all.
    """
    side, size = 5, 2
    image = np.stack([*np.mgrid[:side, :side], np.zeros((side, side))], axis=-1).astype(np.uint8)
    mean, ones = np.zeros((side, side, 3), np.float32), np.ones(3, np.float32)
    measured = augment.Statistics(mean, ones, np.eye(3, dtype=np.float32))
    data = DataConfig(mean="none", colour_noise="stdev")
    images = np.broadcast_to(image, (IMAGES, *image.shape))
    view = 1.1 * augment.training_view(images, jnp.arange(IMAGES), key, measured, jnp.float32(1), data=data, size=size)
    first, last = np.asarray(view[:, 0, 0]), np.asarray(view[:, 0, 1])
    corner = np.rint(np.minimum(first, last))
    shift = np.minimum(first, last) - corner  # a standard normal number divided by ten
    quarters = {f"alpha {c}": np.digitize(shift[:, c], [-0.0674, 0, 0.0674]) for c in range(3)}
    return {"top": corner[:, 0], "left": corner[:, 1], "flip": first[:, 1] > last[:, 1], **quarters}


def test_crop_flip_and_colours_of_an_image_are_independent() -> None:
    for (name, a), (other, b) in combinations(seen(jax.random.key(1)).items(), 2):
        assert_independent(a, b, (name, other))


def test_an_image_is_augmented_independently_of_the_next_image_and_of_another_step() -> None:
    now, then = seen(jax.random.key(1)), seen(jax.random.key(2))
    for name, a in now.items():
        for other, b in now.items():
            assert_independent(a[:-1], b[1:], (name, other, "of the next image"))
        for other, b in then.items():
            assert_independent(a, b, (name, other, "with another key"))


@pytest.mark.parametrize("reshuffle", [True, False])
def test_a_record_is_augmented_independently_of_its_place_in_the_order_and_of_the_next_epoch(
    tmp_path: Path, reshuffle: bool
) -> None:
    """Two epochs of 512 images through the training step, in a new order or in the same one."""
    count, batch = 512, 64
    number, (row, column) = np.arange(count), np.mgrid[:5, :5]
    # The colour of a pixel encodes its image and its position.
    pictures = np.stack([5 * n[:, None, None] + at for n, at in ((number % 50, row), (number // 50, column))], axis=-1)
    examples = [(np.pad(picture, ((0, 0), (0, 0), (0, 1))).astype(np.uint8), 0) for picture in pictures]
    writing.write(tmp_path / "data", {records.TRAIN: examples, records.VALIDATION: examples[:1]}, ["all"], "test")

    data = DataConfig(mean="none", colour_noise="none")
    read, views = records.Records(tmp_path / "data"), []

    def view(images: jax.Array, key: jax.Array, noise: jax.Array) -> jax.Array:
        return augment.training_view(images, jnp.arange(batch), key, read.statistics, noise, data=data, size=2)

    def forward(params: Any, images: jax.Array, **_: Any) -> jax.Array:
        jax.debug.callback(views.append, images)
        return params["fc8"]["bias"] + images[:, 0, 0]

    optim = OptimConfig(batch=batch)
    step = make_train_step(forward, view, optim)
    state = new_state({"fc8": {"bias": jnp.zeros((1, 3))}}, optim)
    batches = pipeline.training_batches(
        read, optim, seed=0, reshuffle=reshuffle, rows=slice(0, batch), first=0, workers=0
    )
    for _ in range(2 * count // batch):
        part = next(batches)
        state, _ = step(state, part["image"], part["label"], jax.random.key(0), Rates(0.1, 0.1, 1.0), 0.0)
        jax.effects_barrier()

    first, last = (np.concatenate(views).astype(int)[:, 0, column] for column in (0, 1))
    shown = np.minimum(first, last)
    record = shown[:, 0] // 5 + 50 * (shown[:, 1] // 5)
    done = {"top": shown[:, 0] % 5, "left": shown[:, 1] % 5, "flip": first[:, 1] > last[:, 1]}
    orders = record[:count], record[count:]
    assert sorted(orders[0]) == sorted(orders[1]) == list(number)
    for name, values in done.items():
        epochs = values[:count], values[count:]
        again = [own[np.argsort(order)] for own, order in zip(epochs, orders, strict=True)]
        assert_independent(*again, (name, "of the next epoch"))
        for own, order in zip(epochs, orders, strict=True):
            assert_independent(own, order // 128, (name, "by record"))
            assert_independent(own, number // 128, (name, "by step"))
            assert_independent(own, number % batch // 16, (name, "by place in the batch"))


# ------------------------------------------------------------------------------------------------------- dropout masks


def masks(model: Any, before: str) -> list[np.ndarray]:
    """The masks before a layer for two keys, [64 images, 64 units], column 0 first, as the network applies them.

    fc6, fc7 and fc8 return what they read, and every unit is 1.
    """
    conv5, dense = replace(model.conv5, kernels=64, bias=1.0), Dense(64)
    model = replace(model, conv5=conv5, fc6=dense, fc7=dense, fc8=dense, dropout_before=(before,))
    params = jax.tree.map(jnp.zeros_like, jax.eval_shape(lambda key: alexnet.init(model, key), jax.random.key(0)))
    params["conv5"]["bias"] += 1
    for name in ("fc6", "fc7", "fc8"):
        params[name]["kernel"] += np.eye(64, dtype=np.float32)
    forward, images = alexnet.forward(model), np.zeros((64, 28, 28, 1), np.float32)
    return [np.asarray(forward(params, images, key=jax.random.key(seed), train=True)) for seed in (1, 2)]


def test_dropout_masks_of_layers_columns_images_and_keys_are_independent(tiny: Config) -> None:
    layers = ("fc6", "fc7", "fc8")
    now, then = map(dict, zip(*([(name, mask) for mask in masks(tiny.model, name)] for name in layers), strict=True))
    for name, mask in now.items():
        assert_independent(mask[:, :32], mask[:, 32:], (name, "column"))
        assert_independent(mask[:-1], mask[1:], (name, "image"))
        assert_independent(mask[:, :-1], mask[:, 1:], (name, "unit"))
        for other in layers:
            assert_independent(mask, then[other], (name, other, "key"))
    for name, other in combinations(layers, 2):
        assert_independent(now[name], now[other], (name, other))


# ------------------------------------------------------------------------------------------------------ initial weights


def equal_layers(tiny: Config) -> dict[str, Model]:
    """Networks whose layers have the same shapes where possible, with random biases."""
    conv, dense = Conv(64, 3, padding=(1, 1), bias_std=0.01), Dense(64, bias_std=0.01)
    convs, local = {f"conv{n}": conv for n in (3, 4, 5, 6)}, Conv(8, 3, padding=(1, 1), bias_std=0.01)
    return {
        "alexnet": replace(tiny.model, **convs, fc6=dense, fc7=dense, fc8=dense),
        "cifar": CifarConfig(image_size=16, conv3=None, local3=local, local4=local, fc10=dense),
    }


def alike(a: np.ndarray, b: np.ndarray) -> float:
    """The correlation of two draws, over the length of the shorter, in standard deviations of independent draws."""
    count = min(a.size, b.size)
    return float(abs(np.corrcoef(np.ravel(a)[:count], np.ravel(b)[:count])[0, 1]) * count**0.5)


@pytest.mark.parametrize("network", ["alexnet", "cifar"])
def test_initial_weights_of_layers_columns_and_seeds_are_independent(tiny: Config, network: str) -> None:
    """Kernels and biases alike. Draws from the same key start with the same numbers, whatever their shape."""
    model = equal_layers(tiny)[network]
    init = jax.jit(partial(alexnet.init, model))
    # JAX compiles the generator rbg faster.
    params, others = (jax.device_get(init(jax.random.key(seed, impl="rbg"))) for seed in (0, 1))
    drawn = {(layer, kind): array for layer, own in params.items() for kind, array in own.items() if np.ptp(array) > 0}
    assert len([kind for _, kind in drawn if kind == "bias"]) >= 3
    for (name, a), (other, b) in combinations(drawn.items(), 2):
        assert alike(a, b) < 5, (name, other)
    for (layer, kind), array in drawn.items():
        assert alike(array, others[layer][kind]) < 5, (layer, kind, "seed")
        half = array.shape[-1] // 2
        assert alike(array[..., :half], array[..., half:]) < 5, (layer, kind, "column")
