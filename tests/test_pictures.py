"""Image files of any kind: which are found, and what pixels they give."""

import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import compress, crc32

import numpy as np
import pytest
from PIL import Image, ImageOps

from alexnet_jax.config import BadInput
from alexnet_jax.data import pictures
from alexnet_jax.data.imagenet import imagenet_classes
from alexnet_jax.data.pictures import Unreadable, find, open_picture

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def save(name: str, picture: Image.Image | np.ndarray, **how: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(path, **how)
        return path

    return save


Save = Callable[..., Path]


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels)).astype(np.uint8)


def smooth(height: int, width: int) -> Image.Image:
    """A few large, soft spots of colour, which JPEG hardly changes."""
    return Image.fromarray(noise(3, 4)).resize((width, height), Image.Resampling.BICUBIC)


def stripes(*colours: tuple[int, int, int], thick: int, long: int) -> np.ndarray:
    """Vertical stripes, the first on the left."""
    return np.broadcast_to(np.repeat(np.array(colours, np.uint8), thick, axis=0), (long, len(colours) * thick, 3))


def assert_near(a: np.ndarray, b: Any, within: int) -> None:
    difference = np.abs(a.astype(int) - np.asarray(b).astype(int))
    assert difference.max() <= within, difference.max()


# --- which files


def test_files_folders_and_patterns_give_each_image_once_and_in_order(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["b.png", "a.JPG", "below/c.gif", "below/deep/d.webp", "e[1].png", "e1.png"]
    for name in names:
        save(name, noise(2, 2))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "talk.pdf").write_text("Pillow writes these but cannot read them")
    (tmp_path / "data.h5").write_text("Pillow only recognises these")
    save(".hidden.png", noise(2, 2))
    save(".thumbnails/a.png", noise(2, 2))
    (tmp_path / "folder.png").mkdir()
    monkeypatch.chdir(tmp_path)

    def found(*arguments: str) -> list[str]:
        return [str(path) for path in find(arguments)]

    assert found(".") == ["a.JPG", "b.png", "below/c.gif", "below/deep/d.webp", "e1.png", "e[1].png"]
    assert found("below/deep", "b.png", "below") == ["below/deep/d.webp", "b.png", "below/c.gif"]
    assert found("b.png", "./b.png", "below/../b.png", str(tmp_path / "b.png")) == ["b.png"]
    assert found("?.*") == ["a.JPG", "b.png"]
    assert found("**/*.webp") == ["below/deep/d.webp"]
    assert found("e[1].png") == ["e[1].png"], "a name that exists is no pattern"
    assert found("e[12].png") == ["e1.png"]
    assert found("bel*") == ["below/c.gif", "below/deep/d.webp"]
    assert found(".thumbnails") == [".thumbnails/a.png"], "a hidden folder can be named"
    assert found("notes.txt") == ["notes.txt"], "a file that is named may have any suffix"
    assert found() == []


def test_an_argument_that_matches_nothing_is_refused(save: Save, tmp_path: Path) -> None:
    good = str(save("good.png", noise(2, 2)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"there is no image .*/gone.png$"):
        find([good, str(tmp_path / "gone.png"), str(tmp_path / "also_gone.png")])
    with pytest.raises(BadInput, match=r"there is no image .*/\*.gif$"):
        find([str(tmp_path / "*.gif")])
    with pytest.raises(BadInput, match=r"there are no images below .*/empty$"):
        find([str(tmp_path / "empty"), good])


# --- orientation


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("square", ["crop", "warp"])
def test_every_orientation_gives_the_same_picture(save: Save, kind: str, square: Any) -> None:
    """If it is stored turned or mirrored and a tag says so."""
    upright = smooth(48, 80)
    stored = {
        1: upright,
        2: ImageOps.mirror(upright),
        3: upright.rotate(180),
        4: ImageOps.flip(upright),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.rotate(90, expand=True),  # 6: to be turned 90 degrees clockwise
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.rotate(-90, expand=True),
    }
    how = {"lossless": True} if kind == "webp" else {"quality": 95} if kind == "jpg" else {}
    expected = open_picture(save("upright.png", upright), (32, 40, 3), square)
    if square == "warp":
        assert_near(expected, upright.resize((40, 32), Image.Resampling.BICUBIC), 0)
    for orientation, picture in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = save(f"{orientation}.{kind}", picture, exif=exif, **how)
        assert_near(open_picture(path, (32, 40, 3), square), expected, 6 if kind == "jpg" else 0)


@pytest.mark.parametrize("exif", [b"II*\0 this is no directory of tags", b"MM\0\0 this is no header"])
def test_damaged_exif_does_not_affect_the_pixels(save: Save, exif: bytes) -> None:
    path = save("a.png", noise(8, 8), exif=b"Exif\0\0" + exif)
    np.testing.assert_array_equal(open_picture(path, (8, 8, 3), "crop"), noise(8, 8))


# --- modes


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_of_the_right_shape_is_unchanged(save: Save, channels: int) -> None:
    picture = noise(9, 7, channels)
    path = save("a.png", picture[:, :, 0] if channels == 1 else picture)
    for square in ("crop", "warp"):
        out = open_picture(path, (9, 7, channels), square)
        assert (out.dtype, out.flags.writeable) == (np.uint8, True)
        np.testing.assert_array_equal(out, picture)


def test_grey_and_colour_are_converted_to_each_other(save: Save) -> None:
    red, green, blue = noise(6, 6).astype(float).transpose(2, 0, 1)
    grey = open_picture(save("colour.png", noise(6, 6)), (6, 6, 1), "crop")
    assert_near(grey[:, :, 0], 0.299 * red + 0.587 * green + 0.114 * blue, 1)
    colour = open_picture(save("grey.png", grey[:, :, 0]), (6, 6, 3), "crop")
    np.testing.assert_array_equal(colour, np.repeat(grey, 3, axis=2))


def test_one_bit_becomes_black_and_white(save: Save) -> None:
    bits = np.random.default_rng(0).random((5, 5)) < 0.5
    out = open_picture(save("a.png", Image.fromarray(bits)), (5, 5, 1), "crop")
    np.testing.assert_array_equal(out[:, :, 0], 255 * bits)


@pytest.mark.parametrize(
    ("name", "kind", "white"),
    [
        ("a.png", np.uint16, 65535),
        ("a.tif", np.uint16, 65535),
        ("a.pgm", np.uint16, 65535),
        ("32bit.tif", np.int32, 65535),
        ("beyond.tif", np.int32, 2**24),
        ("unit.tif", np.float32, 1),
        ("byte.tif", np.float32, 255),
        ("word.tif", np.float32, 65535),
    ],
)
def test_more_than_eight_bits_are_scaled(save: Save, name: str, kind: Any, white: int) -> None:
    ramp = np.linspace(0, white, 256 * 4).reshape(32, 32)
    for channels in (1, 3):
        out = open_picture(save(name, ramp.astype(kind)), (32, 32, channels), "crop")
        assert_near(out, np.repeat(ramp[:, :, None] * 255 / white, channels, axis=2).round(), 1)
    assert (out.min(), out.max()) == (0, 255)


def test_floats_that_are_not_finite_are_black(save: Save) -> None:
    path = save("a.tif", np.array([[np.nan, np.inf], [-1, 1]], np.float32))
    np.testing.assert_array_equal(open_picture(path, (2, 2, 1), "crop")[:, :, 0], [[0, 0], [0, 255]])


def test_sixteen_bits_per_colour_are_scaled(save: Save, tmp_path: Path) -> None:
    """Pillow cannot write such a file, so this test makes a PPM by hand."""
    values = np.random.default_rng(0).integers(0, 65536, (4, 5, 3))
    path = tmp_path / "a.ppm"
    path.write_bytes(b"P6 5 4 65535\n" + values.astype(">u2").tobytes())
    assert_near(open_picture(path, (4, 5, 3), "crop"), values / 257, 1)


def test_transparent_pixels_become_white(save: Save) -> None:
    colours = np.array([[RED, RED, RED, BLUE]], np.uint8)
    alpha = np.array([[255, 0, 128, 0]], np.uint8)
    shown = [RED, WHITE, (255, 127, 127), WHITE]

    def see(path: Path) -> np.ndarray:
        return open_picture(path, (1, 4, 3), "crop")[0]

    assert_near(see(save("rgba.png", np.dstack([colours, alpha]))), shown, 1)
    grey = np.array([[0, 0, 100, 100]], np.uint8)
    la = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)])
    assert_near(see(save("la.png", la))[:, 0], [0, 255, 177, 255], 1)
    palette = Image.fromarray(np.array([[0, 1, 2, 3]], np.uint8))
    palette.putpalette([*RED, *RED, *RED, *BLUE])
    assert_near(see(save("opaque.png", palette)), colours[0], 0)
    assert_near(see(save("bytes.png", palette, transparency=bytes(alpha[0].tolist()))), shown, 1)
    assert_near(see(save("index.png", palette, transparency=3)), [RED, RED, RED, WHITE], 0)
    assert_near(see(save("index.gif", palette, transparency=3)), [RED, RED, RED, WHITE], 0)
    assert_near(see(save("colour.png", colours, transparency=BLUE)), [RED, RED, RED, WHITE], 0)
    assert_near(see(save("level.png", grey, transparency=100))[:, 0], [0, 0, 255, 255], 0)
    bits = Image.fromarray(grey > 0)
    assert_near(see(save("bit.png", bits, transparency=0))[:, 0], [255, 255, 255, 255], 0)
    assert_near(see(save("word.png", grey.astype(np.uint16) * 257, transparency=25700))[:, 0], [0, 0, 255, 255], 0)


def test_scaling_leaves_no_fringe_around_transparency(save: Save) -> None:
    """Hidden black next to opaque white must not shine through."""
    hidden = np.zeros((64, 64, 4), np.uint8)
    hidden[:, 32:] = 255
    assert (open_picture(save("a.png", hidden), (7, 7, 3), "crop") == 255).all()


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "L", "RGB"])
def test_jpegs_of_every_mode_are_read(save: Save, mode: str) -> None:
    picture = smooth(40, 40)
    path = save("a.jpg", picture.convert(mode), quality=95)
    with Image.open(path) as stored:
        assert stored.mode == {"YCbCr": "RGB"}.get(mode, mode)
    expected = picture.convert("L").convert("RGB") if mode == "L" else picture
    assert_near(open_picture(path, (40, 40, 3), "crop"), expected, 12)
    assert_near(open_picture(path, (40, 40, 1), "crop")[:, :, 0], expected.convert("L"), 8)


def test_tiffs_in_other_colour_spaces_are_read(save: Save) -> None:
    picture = smooth(40, 40)
    for mode in ("CMYK", "YCbCr"):
        assert_near(open_picture(save("a.tif", picture.convert(mode)), (40, 40, 3), "crop"), picture, 3)


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tif"])
def test_only_the_first_frame_is_read(save: Save, kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    path = save(f"a.{kind}", frames[0], save_all=True, append_images=frames[1:])
    assert_near(open_picture(path, (8, 8, 3), "crop"), np.broadcast_to(RED, (8, 8, 3)), 3)


# --- geometry


def test_crop_keeps_the_middle_and_its_proportions(save: Save) -> None:
    wide = stripes(RED, GREEN, BLUE, thick=40, long=40)
    for picture in (wide, wide.transpose(1, 0, 2)):
        out = open_picture(save("a.png", picture), (10, 10, 3), "crop")
        assert_near(out[3:7, 3:7], np.broadcast_to(GREEN, (4, 4, 3)), 0)
        assert_near(out.mean(axis=(0, 1)), GREEN, 12)
    # 120 x 40 to 20 wide and 10 high: it is scaled to 30 x 10 and loses five pixels on either side.
    out = open_picture(save("a.png", wide), (10, 20, 3), "crop")
    assert_near(out[5, [0, 3, 7, 12, 16, 19]], [RED, RED, GREEN, GREEN, BLUE, BLUE], 0)


def test_crop_is_the_middle_of_the_scaled_picture(save: Save) -> None:
    """As in section 2: first scaled, then cut. If the remainder is odd, the left side loses less."""
    for height, width in [(40, 90), (90, 40), (40, 84)]:
        picture = smooth(height, width)
        scaled = picture.resize((width // 2, height // 2), Image.Resampling.BICUBIC)
        left, top = (scaled.width - 20) // 2, (scaled.height - 20) // 2
        out = open_picture(save("a.png", picture), (20, 20, 3), "crop")
        assert_near(out, scaled.crop((left, top, left + 20, top + 20)), 0)


def test_crop_without_scaling_only_cuts(save: Save) -> None:
    picture = noise(8, 13)
    np.testing.assert_array_equal(open_picture(save("a.png", picture), (8, 8, 3), "crop"), picture[:, 2:10])


def test_warp_keeps_the_whole_image(save: Save) -> None:
    wide = stripes(RED, GREEN, BLUE, thick=40, long=40)
    out = open_picture(save("a.png", wide), (12, 12, 3), "warp")
    assert_near(out[:, [1, 5, 6, 10]], np.broadcast_to([RED, GREEN, GREEN, BLUE], (12, 4, 3)), 0)
    out = open_picture(save("a.png", wide.transpose(1, 0, 2)), (12, 6, 3), "warp")
    assert_near(out[[1, 5, 6, 10]], np.broadcast_to(np.array([RED, GREEN, GREEN, BLUE])[:, None], (4, 6, 3)), 0)


def test_shrinking_averages(save: Save) -> None:
    """A fine chequered pattern becomes grey, not a coarser pattern."""
    chequered = (np.indices((400, 400)).sum(axis=0) % 2 * 255).astype(np.uint8)
    for square in ("crop", "warp"):
        assert_near(open_picture(save("a.png", chequered), (32, 32, 1), square), np.full((32, 32, 1), 128), 2)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1), (2, 3), (1, 2)])
@pytest.mark.parametrize("square", ["crop", "warp"])
def test_images_of_extreme_shapes_are_scaled(save: Save, size: tuple[int, int], square: Any) -> None:
    path = save("a.png", Image.new("RGB", size, (10, 20, 30)))
    for shape in ((256, 256, 3), (40, 60, 3)):
        assert_near(open_picture(path, shape, square), np.broadcast_to((10, 20, 30), shape), 0)


@pytest.mark.parametrize("square", ["crop", "warp"])
@pytest.mark.parametrize("size", [(1600, 1200), (1601, 1203), (400, 1600)])
def test_a_jpeg_decoded_at_a_smaller_size_looks_the_same(save: Save, size: tuple[int, int], square: Any) -> None:
    picture = Image.fromarray(noise(12, 16)).resize(size, Image.Resampling.BICUBIC)
    jpeg = save("a.jpg", picture, quality=95)
    with Image.open(jpeg) as whole:
        png = save("a.png", whole)
    assert_near(open_picture(jpeg, (64, 64, 3), square), open_picture(png, (64, 64, 3), square), 3)


# --- what cannot be read


def refusal(path: Path) -> str:
    with pytest.raises(BadInput) as refused:
        open_picture(path, (8, 8, 3), "crop")
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_file_that_cannot_be_read_is_refused_with_its_path(save: Save, tmp_path: Path) -> None:
    assert "there is no image" in refusal(tmp_path / "gone.png")
    assert "is a folder" in refusal(tmp_path)
    (tmp_path / "empty.jpg").write_bytes(b"")
    assert "is empty" in refusal(tmp_path / "empty.jpg")
    (tmp_path / "text.jpg").write_text("no image at all")
    assert "is not an image of a known format" in refusal(tmp_path / "text.jpg")
    # Pillow would run Ghostscript on it.
    assert "is not an image of a known format" in refusal(save("a.eps", noise(4, 4)))
    if os.geteuid():
        locked = save("locked.png", noise(4, 4))
        locked.chmod(0)
        assert refusal(locked).endswith("Permission denied")


@pytest.mark.parametrize("kind", ["jpg", "png", "gif", "webp", "tif", "bmp"])
def test_truncated_files_are_refused(save: Save, kind: str) -> None:
    path = save(f"a.{kind}", noise(50, 50))
    whole = path.read_bytes()
    for part in (len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:part])
        assert "cannot be read: " in refusal(path)
    path.write_bytes(whole[:3])
    refusal(path)


def rewrite_chunk(png: Path, name: bytes, begins: bytes) -> None:
    """Changes the first bytes of a chunk, and its checksum to match."""
    data = bytearray(png.read_bytes())
    start = data.index(name)
    end = start + 4 + int.from_bytes(data[start - 4 : start], "big")
    data[start + 4 : start + 4 + len(begins)] = begins
    data[end : end + 4] = crc32(data[start:end]).to_bytes(4, "big")
    png.write_bytes(data)


@pytest.mark.parametrize("side", [9_500, 30_000])
def test_a_decompression_bomb_is_refused(save: Save, side: int) -> None:
    """Pillow only warns about the smaller one."""
    path = save("bomb.png", Image.new("1", (9, 9)))
    rewrite_chunk(path, b"IHDR", side.to_bytes(4, "big") * 2)
    assert "has more than 89478485 pixels" in refusal(path)


def reason(data: bytes) -> str:
    """Why these bytes are refused."""
    with pytest.raises(Unreadable) as refused:
        pictures.picture(data, (8, 8, 3), "crop")
    words = str(refused.value)
    assert words.isprintable()
    assert words == words.strip() != ""
    return words


def encoded(kind: str, array: np.ndarray, **how: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **how)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000", "ICO", "TGA"])
def test_bytes_give_the_same_pixels_as_a_file(tmp_path: Path, kind: str) -> None:
    data = encoded(kind, noise(20, 30))
    path = tmp_path / "a"
    path.write_bytes(data)
    for square in ("crop", "warp"):
        np.testing.assert_array_equal(pictures.picture(data, (8, 9, 3), square), open_picture(path, (8, 9, 3), square))


def test_reasons_do_not_contain_a_path(save: Save) -> None:
    assert reason(b"") == "empty"
    assert reason(b"no image at all") == "not an image of a known format, or damaged at its beginning"
    assert reason(encoded("PNG", noise(50, 50))[:2000]) == "cannot be read: image file is truncated"
    bomb = save("bomb.png", Image.new("1", (9, 9)))
    for side in (9_500, 30_000):
        rewrite_chunk(bomb, b"IHDR", side.to_bytes(4, "big") * 2)
        assert reason(bomb.read_bytes()) == "more than 89478485 pixels"
    # Pillow quotes the bytes, even line breaks.
    assert reason(b"P6 5 \n\t\x07\x7f 5\n255\n").startswith("cannot be read: ")


@pytest.mark.parametrize("error", [RecursionError("too\ndeep"), OSError(5, "bad\tsector", "/a/path")])
def test_any_error_of_a_decoder_becomes_a_reason(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def load(self: Image.Image) -> None:
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    words = {"RecursionError": "too deep", "OSError": "bad sector"}
    assert reason(encoded("PNG", noise(4, 4))) == f"cannot be read: {words[type(error).__name__]}"


def test_running_out_of_memory_is_not_blamed_on_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(MemoryError):
        pictures.picture(encoded("PNG", noise(4, 4)), (4, 4, 3), "crop")


def test_a_reason_contains_no_memory_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Image.Image) -> None:
        raise ValueError(f"cannot use {io.BytesIO()}")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    assert reason(encoded("PNG", noise(4, 4))) == "cannot be read: cannot use <_io.BytesIO object>"


def test_a_reason_survives_pickling() -> None:
    with pytest.raises(Unreadable) as refused:
        pictures.picture(b"", (8, 8, 3), "crop")
    error = pickle.loads(pickle.dumps(refused.value))
    assert (str(error), error.about(Path("a {b}.png"))) == ("empty", "the image a {b}.png is empty")


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt", b"iCCP"])
def test_a_text_or_a_profile_that_unpacks_to_a_huge_size_is_refused(name: bytes) -> None:
    """64 KB that would become 64 MB."""
    chunk = name + b"Name\0" + {b"iTXt": b"\1\0\0\0"}.get(name, b"\0") + compress(bytes(2**26))
    packed = (len(chunk) - 4).to_bytes(4, "big") + chunk + crc32(chunk).to_bytes(4, "big")
    png = encoded("PNG", noise(4, 4))
    assert "too large" in reason(png[:33] + packed + png[33:])


@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"restart_marker_rows": 1}], ids=str)
def test_a_jpeg_truncated_anywhere_is_refused(how: dict[str, Any]) -> None:
    data = encoded("JPEG", np.asarray(smooth(30, 40)), **how)
    pictures.picture(data, (8, 8, 3), "crop")
    for end in range(len(data)):
        reason(data[:end])


def test_a_png_truncated_anywhere_is_refused_unless_its_pixels_are_whole() -> None:
    """The checksum and the last chunk after the pixels are not needed."""
    data = encoded("PNG", noise(9, 9))
    for end in range(len(data)):
        try:
            read = pictures.picture(data[:end], (9, 9, 3), "crop")
        except Unreadable:
            continue
        assert end > len(data) - 24
        np.testing.assert_array_equal(read, noise(9, 9))


def test_pillow_is_silent(save: Save) -> None:
    """In a new process, because pytest catches warnings before they reach standard error."""
    warns = save("warns.png", noise(4, 4), save_all=True, append_images=[Image.new("RGB", (4, 4))])
    rewrite_chunk(warns, b"acTL", b"\0\0\0\0")  # an animation without frames
    plain = f"from PIL import Image; Image.open({str(warns)!r}).load()"
    assert "Invalid APNG" in run(plain).stderr
    done = run(
        "from pathlib import Path; from alexnet_jax.data.pictures import open_picture; "
        f"print(open_picture(Path({str(warns)!r}), (4, 4, 3), 'crop').shape)"
    )
    assert (done.stdout, done.stderr) == ("(4, 4, 3)\n", "")


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


# --- ImageNet's names


def test_imagenet_has_a_thousand_classes_in_order() -> None:
    classes = imagenet_classes()
    assert len(classes) == len(set(classes)) == 1000
    assert all(name == name.strip() != "" for name in classes)
    known = {0: "tench", 134: "crane bird", 207: "golden retriever", 281: "tabby", 517: "crane", 999: "toilet tissue"}
    assert {number: classes[number] for number in known} == known
