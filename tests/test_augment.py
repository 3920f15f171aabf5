"""Crops, reflections, means and colour noise against plain NumPy."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import make_mesh
from alexnet_jax.config import DataConfig
from alexnet_jax.data import augment
from alexnet_jax.networks import columns

KEY = jax.random.key(7)
QUIET = DataConfig(colour_noise="none")


def pictures(count: int = 8, side: int = 10, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels), np.uint8)


def statistics(side: int = 10, channels: int = 3) -> augment.Statistics:
    rng = np.random.default_rng(1)
    components = np.linalg.qr(rng.normal(size=(channels, channels)))[0].astype(np.float32)
    mean = rng.uniform(0, 255, (side, side, channels)).astype(np.float32)
    return augment.Statistics(mean, np.array([19.7, 37.1, 121.8], np.float32)[:channels], components)


def views(data: DataConfig, images: np.ndarray, size: int = 7, noise: float = 1.0) -> np.ndarray:
    view = partial(augment.training_view, data=data, size=size)
    return np.asarray(view(images, jnp.arange(len(images)), KEY, statistics(images.shape[1]), noise))


def all_crops(picture: np.ndarray, size: int) -> dict[tuple[int, int, bool], np.ndarray]:
    rooms = range(picture.shape[0] - size + 1)
    crops = {(top, left, False): picture[top : top + size, left : left + size] for top in rooms for left in rooms}
    return crops | {(top, left, True): crop[:, ::-1] for (top, left, _), crop in crops.items()}


def where(view: np.ndarray, candidates: dict[tuple[int, int, bool], np.ndarray]) -> tuple[int, int, bool]:
    found = [at for at, crop in candidates.items() if np.allclose(crop, view, atol=1e-3)]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("pad", [0, 2])
def test_each_view_is_a_crop_of_the_padded_image_minus_the_mean_there(pad: int, platform: str) -> None:
    images, mean = pictures(64), statistics().mean_HWC
    centred = np.pad(images - mean, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    places = [
        where(view, all_crops(picture, 7))
        for view, picture in zip(views(DataConfig(pad=pad, colour_noise="none"), images), centred, strict=True)
    ]
    room = 3 + 2 * pad
    assert {place[0] for place in places} == set(range(room + 1)), "every row must be reachable, the last one too"
    assert {place[1] for place in places} == set(range(room + 1))
    assert 16 < sum(place[2] for place in places) < 48


def test_mean_centre_subtracts_the_central_mean_from_every_crop() -> None:
    images, mean = pictures(16), np.asarray(statistics().mean_HWC)[1:8, 1:8]
    for view, picture in zip(views(DataConfig(mean="centre", colour_noise="none"), images), images, strict=True):
        where(view, {at: crop - mean for at, crop in all_crops(picture.astype(np.float32), 7).items()})


def test_consecutive_images_share_crop_and_flip_if_the_config_says_so() -> None:
    same = np.repeat(pictures(1), 12, axis=0)
    one = views(DataConfig(crop_run=4, colour_noise="none"), same)
    assert [np.array_equal(one[i], one[i + 1]) for i in range(11)].count(True) >= 9
    assert all(np.array_equal(one[i], one[i - i % 4]) for i in range(12))
    assert not np.array_equal(one[0], one[4])


def test_without_augmentation_the_view_is_the_central_crop() -> None:
    images = pictures()
    plain = views(DataConfig(crop=False, flip=False, colour_noise="none"), images)
    np.testing.assert_allclose(plain, (images - statistics().mean_HWC)[:, 1:8, 1:8], atol=1e-3)


@pytest.mark.parametrize("kind", ["stdev", "eigenvalue"])
def test_colour_noise_has_the_spread_of_each_principal_component(kind: str) -> None:
    """stdev: 0.1 x standard deviation, and all divided by 1.1. eigenvalue: 0.1 x variance, of pixels from 0 to 1."""
    images = np.repeat(pictures(1), 4000, axis=0)
    fixed = {"crop": False, "flip": False}
    noisy = views(DataConfig(colour_noise=kind, **fixed), images)
    clean = views(DataConfig(colour_noise="none", **fixed), images[:1])
    shrink = 1.1 if kind == "stdev" else 1.0
    shift = noisy * shrink - clean
    np.testing.assert_allclose(shift, np.broadcast_to(shift[:, :1, :1], shift.shape), atol=1e-2)
    along = shift[:, 0, 0] @ np.asarray(statistics().component_CC)
    stdev = np.asarray(statistics().stdev_C)
    expected = 0.1 * stdev if kind == "stdev" else 0.1 * (stdev / 255) ** 2 * 255
    np.testing.assert_allclose(along.std(axis=0), expected, rtol=0.05)
    np.testing.assert_allclose(along.mean(axis=0), 0, atol=4 * expected.max() / np.sqrt(4000))
    quiet = views(DataConfig(colour_noise=kind, **fixed), images[:2], noise=0.0)
    np.testing.assert_allclose(quiet, np.broadcast_to(clean, quiet.shape), atol=1e-3)


def slow_view(data: DataConfig, picture: np.ndarray, index: int, size: int) -> np.ndarray:
    """The training view of one image, pixel by pixel in float64. Only the random numbers come from JAX."""
    mean_HWC, stdev_C, component_CC = (np.asarray(value, np.float64) for value in statistics(len(picture)))
    H, W, C = picture.shape
    room = H + 2 * data.pad - size
    crop_key, flip_key = jax.random.split(jax.random.fold_in(KEY, index // data.crop_run))
    top, left = np.asarray(jax.random.randint(crop_key, (2,), 0, room + 1)) if data.crop else (room // 2, room // 2)
    flip = data.flip and bool(jax.random.bernoulli(flip_key))
    alpha = np.asarray(jax.random.normal(jax.random.fold_in(jax.random.fold_in(KEY, 2**31), index), (C,)), np.float64)
    seen = np.zeros((size, size, C))
    for i in range(size):
        for j in range(size):
            row, column = top + i - data.pad, left + (size - 1 - j if flip else j) - data.pad
            inside = 0 <= row < H and 0 <= column < W
            for c in range(C):
                value = float(picture[row, column, c]) if inside else 0.0
                if data.mean == "pixel" and inside:
                    value -= mean_HWC[row, column, c]
                if data.mean == "centre":  # not reflected
                    value -= mean_HWC[room // 2 - data.pad + i, room // 2 - data.pad + j, c]
                shift = 0.0
                for k in range(C):
                    if data.colour_noise == "stdev":
                        shift += component_CC[c, k] * alpha[k] * 0.1 * stdev_C[k]
                    if data.colour_noise == "eigenvalue":  # for pixels from 0 to 1
                        shift += component_CC[c, k] * alpha[k] * 0.1 * (stdev_C[k] / 255) ** 2 * 255
                seen[i, j, c] = data.scale * (value + shift) / (1.1 if data.colour_noise == "stdev" else 1.0)
    return seen


@pytest.mark.parametrize(
    "data",
    [
        DataConfig(colour_noise="eigenvalue"),
        DataConfig(mean="centre", crop_run=32, colour_noise="stdev"),  # 2012
        DataConfig(mean="none", scale=1 / 128, flip=False, colour_noise="none"),
        DataConfig(pad=2, crop=False, crop_run=32, colour_noise="stdev"),
    ],
    ids=["paper", "cuda_convnet", "scaled", "padded"],
)
def test_the_training_view_equals_a_slow_version(data: DataConfig) -> None:
    images = pictures(70)  # two runs of 32 and the beginning of a third
    seen = views(data, images)
    for index in [0, 1, 2, 31, 32, 33, 63, 64, 69]:
        np.testing.assert_allclose(seen[index], slow_view(data, images[index], index, 7), atol=1e-3 * data.scale)


def test_reflection_and_colour_noise_are_independent() -> None:
    """They are drawn from different keys."""
    picture = np.zeros((1000, 4, 4, 3), np.uint8)
    picture[:, :, 2:] = 200
    plain = augment.Statistics(
        np.zeros((4, 4, 3), np.float32), np.array([50, 0, 0], np.float32), np.eye(3, dtype=np.float32)
    )
    data = DataConfig(crop=False, colour_noise="stdev")
    view = augment.training_view(picture, jnp.arange(1000), KEY, plain, jnp.float32(1), data=data, size=4)
    flipped = np.asarray(view[:, 0, 0, 1] > view[:, 0, 3, 1])
    redder = np.asarray(view[:, 0, :, 0].mean(axis=1) > view[:, 0, :, 1].mean(axis=1))
    assert 400 < flipped.sum() < 600
    assert 400 < (flipped == redder).sum() < 600


def test_the_ten_views_are_centre_corners_and_their_reflections() -> None:
    images, mean = pictures(), statistics().mean_HWC
    centred = images - mean
    for n in range(10):
        top, left = [(1, 1), (0, 0), (0, 3), (3, 0), (3, 3)][n % 5]
        expected = centred[:, top : top + 7, left : left + 7]
        view = augment.test_view(images, jnp.int32(n), statistics(), data=QUIET, size=7)
        np.testing.assert_allclose(view, expected[:, :, ::-1] if n >= 5 else expected, atol=1e-3)


def oblong() -> tuple[np.ndarray, augment.Statistics]:
    """Images of 9 rows and 12 columns, and their mean."""
    rng = np.random.default_rng(0)
    mean = rng.uniform(0, 255, (9, 12, 3)).astype(np.float32)
    return rng.integers(0, 256, (64, 9, 12, 3), np.uint8), statistics()._replace(mean_HWC=mean)


@pytest.mark.parametrize("mean", ["pixel", "centre"])
def test_images_need_not_be_square(mean: Any) -> None:
    """Crops reach every row and every column, and the ten views do not mix up rows and columns."""
    images, measured = oblong()
    data = DataConfig(mean=mean, flip=False, scale=0.5, colour_noise="none")
    centre = measured.mean_HWC[1:8, 2:9]
    crops = [
        {
            (top, left, False): 0.5
            * (crop - (centre if mean == "centre" else measured.mean_HWC[top : top + 7, left : left + 7]))
            for top in range(3)
            for left in range(6)
            for crop in [image[top : top + 7, left : left + 7].astype(np.float32)]
        }
        for image in images
    ]
    seen = augment.training_view(images, jnp.arange(64), KEY, measured, jnp.float32(1), data=data, size=7)
    places = [where(view, own) for view, own in zip(np.asarray(seen), crops, strict=True)]
    assert {place[0] for place in places} == set(range(3))
    assert {place[1] for place in places} == set(range(6))
    for n, (top, left) in enumerate([(1, 2), (0, 0), (0, 5), (2, 0), (2, 5)]):
        view = augment.test_view(images, jnp.int32(n), measured, data=data, size=7)
        np.testing.assert_allclose(view, np.stack([own[top, left, False] for own in crops]), atol=1e-3)


def test_an_image_gets_the_same_view_on_any_layout() -> None:
    images, data = pictures(), DataConfig(colour_noise="stdev")

    def per_device(images: jax.Array, index: jax.Array, key: jax.Array) -> jax.Array:
        return augment.training_view(images, index, key, statistics(), jnp.float32(1), data=data, size=7)

    there = jax.jit(columns.on_images(per_device, make_mesh(4, 1)))(images, KEY)
    np.testing.assert_allclose(there, views(data, images), atol=1e-3)
