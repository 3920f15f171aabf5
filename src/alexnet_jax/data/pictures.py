"""Pictures of any kind, brought to one shape (section 2)."""

import glob
import io
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from alexnet_jax.config import BadInput

# Pillow tells these formats by their first bytes, but does not decode them, or has another program do it.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
# Beyond which Pillow warns of a decompression bomb.
MOST_PIXELS = 89_478_485


def find(paths: Sequence[str]) -> list[Path]:
    """The pictures that files, folders and patterns with * ? [ ] name, each once, in the order given.

    A folder stands for the pictures below it, by their suffixes, sorted; what is hidden there is left out. Raises
    BadInput where an argument names nothing.
    """
    found: dict[str, Path] = {}
    for argument in paths:
        pictures = list(_named(argument))
        if not pictures:
            below = Path(argument).is_dir()
            raise BadInput(f"there are no pictures below {argument}" if below else f"there is no picture {argument}")
        for picture in pictures:
            found.setdefault(os.path.abspath(picture), picture)
    return list(found.values())


def _named(argument: str) -> Iterator[Path]:
    # A name that exists is a name, whatever characters it has.
    for name in [argument] if os.path.exists(argument) else sorted(glob.glob(argument, recursive=True)):
        yield from _below(Path(name)) if os.path.isdir(name) else [Path(name)]


def _below(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.ID if name not in _NOT_DECODED]


@cache
def suffixes() -> set[str]:
    return {suffix for suffix, name in Image.registered_extensions().items() if name in _formats()}


class Unreadable(Exception):
    """Why a picture cannot be read: words for a table, on one line, without a path, every time the same."""

    def __init__(self, reason: str, sentence: str = "the picture {path} {reason}") -> None:
        super().__init__(reason)
        self.sentence = sentence

    def about(self, path: Path) -> str:
        """The reason as a sentence about the file."""
        return self.sentence.format(path=path, reason=self)


def open_picture(path: Path, shape: tuple[int, int, int], square: Literal["crop", "warp"]) -> np.ndarray:
    """What `picture` makes of a file. Raises BadInput where it cannot be read."""
    try:
        if path.is_dir():
            raise BadInput(f"{path} is a folder, not a picture")
        # A device has no size, and may have no end.
        return picture(path.read_bytes() if path.stat().st_size else b"", shape, square)
    except FileNotFoundError:
        raise BadInput(f"there is no picture {path}") from None
    except (OSError, MemoryError) as error:
        raise BadInput(_damage(error).about(path)) from error
    except Unreadable as error:
        raise BadInput(error.about(path)) from error.__cause__


def picture(data: bytes, shape: tuple[int, int, int], square: Literal["crop", "warp"]) -> np.ndarray:
    """uint8 [H, W, C] of any picture's file, upright, on white, in colour or grey as C is 3 or 1.

    crop: it is scaled until it just covers H x W, and the middle is cut out (section 2); warp: its height becomes H
    and its width W (Caffe's examples/imagenet). Raises Unreadable.
    """
    H, W, _ = shape
    if not data:
        raise Unreadable("empty", "the picture {path} is {reason}")
    try:
        return _resized(_on_white(_read(data, 2 * max(H, W))), shape, square)
    except UnidentifiedImageError:
        reason = "not a picture of a known format, or damaged at its beginning"
        raise Unreadable(reason, "{path} is {reason}") from None
    except Image.DecompressionBombError:
        raise _bomb() from None
    except (MemoryError, Unreadable):
        raise
    except Exception as error:  # whatever Pillow's many decoders make of a damaged file
        raise _damage(error) from error


def fit(pixels_HWC: np.ndarray, shape: tuple[int, int, int], square: Literal["crop", "warp"]) -> np.ndarray:
    """What `picture` makes of bare pixels: uint8 [h, w, 1 or 3] -> [H, W, C]."""
    return _resized(Image.fromarray(pixels_HWC[:, :, 0] if pixels_HWC.shape[2] == 1 else pixels_HWC), shape, square)


def _resized(whole: Image.Image, shape: tuple[int, int, int], square: Literal["crop", "warp"]) -> np.ndarray:
    H, W, C = shape
    whole = whole.convert("RGB" if C == 3 else "L")
    box = middle(whole.size, (W, H)) if square == "crop" else None
    # Shrunk by whole factors first, but not below three times the final size: faster, nothing visible.
    return np.array(whole.resize((W, H), Image.Resampling.BICUBIC, box, reducing_gap=3.0)).reshape(shape)


def _read(data: bytes, enough: int) -> Image.Image:
    """The picture upright, its first frame. A JPEG may come smaller, but no side shorter than `enough`."""
    silence()
    with Image.open(io.BytesIO(data), formats=_formats()) as opened:
        if opened.width * opened.height > MOST_PIXELS:  # where Pillow would only warn
            raise _bomb()
        _draft(opened, enough)
        # Refuses what is cut short, a JPEG also where only its last two bytes are missing. A PNG, GIF or BMP may lack
        # the few bytes behind its pixels.
        opened.load()
        try:
            return ImageOps.exif_transpose(opened)
        except Exception:  # a damaged EXIF block is no reason to refuse the pixels
            return opened.copy()


def _draft(picture: Image.Image, enough: int) -> None:
    """Has libjpeg decode to an eighth, a quarter or half the size where that is enough.

    Only where it divides both sides: otherwise the last row or column is part of a pixel and the picture distorted.
    """
    width, height = picture.size
    for factor in (8, 4, 2):
        if width % factor == height % factor == 0 and min(width, height) >= factor * enough:
            picture.draft(None, (width // factor, height // factor))
            return


@cache
def silence() -> None:
    """For good: `warnings.catch_warnings` is not for threads, and pictures are read in several."""
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


def _bomb() -> Unreadable:
    return Unreadable(f"more than {MOST_PIXELS} pixels", "the picture {path} has {reason}; make it smaller")


def _damage(error: Exception) -> Unreadable:
    words = re.sub(r" at 0x\w+", "", getattr(error, "strerror", None) or str(error))
    words = " ".join("".join(char if char.isprintable() else " " for char in words).split())
    return Unreadable(f"cannot be read: {words or type(error).__name__}")


def _on_white(picture: Image.Image) -> Image.Image:
    """Eight bits a channel, without transparency."""
    if picture.mode.startswith(("I", "F")):
        return _eight_bits(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture


def _eight_bits(picture: Image.Image) -> Image.Image:
    """A grey picture of 16 or 32 bits, or of floats: 0 becomes 0, and white 255."""
    level = np.array(picture, np.float32)
    level[~np.isfinite(level)] = 0
    # Files do not say what white is: by custom 1, 255 or 65535 in floats and 65535 in integers.
    whites = (1, 255, 65535) if picture.mode == "F" else (65535,)
    highest = level.max()
    white = next((white for white in whites if highest <= white), highest)
    grey = np.rint(level.clip(0) * (255 / white)).astype(np.uint8)
    if "transparency" in picture.info:
        grey[level == picture.info["transparency"]] = 255
    return Image.fromarray(grey)


def middle(size: tuple[int, int], target: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest box of the target's proportions in the middle of a picture, sizes as (width, height)."""
    (width, height), (W, H) = size, target
    box_width, box_height = min(width, height * W / H), min(height, width * H / W)
    # Whole pixels of the scaled picture are cut off: where nothing is scaled, nothing is blurred.
    left = (width - box_width) * W / box_width // 2 * box_width / W
    top = (height - box_height) * H / box_height // 2 * box_height / H
    return left, top, left + box_width, top + box_height
