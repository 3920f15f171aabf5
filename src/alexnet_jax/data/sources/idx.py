"""IDX files: MNIST, Fashion-MNIST and similar sets, and EMNIST."""

import gzip
import io
import re
import struct
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from alexnet_jax.config import BadInput
from alexnet_jax.data.sources.source import GZIP, Picture, Source, arranged, at_most, class_names, numbered, unpack

MNIST = ("train", "t10k")


class Half(NamedTuple):
    """The training or the validation images: the file that holds them one after the other, and their labels."""

    file: str
    start: int
    shape: tuple[int, int]
    labels_N: np.ndarray


def recognised(src: Path) -> bool:
    return bool(_sets(src))


def find(src: Path, unpacked: Path) -> Source:
    """The images of {train,t10k}-{images-idx3,labels-idx1}-ubyte, or of EMNIST's emnist-NAME-{train,test}-...

    Gzipped files are unpacked first. EMNIST stores its images transposed, which is undone; where its labels start at 1,
    ours start at 0. Raises BadInput if a file is missing, damaged or not an IDX file, or if the files do not belong
    together.
    """
    sets = _sets(src) or [MNIST]
    if len(sets) > 1:
        raise BadInput(
            f"{src} has several sets, of {' and '.join(train for train, _ in sets)}; keep one and move the others away"
        )
    [names] = sets
    emnist = names != MNIST
    train, validation = (_half(src, name, unpacked, exchanged=emnist) for name in names)
    if train.shape != validation.shape:
        sizes = [f"{height}x{width}" for height, width in (train.shape, validation.shape)]
        raise BadInput(f"the images of {names[0]} in {src} are {sizes[0]}, those of {names[1]} {sizes[1]}")
    labels = np.concatenate([train.labels_N, validation.labels_N])
    first = 1 if emnist and labels.min() == 1 else 0
    classes = [str(label) for label in range(first, int(labels.max()) + 1)]
    words = _mapping(src / f"{names[0].removesuffix('-train')}-mapping.txt") if emnist else {}
    return arranged(
        "idx",
        class_names(classes, words),
        _pictures(train, first, len(classes)),
        _pictures(validation, first, len(classes)),
        pixels=(*train.shape, 1),
    )


def _sets(src: Path) -> list[tuple[str, str]]:
    """The sets in a directory, as the prefixes of their training and validation file names."""
    found = [MNIST] if any(_named(src, name, "images", 3) for name in MNIST) else []
    pattern = r"(emnist-\w+)-(train|test)-images[-.]idx3-ubyte(\.gz)?"
    names = {match[1] for path in src.iterdir() if (match := re.fullmatch(pattern, path.name))}
    return found + [(f"{name}-train", f"{name}-test") for name in sorted(names)]


def _named(src: Path, begin: str, kind: str, dimensions: int) -> Path | None:
    """The file under any of its usual names."""
    names = [f"{begin}-{kind}{mark}idx{dimensions}-ubyte{end}" for mark in "-." for end in ("", ".gz")]
    return next((src / name for name in names if (src / name).is_file()), None)


def _half(src: Path, begin: str, unpacked: Path, exchanged: bool) -> Half:
    pictures, labels = (_named(src, begin, kind, dimensions) for kind, dimensions in (("images", 3), ("labels", 1)))
    if not pictures or not labels:
        missing = "labels-idx1" if pictures else "images-idx3"
        raise BadInput(f"{src} has no {begin}-{missing}-ubyte, with or without .gz")
    labels_N = read(labels, 1)

    def write(file: IO[bytes]) -> list[int]:
        stored_NHW = read(pictures, 3)
        for picture_HW in stored_NHW.swapaxes(1, 2) if exchanged else stored_NHW:
            file.write(picture_HW.tobytes())
        return list(stored_NHW.shape)

    if exchanged or _gzipped(pictures):
        file, (count, height, width) = unpack(unpacked, [pictures], write)
        start = 0
    else:
        with pictures.open("rb") as opened:
            count, height, width = _shape(pictures, opened, 3)
        _check_size(pictures, pictures.stat().st_size - 16, (count, height, width))
        file, start = str(pictures), 16
    if count != len(labels_N):
        raise BadInput(f"{pictures} has {count} images and there are {len(labels_N)} labels for them")
    if not count * height * width:
        raise BadInput(f"{pictures} has no images")
    return Half(file, start, (width, height) if exchanged else (height, width), labels_N)


def _pictures(half: Half, first: int, classes: int) -> Iterator[Picture]:
    labels = (half.labels_N.astype(int) - first).tolist()
    ids, files, length = numbered(classes), numbered(len(labels)), prod(half.shape)
    for place, (label, file) in enumerate(zip(labels, files, strict=True)):
        yield Picture(f"{ids[label]}/{file}", label, half.file, half.start + place * length, length)


def _mapping(path: Path) -> dict[str, str]:
    """EMNIST's list of the characters of each label, in ASCII codes: "1 65 97" is "Aa"."""
    if not path.is_file():
        return {}
    try:
        lines = filter(None, map(str.split, path.read_text("ascii").splitlines()))
        return {label: "".join(chr(int(code)) for code in codes) for label, *codes in lines}
    except (ValueError, OverflowError):
        raise BadInput(f"{path} is not a list of labels and ASCII codes; download it again or remove it") from None


def _gzipped(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == GZIP


def read(path: Path, dimensions: int) -> np.ndarray:
    """The uint8 array of an IDX file, gzipped or not. Raises BadInput if it is not one, or is truncated."""
    try:
        with gzip.open(path) if _gzipped(path) else path.open("rb") as file:
            shape = _shape(path, file, dimensions)
            data = at_most(prod(shape) + 1, file)
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path} cannot be read: {error}") from None
    _check_size(path, len(data), shape)
    return np.frombuffer(data, np.uint8).reshape(shape)


def _shape(path: Path, file: io.BufferedIOBase, dimensions: int) -> tuple[int, ...]:
    """The shape in the header, which this reads."""
    size = 4 + 4 * dimensions
    header = file.read(size)
    if len(header) < size or header[:4] != bytes((0, 0, 8, dimensions)):
        raise BadInput(f"{path} is not an IDX file of bytes in {dimensions} dimension(s)")
    return struct.unpack(f">{dimensions}I", header[4:])


def _check_size(path: Path, size: int, shape: tuple[int, ...]) -> None:
    if size != prod(shape):
        held = f"{size} bytes" if size < prod(shape) else "more bytes"
        raise BadInput(f"{path} holds {held}, but its header announces {prod(shape)}; download it again")
