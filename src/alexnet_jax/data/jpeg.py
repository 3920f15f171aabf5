"""What `pictures.picture` makes of an ordinary JPEG, about twice as fast (section 2). Needs OpenCV."""

import io
import math
from functools import lru_cache
from itertools import combinations
from typing import Literal

import cv2
import numpy as np
import simplejpeg
from PIL import ExifTags, Image

from alexnet_jax.data import pictures

cv2.setNumThreads(1)  # callers run one process or thread a core

# How many times its final size a picture keeps at least when it is shrunk by a whole factor first. Of the sharpest
# photographs, 1.5 keeps 39 dB against filtering them whole, and rings where there are none; 1.75 keeps 42 dB.
_ENOUGH = 1.75
# What a pixel may grow by: of a picture a few pixels wide the cut would be whole pixels off.
_LEAST = 1 / 16


def fast(data: bytes, shape: tuple[int, int, int], square: Literal["crop", "warp"]) -> np.ndarray | None:
    """uint8 [H, W, C] of a JPEG, as `pictures.picture` gives it: the two differ by 40 dB or more, mostly by 45 to 50.

    None where that has to decide: of what is damaged, to be turned by its orientation, too large or tiny, and of what
    is no JPEG in colour or grey.
    """
    H, W, C = shape
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in ("YCbCr", "RGB", "Gray") or height * width > pictures.MOST_PIXELS or not _upright(data):
            return None
        left, top, right, bottom = 0.0, 0.0, float(width), float(height)
        if square == "crop":
            left, top, right, bottom = pictures.middle((width, height), (W, H))
        # How many pixels become one: along the width, along the height.
        across, down = (right - left) / W, (bottom - top) / H
        if min(across, down) < _LEAST:
            return None
        factor = next((factor for factor in (8, 4, 2) if min(across, down) >= factor * _ENOUGH), 1)
        picture = simplejpeg.decode_jpeg(
            data,
            "GRAY" if colours == "Gray" else "RGB",
            min_height=math.ceil(height / factor),
            min_width=math.ceil(width / factor),
        )
    except ValueError:  # also of a JPEG that is cut short, or that libjpeg warns of
        return None
    # Scaled and then cut: the middle begins at a whole pixel of the scaled picture.
    y, x, across, down = round(top / down), round(left / across), across / factor, down / factor
    y0, x0 = _corner(y, down), _corner(x, across)
    picture = picture[round(y0 * down) : math.ceil(bottom / factor), round(x0 * across) : math.ceil(right / factor)]
    picture = _scale(picture, across, down)[y - y0 :, x - x0 :][:H, :W]
    if picture.ndim == 2 and C == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB)
    elif picture.ndim == 3 and C == 1:  # the decoder's own grey differs where a colour is too strong for RGB
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return np.ascontiguousarray(picture).reshape(shape)


def products(image_HWC: np.ndarray) -> np.ndarray:
    """[C, C]: the products of the channels, summed over the pixels; whole numbers below 2^53."""
    planes = cv2.split(image_HWC)
    sums_CC = np.diag([cv2.norm(plane, cv2.NORM_L2SQR) for plane in planes])
    for i, j in combinations(range(len(planes)), 2):  # 2ab = a^2 + b^2 - (a - b)^2
        apart = cv2.norm(planes[i], planes[j], cv2.NORM_L2SQR)
        sums_CC[i, j] = sums_CC[j, i] = (sums_CC[i, i] + sums_CC[j, j] - apart) / 2
    return np.rint(sums_CC)


def _upright(data: bytes) -> bool:
    """Whether neither EXIF nor XMP say that it is to be turned."""
    at = 2
    while (marker := data[at : at + 2])[:1] == b"\xff" and marker != b"\xff\xda":
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    # What stands before the pixels, or more: bytes that only fill are taken for a long segment.
    if b"Exif" not in data[:at] and b"Orientation" not in data[:at]:
        return True
    pictures.silence()
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as opened:
            return opened.getexif().get(ExifTags.Base.Orientation, 1) == 1
    except Exception:  # as in pictures.picture
        return False


@lru_cache(1024)
def _corner(end: int, step: float) -> int:
    """A pixel before `end`, as near as may be, that begins at a whole one (to a fiftieth) of those scaled by `step`.

    What is before it need not be scaled: between it and `end` there is as much as the two filters reach over.
    """
    last = end - math.ceil(2 + 2 / step)
    return next((at for at in range(last, 0, -1) if abs(at * step - round(at * step)) < 0.02), 0)


def _scale(picture: np.ndarray, across: float, down: float) -> np.ndarray:
    """uint8 [h, w] or [h, w, 3], every across x down pixels become one: bicubic, over more pixels where it shrinks.

    Pillow's resize in two steps: low-pass filtered, then taken where the new pixels are.
    """
    if max(across, down) >= 2 * _ENOUGH:  # a long filter would take long
        h, w = picture.shape[:2]
        less_h, less_w = h // max(1, int(down / _ENOUGH)), w // max(1, int(across / _ENOUGH))
        picture = cv2.resize(picture, (less_w, less_h), interpolation=cv2.INTER_AREA)
        across, down = across * less_w / w, down * less_h / h
    if across > 1 or down > 1:
        picture = cv2.sepFilter2D(picture, -1, _bicubic(across), _bicubic(down), borderType=cv2.BORDER_REPLICATE)
    # Given the factors and no size, OpenCV scales by just these, also where the size is no multiple of them.
    return cv2.resize(picture, None, fx=1 / across, fy=1 / down, interpolation=cv2.INTER_CUBIC)


@lru_cache(1024)
def _bicubic(step: float) -> np.ndarray:
    """float32 [2 n + 1]: Pillow's bicubic (a = -0.5), `step` times as wide, at whole pixels."""
    n = math.ceil(2 * step) - 1  # from 2 on it is zero
    x = np.abs(np.arange(-n, n + 1)) / step
    weight = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2)
    return (weight / weight.sum()).astype(np.float32)
