"""What happens to images on the device, inside the step: mean, crops, flips and colour noise (sections 2, 4.1).

All randomness depends only on a key and the image's index in the global batch, so every layout draws the same.

B batch  H,W height,width of an image  h,w of a crop  C channels
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from alexnet_jax.config import DataConfig

# Larger than the index of any image, so that colours share no key with crops and flips.
_NOISE = 2**31


class Statistics(NamedTuple):
    """Statistics of the training images, on a scale of 0 to 255."""

    mean_HWC: Array | np.ndarray
    stdev_C: Array | np.ndarray
    """standard deviations of the pixels' colours along their principal components"""
    component_CC: Array | np.ndarray
    """those components, one per column"""


def training_view(
    images_BHWC: Array,
    index_B: Array,
    key: Array,
    statistics: Statistics,
    noisy: Array,
    *,
    data: DataConfig,
    size: int,
) -> Array:
    """A random crop of every image, flipped or not, mean subtracted, with colour noise if `noisy` is 1.

    images: uint8 [B, H, W, C]; index: [B], in the global batch; returns float32 [B, size, size, C], times `data.scale`.
    """
    room = [side + 2 * data.pad - size for side in images_BHWC.shape[1:3]]

    noise_key = jax.random.fold_in(key, _NOISE)

    def view(image: Array, index: Array) -> Array:
        crop_key, flip_key = jax.random.split(jax.random.fold_in(key, index // data.crop_run))
        corner = jax.random.randint(crop_key, (2,), 0, jnp.array(room) + 1) if data.crop else jnp.array(room) // 2
        flip = jax.random.bernoulli(flip_key) if data.flip else jnp.array(False)
        crop = _crop(image, corner, flip, statistics.mean_HWC, data, size)
        return data.scale * _add_colour_noise(crop, jax.random.fold_in(noise_key, index), statistics, noisy, data)

    return jax.vmap(view)(images_BHWC, index_B)


def test_view(images_BHWC: Array, view: Array, statistics: Statistics, *, data: DataConfig, size: int) -> Array:
    """One of the ten views of section 4.1: 0 is the centre, 1 to 4 the corners, 5 to 9 their reflections.

    images: uint8 [B, H, W, C]; returns float32 [B, size, size, C], mean subtracted, times `data.scale`.
    """
    bottom, right = (side + 2 * data.pad - size for side in images_BHWC.shape[1:3])
    corners = jnp.array([(bottom // 2, right // 2), (0, 0), (0, right), (bottom, 0), (bottom, right)])
    corner, flip = corners[view % 5], view >= 5
    return data.scale * jax.vmap(lambda image: _crop(image, corner, flip, statistics.mean_HWC, data, size))(images_BHWC)


def _crop(
    image_HWC: Array, corner: Array, flip: Array, mean_HWC: Array | np.ndarray, data: DataConfig, size: int
) -> Array:
    """The crop at `corner` of the padded image, float, mean subtracted, reflected if `flip`."""

    def cut(picture: Array | np.ndarray, corner: Array | tuple[int, int], flip: Array | bool) -> Array:
        padded = jnp.pad(picture, ((data.pad, data.pad), (data.pad, data.pad), (0, 0)))

        def slice_and_reverse(padded: Array) -> Array:
            crop = jax.lax.dynamic_slice(padded, (*corner, 0), (size, size, picture.shape[-1]))
            return jnp.where(flip, crop[:, ::-1], crop)

        def by_position(padded: Array) -> Array:
            # A GPU reads each pixel once; otherwise it reads the crop and its reflection and chooses.
            along = jnp.arange(size)
            rows, columns = corner[0] + along, corner[1] + jnp.where(flip, size - 1 - along, along)
            return padded.at[rows[:, None], columns].get(mode="promise_in_bounds")

        return jax.lax.platform_dependent(padded, cpu=slice_and_reverse, default=by_position)

    crop = cut(image_HWC, corner, flip).astype(jnp.float32)
    if data.mean == "none":
        return crop
    if data.mean == "pixel":
        return crop - cut(mean_HWC, corner, flip)
    # The 2012 code subtracts the mean after the reflection and does not reflect it (convdata_jpeg.py).
    H, W = mean_HWC.shape[:2]
    return crop - cut(mean_HWC, ((H + 2 * data.pad - size) // 2, (W + 2 * data.pad - size) // 2), False)


def _add_colour_noise(crop_hwC: Array, key: Array, statistics: Statistics, noisy: Array, data: DataConfig) -> Array:
    if data.colour_noise == "none":
        return crop_hwC
    alpha_C = jax.random.normal(key, statistics.stdev_C.shape)
    mix = partial(jnp.matmul, precision="highest")  # as on a CPU
    if data.colour_noise == "stdev":
        # convdata.py: a tenth of each component's standard deviation, and the image divided by 1 + 1/10.
        shift_C = mix(statistics.component_CC, alpha_C * statistics.stdev_C)
        return (crop_hwC + 0.1 * noisy * shift_C.reshape(1, 1, -1)) / (1 + 0.1 * noisy)
    # Section 4.1 as printed: alpha times the eigenvalue. It only makes sense for pixels from 0 to 1: on a
    # scale of 0 to 255, one standard deviation of alpha would be over a thousand grey levels.
    shift_C = mix(statistics.component_CC, 0.1 * alpha_C * jnp.square(statistics.stdev_C / 255)) * 255
    return crop_hwC + noisy * shift_C.reshape(1, 1, -1)
