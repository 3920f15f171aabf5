"""python -m alexnet_jax.prepare SRC DST: makes a data directory of IDX files (MNIST, Fashion-MNIST)."""

import gzip
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image
from rich.console import Console
from rich.progress import track

from alexnet_jax import command_line
from alexnet_jax.config import BadInput
from alexnet_jax.data import records


@dataclass(frozen=True)
class Options:
    """Makes a data directory of the IDX files in SRC: {train,t10k}-{images-idx3,labels-idx1}-ubyte, .gz or not.

    The pictures of train are the training pictures, those of t10k the validation pictures.
    """

    src: tyro.conf.Positional[Path]
    """directory of the four files"""
    dst: tyro.conf.Positional[Path]
    """data directory to make"""
    classes: tuple[str, ...] = ()
    """names of the classes in the order of their numbers; by default the numbers"""
    size: int | None = None
    """enlarge or shrink the pictures to this height and width"""
    rgb: bool = False
    """store grey pictures as red, green and blue"""


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The uint8 array of an IDX file, gzipped or not. Raises BadInput where it is not one, or is cut short."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path} cannot be read: {error}") from None
    header = 4 + 4 * dimensions
    if len(data) < header or data[:4] != bytes((0, 0, 8, dimensions)):
        raise BadInput(f"{path} is not an IDX file of bytes in {dimensions} dimension(s)")
    shape = struct.unpack(f">{dimensions}I", data[4:header])
    if len(data) - header != np.prod(shape):
        raise BadInput(f"{path} holds {len(data) - header} bytes, its header announces {np.prod(shape)}: get it again")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def find_idx(directory: Path, split: str, kind: str, dimensions: int) -> Path:
    """The file of a split, by any of its usual names."""
    names = [f"{split}-{kind}{mark}idx{dimensions}-ubyte{end}" for mark in "-." for end in ("", ".gz")]
    for name in names:
        if (directory / name).is_file():
            return directory / name
    raise BadInput(f"{directory} has no {names[0]}, with or without .gz")


def prepare() -> None:
    options = command_line.parse(Options)
    if not options.src.is_dir():
        raise BadInput(f"there is no directory {options.src}")
    if options.size is not None and options.size < 1:
        raise BadInput(f"--size {options.size} is not a size; give at least 1")
    arrays = {}
    for split, name in ((records.TRAIN, "train"), (records.VALIDATION, "t10k")):
        pictures_path = find_idx(options.src, name, "images", 3)
        pictures = read_idx(pictures_path, 3)
        labels = read_idx(find_idx(options.src, name, "labels", 1), 1)
        if len(pictures) != len(labels):
            raise BadInput(f"{pictures_path} has {len(pictures)} pictures and there are {len(labels)} labels for them")
        if not len(pictures):
            raise BadInput(f"{pictures_path} has no pictures")
        arrays[split] = pictures, labels
    count = 1 + max(int(labels.max()) for _, labels in arrays.values())
    if options.classes and len(options.classes) != count:
        raise BadInput(
            f"--classes gives {len(options.classes)} names, the labels in {options.src} are 0 to {count - 1}"
        )

    def examples(split: str) -> Iterator[tuple[np.ndarray, int]]:
        pictures, labels = arrays[split]
        console = Console(stderr=True)
        for picture, label in track(zip(pictures, labels, strict=True), split, total=len(labels), console=console):
            yield fit(picture, options.size, options.rgb), int(label)

    classes = options.classes or tuple(map(str, range(count)))
    records.write(options.dst, {split: examples(split) for split in arrays}, classes, str(options.src))
    made = records.Records(options.dst)
    print(
        f"{options.dst}: {made.examples(records.TRAIN)} training and {made.examples(records.VALIDATION)} validation "
        f"pictures of {'x'.join(map(str, made.image_shape))}, {count} classes"
    )


def fit(picture_HW: np.ndarray, size: int | None, rgb: bool) -> np.ndarray:
    """uint8 [H, W, C]"""
    picture = Image.fromarray(picture_HW)
    if size is not None:
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    array = np.asarray(picture.convert("RGB") if rgb else picture)
    return array if array.ndim == 3 else array[:, :, None]


if __name__ == "__main__":
    command_line.main(prepare)
