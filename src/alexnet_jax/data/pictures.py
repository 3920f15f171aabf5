"""Image files of any kind, brought to one shape (section 2)."""

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

# Pillow recognises these formats but does not decode them, or runs another program to do it.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
# Above this, Pillow warns of a decompression bomb.
MOST_PIXELS = 89_478_485


def find(paths: Sequence[str]) -> list[Path]:
    """The image files named by files, folders and patterns with * ? [ ], each once, in the order given.

    A folder stands for the image files below it, recognised by suffix and sorted, without hidden ones. Raises BadInput
    if an argument names nothing.
    """
    found: dict[str, Path] = {}
    for argument in paths:
        pictures = list(_named(argument))
        if not pictures:
            below = Path(argument).is_dir()
            raise BadInput(f"there are no images below {argument}" if below else f"there is no image {argument}")
        for picture in pictures:
            found.setdefault(os.path.abspath(picture), picture)
    return list(found.values())


def _named(argument: str) -> Iterator[Path]:
    # An existing name is not a pattern, whatever characters it contains.
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
    """Why an image cannot be read: one line of text for a table, without a path, reproducible."""

    def __init__(self, reason: str, sentence: str = "the image {path} {reason}") -> None:
        super().__init__(reason)
        self.sentence = sentence

    def about(self, path: Path) -> str:
        """The reason as a sentence about the file."""
        return self.sentence.format(path=path, reason=self)


def open_picture(path: Path, shape: tuple[int, int, int], square: Literal["crop", "warp"]) -> np.ndarray:
    """`picture` of a file. Raises BadInput if it cannot be read."""
    try:
        if path.is_dir():
            raise BadInput(f"{path} is a folder, not an image")
        # A device file has no size and may never end.
        return picture(path.read_bytes() if path.stat().st_size else b"", shape, square)
    except FileNotFoundError:
        raise BadInput(f"there is no image {path}") from None
    except (OSError, MemoryError) as error:
        raise BadInput(_damage(error).about(path)) from error
    except Unreadable as error:
        raise BadInput(error.about(path)) from error.__cause__


def picture(data: bytes, shape: tuple[int, int, int], square: Literal["crop", "warp"]) -> np.ndarray:
    """uint8 [H, W, C] of an image file's bytes: upright, on white, in colour if C is 3 or grey if C is 1.

    crop: scaled until it just covers H x W, then the middle is cut out (section 2). warp: scaled to height H and width
    W (Caffe's examples/imagenet). Raises Unreadable.
    """
    H, W, _ = shape
    if not data:
        raise Unreadable("empty", "the image {path} is {reason}")
    try:
        return _resized(_on_white(_read(data, 2 * max(H, W))), shape, square)
    except UnidentifiedImageError:
        reason = "not an image of a known format, or damaged at its beginning"
        raise Unreadable(reason, "{path} is {reason}") from None
    except Image.DecompressionBombError:
        raise _bomb() from None
    except (MemoryError, Unreadable):
        raise
    except Exception as error:  # Pillow's decoders raise many kinds for a damaged file
        raise _damage(error) from error


def fit(pixels_HWC: np.ndarray, shape: tuple[int, int, int], square: Literal["crop", "warp"]) -> np.ndarray:
    """`picture` of bare pixels: uint8 [h, w, 1 or 3] -> [H, W, C]."""
    return _resized(Image.fromarray(pixels_HWC[:, :, 0] if pixels_HWC.shape[2] == 1 else pixels_HWC), shape, square)


def _resized(whole: Image.Image, shape: tuple[int, int, int], square: Literal["crop", "warp"]) -> np.ndarray:
    H, W, C = shape
    whole = whole.convert("RGB" if C == 3 else "L")
    box = middle(whole.size, (W, H)) if square == "crop" else None
    # First shrunk by a whole factor, but not below three times the final size: faster, with no visible difference.
    return np.array(whole.resize((W, H), Image.Resampling.BICUBIC, box, reducing_gap=3.0)).reshape(shape)


def _read(data: bytes, enough: int) -> Image.Image:
    """The first frame, upright. A JPEG may be decoded smaller, but no side shorter than `enough`."""
    silence()
    with Image.open(io.BytesIO(data), formats=_formats()) as opened:
        if opened.width * opened.height > MOST_PIXELS:  # Pillow would only warn
            raise _bomb()
        _draft(opened, enough)
        # Rejects truncated files, including a JPEG that lacks only its last two bytes. A PNG, GIF or BMP may lack the
        # few bytes after its pixels.
        opened.load()
        try:
            return ImageOps.exif_transpose(opened)
        except Exception:  # a damaged EXIF block is no reason to reject the pixels
            return opened.copy()


def _draft(picture: Image.Image, enough: int) -> None:
    """Lets libjpeg decode at an eighth, a quarter or half the size if that is enough.

    Only if the factor divides both sides; otherwise the last row or column would be a partial pixel, a distortion.
    """
    width, height = picture.size
    for factor in (8, 4, 2):
        if width % factor == height % factor == 0 and min(width, height) >= factor * enough:
            picture.draft(None, (width // factor, height // factor))
            return


@cache
def silence() -> None:
    """Silences Pillow for good: `warnings.catch_warnings` is not thread-safe, and several threads read images."""
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


def _bomb() -> Unreadable:
    return Unreadable(f"more than {MOST_PIXELS} pixels", "the image {path} has {reason}; make it smaller")


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
    """A grey image of 16 or 32 bits, or of floats, as 8 bits: 0 becomes 0, white 255."""
    level = np.array(picture, np.float32)
    level[~np.isfinite(level)] = 0
    # Files do not define white. By convention it is 1, 255 or 65535 in floats and 65535 in integers.
    whites = (1, 255, 65535) if picture.mode == "F" else (65535,)
    highest = level.max()
    white = next((white for white in whites if highest <= white), highest)
    grey = np.rint(level.clip(0) * (255 / white)).astype(np.uint8)
    if "transparency" in picture.info:
        grey[level == picture.info["transparency"]] = 255
    return Image.fromarray(grey)


def middle(size: tuple[int, int], target: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest central box with the target's proportions; sizes are (width, height)."""
    (width, height), (W, H) = size, target
    box_width, box_height = min(width, height * W / H), min(height, width * H / W)
    # Whole pixels of the scaled image are cut off, so that an image that is not scaled is not blurred.
    left = (width - box_width) * W / box_width // 2 * box_width / W
    top = (height - box_height) * H / box_height // 2 * box_height / H
    return left, top, left + box_width, top + box_height
