"""A contact sheet: some images as stored, and as the network sees them in training."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from alexnet_jax.config import DataConfig
from alexnet_jax.data.augment import Statistics, training_view

PICTURES = 8
_LEFT, _TOP, _GAP = 150, 24, 4
_SMALLEST = 96  # small images are enlarged to at least this


def sheet(images_BHWC: np.ndarray, names: Sequence[str], statistics: Statistics, seed: int) -> Image.Image:
    """A row of stored images (uint8), two rows of crops and reflections, and two rows that add colour noise.

    Crops are 7/8 of the side, like 224 of 256. The views come from the training step itself, with the 2012 code's form
    of colour noise, and the mean is added back.
    """
    B, H, W, _ = images_BHWC.shape
    size = max(1, min(H, W) * 7 // 8)
    top, left = (H - size) // 2, (W - size) // 2
    mean_hwC = np.asarray(statistics.mean_HWC)[top : top + size, left : left + size]

    @partial(jax.jit, static_argnames="noise")
    def look(key: jax.Array, noise: Literal["none", "stdev"]) -> jax.Array:
        data, always = DataConfig(mean="centre", colour_noise=noise), jnp.float32(1)
        return training_view(jnp.asarray(images_BHWC), jnp.arange(B), key, statistics, always, data=data, size=size)

    def views(noise: Literal["none", "stdev"], number: int) -> np.ndarray:
        seen = look(jax.random.fold_in(jax.random.key(seed), number), noise)
        return np.rint(np.clip(np.asarray(seen) + mean_hwC, 0, 255)).astype(np.uint8)

    rows = {
        f"as stored\n{H} x {W}": images_BHWC,
        f"crops of {size} x {size},\nflipped or not": views("none", 0),
        "drawn anew": views("none", 1),
        "with colour noise": views("stdev", 2),
        "with another": views("stdev", 3),
    }
    zoom = -(-_SMALLEST // min(H, W))
    width, height = W * zoom, H * zoom
    page = Image.new("RGB", (_LEFT + B * (width + _GAP), _TOP + len(rows) * (height + _GAP)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=14)
    for column, name in enumerate(names):
        at = _LEFT + column * (width + _GAP)
        draw.text((at, 4), _fitting(name, font, width), fill="black", font=font)
    for row, (title, pictures_BhwC) in enumerate(rows.items()):
        down = _TOP + row * (height + _GAP)
        draw.text((4, down + 4), title, fill="black", font=font)
        for column, picture in enumerate(pictures_BhwC):
            tile = Image.fromarray(picture if picture.shape[-1] == 3 else picture[..., 0])
            tile = tile.resize((tile.width * zoom, tile.height * zoom), Image.Resampling.NEAREST)
            page.paste(tile, (_LEFT + column * (width + _GAP), down))
    return page


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    kept = text
    while kept and font.getlength(text) > width:
        kept = kept[:-1]
        text = f"{kept}.."
    return text
