"""The fast decoder of ordinary JPEGs agrees with Pillow, and leaves everything else to Pillow."""

import io
from functools import cache
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data import pictures
from alexnet_jax.data.jpeg import fast, products

SHAPE = (256, 256, 3)


@cache
def scene(width: int, height: int) -> Image.Image:
    """Noise at every scale, stronger at larger scales, as in photographs."""
    rng = np.random.default_rng(0)
    total = np.zeros((height, width, 3), np.float32)
    for pixels in (1, 2, 4, 8, 16, 32, 64):
        coarse = rng.normal(0, 5 * pixels**0.4, (-(-height // pixels), -(-width // pixels), 3)).astype(np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return Image.fromarray((total + 128).clip(0, 255).astype(np.uint8))


def jpeg(picture: Image.Image, **how: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", **({"quality": 92} | how))
    return file.getvalue()


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    square = np.mean((a.astype(float) - b.astype(float)) ** 2)
    return float(10 * np.log10(255**2 / square)) if square else float("inf")


def agreement(data: bytes, shape: tuple[int, int, int], square: Any) -> float:
    """In dB. The edges count too, with 3 dB less: a wrong scale shows there first."""
    made, expected = fast(data, shape, square), pictures.picture(data, shape, square)
    assert made is not None
    assert made.flags.writeable
    assert made.flags.c_contiguous
    edges = (np.s_[:9], np.s_[-9:], np.s_[:, :9], np.s_[:, -9:])
    return min(psnr(made, expected), *(psnr(made[edge], expected[edge]) + 3 for edge in edges))


@pytest.mark.parametrize("square", ["crop", "warp"])
@pytest.mark.parametrize(
    ("size", "least"),
    [
        *((size, 51) for size in [(500, 375), (375, 500), (333, 500), (500, 331), (301, 300), (400, 260), (896, 768)]),
        # The decoder shrinks these first.
        *((size, 45) for size in [(1280, 960), (1501, 1003), (900, 1999)]),
    ],
)
def test_shrinks_like_pillow(size: tuple[int, int], least: float, square: Any) -> None:
    data = jpeg(scene(*size))
    for shape in (SHAPE, (256, 256, 1), (221, 251, 3)):
        assert agreement(data, shape, square) > least


@pytest.mark.parametrize("size", [(300, 255), (255, 300), (200, 150), (120, 400), (79, 100), (25, 17), (900, 17)])
def test_enlarges_like_pillow(size: tuple[int, int]) -> None:
    """Roughly: OpenCV's cubic is sharper than Pillow's (a = -0.75, not -0.5), as it was in make-data.py of 2013."""
    for square in ("crop", "warp"):
        assert agreement(jpeg(scene(*size)), SHAPE, square) > 40


@pytest.mark.parametrize("side", [64, 256, 512])
def test_pictures_below_a_sixteenth_of_the_size_are_left_to_pillow(side: int) -> None:
    """For every shorter side up to 40, with longer sides of all proportions."""
    rng, left = np.random.default_rng(side), set()
    for short in range(1, 41):
        for long in (short, *rng.integers(short, 50 * short + 50, 4).tolist()):
            made = fast(jpeg(scene(short, long)), (side, side, 3), "crop")
            assert made is None or made.shape == (side, side, 3)
            left |= {short} if made is None else set()
    assert left == {short for short in range(1, 41) if short * 16 < side}


def test_products_are_exact() -> None:
    rng = np.random.default_rng(0)
    for channels in (1, 3):
        image = rng.integers(0, 256, (61, 47, channels), np.uint8)
        pixels = image.reshape(-1, channels).astype(np.int64)
        np.testing.assert_array_equal(products(image), pixels.T @ pixels)
    white = np.full((256, 256, 3), 255, np.uint8)
    np.testing.assert_array_equal(products(white), np.full((3, 3), 255**2 * 256**2))


@pytest.mark.parametrize("size", [(1800, 300), (300, 1801), (1537, 1301)])
def test_agrees_with_pillow_where_the_decoder_cannot_shrink_enough(size: tuple[int, int]) -> None:
    assert agreement(jpeg(scene(*size)), (43, 43, 3), "warp") > 44


@pytest.mark.parametrize("size", [(256, 256), (257, 256), (256, 300), (701, 256)])
def test_without_scaling_the_pixels_are_pillows(size: tuple[int, int]) -> None:
    data = jpeg(scene(*size))
    np.testing.assert_array_equal(fast(data, SHAPE, "crop"), pictures.picture(data, SHAPE, "crop"))
    grey = fast(data, (256, 256, 1), "crop")
    assert grey is not None
    assert np.abs(grey.astype(int) - pictures.picture(data, (256, 256, 1), "crop")).max() <= 1


@pytest.mark.parametrize(
    "how",
    [
        {"progressive": True},
        {"subsampling": "4:4:4"},
        {"subsampling": "4:2:2"},
        {"quality": 30},
        {"quality": 100},
        {"optimize": True},
        {"restart_marker_rows": 1},
        {"keep_rgb": True},
        {"comment": "Orientation"},
    ],
    ids=str,
)
def test_agrees_with_pillow_on_other_kinds_of_jpeg(how: dict[str, Any]) -> None:
    assert agreement(jpeg(scene(400, 300), **how), SHAPE, "crop") > 50


@pytest.mark.parametrize("channels", [1, 3])
def test_agrees_with_pillow_on_grey_jpegs(channels: int) -> None:
    assert agreement(jpeg(scene(400, 300).convert("L")), (256, 256, channels), "crop") > 50


def rings(side: int) -> Image.Image:
    """Rings around the middle, finer towards the edge: at the end of a row one pixel is black and the next white."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return Image.fromarray(np.rint(127.5 + 127.5 * np.cos(np.pi * (y**2 + x**2) / side)).astype(np.uint8))


@pytest.mark.parametrize("side", [300, 448, 640, 768, 1000])
def test_rings_stay_centred_and_leave_no_aliases(side: int) -> None:
    data = jpeg(rings(side), quality=99)
    made = fast(data, (256, 256, 1), "warp")
    assert made is not None
    made = made[:, :, 0].astype(int)
    for mirrored in (made[::-1], made[:, ::-1], made.T):
        assert np.abs(made - mirrored).max() <= 4
    y, x = np.mgrid[:256, :256] - 127.5
    too_fine = np.hypot(y, x) * (side / 256) ** 2 / side > 0.8  # periods per final pixel; it can show half of one
    expected = pictures.picture(data, (256, 256, 1), "warp")[:, :, 0]
    assert made[too_fine].std() < expected[too_fine].std() + 6


# --- what is left to Pillow


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def xmp(orientation: int) -> bytes:
    return b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>' % orientation


def test_turned_pictures_are_left_to_pillow() -> None:
    picture = scene(400, 300)
    for orientation in range(2, 9):
        assert fast(jpeg(picture, exif=exif(orientation)), SHAPE, "crop") is None
        assert fast(jpeg(picture, xmp=xmp(orientation)), SHAPE, "crop") is None
    # The tag after bytes that look like the start of the pixels, and after fill bytes.
    plain, turned = jpeg(picture, icc_profile=b"\xff\xda" * 9), jpeg(picture, exif=exif(6))
    tables, start = plain.index(b"\xff\xdb"), turned.index(b"\xff\xe1")
    segment = turned[start : start + 2 + int.from_bytes(turned[start + 2 : start + 4], "big")]
    for fill in (b"", b"\xff\xff"):
        data = plain[:tables] + fill + segment + plain[tables:]
        assert fast(data, SHAPE, "crop") is None
        assert fast(data.replace(segment, b""), SHAPE, "crop") is not None


def test_upright_pictures_are_decoded() -> None:
    for how in ({"exif": exif(1)}, {"xmp": xmp(1)}, {"exif": b"Exif\0\0II*\0 this is no directory of tags"}):
        assert agreement(jpeg(scene(400, 300), **how), SHAPE, "crop") > 50


def test_other_files_are_left_to_pillow() -> None:
    picture = scene(400, 300)
    png = io.BytesIO()
    picture.save(png, "PNG")
    for data in (png.getvalue(), jpeg(picture.convert("CMYK")), b"", b"\xff\xd8", b"no picture at all", bytes(999)):
        assert fast(data, SHAPE, "crop") is None


def test_a_decompression_bomb_is_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(scene(400, 300))
    monkeypatch.setattr(pictures, "MOST_PIXELS", 400 * 300)
    assert fast(data, SHAPE, "crop") is not None
    monkeypatch.setattr(pictures, "MOST_PIXELS", 400 * 300 - 1)
    assert fast(data, SHAPE, "crop") is None


@pytest.mark.parametrize("progressive", [False, True])
def test_truncated_jpegs_are_left_to_pillow(progressive: bool) -> None:
    data = jpeg(scene(64, 48), progressive=progressive)
    for end in range(len(data)):
        assert fast(data[:end], (32, 32, 3), "crop") is None
    assert fast(data + b"\0" * 9, (32, 32, 3), "crop") is not None, "bytes after the end of the picture do not matter"


def test_damaged_bytes_never_raise_and_never_give_another_picture() -> None:
    data, rng = jpeg(scene(64, 48), exif=exif(1)), np.random.default_rng(0)
    for _ in range(2000):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 4) % rng.choice([30, 700, len(data)]):
            damaged[at] = rng.integers(256)
        made = fast(bytes(damaged), (32, 32, 3), "crop")
        if made is not None:
            assert psnr(made, pictures.picture(bytes(damaged), (32, 32, 3), "crop")) > 30
