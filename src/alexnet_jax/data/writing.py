"""Writing the record format, shard by shard, so that an interrupted command continues.

While a set is being made, DIR/unfinished holds plan.json and the statistics of every finished shard (SHARD.npz).
meta.json comes last. Without it the set counts as incomplete.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgpack
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from alexnet_jax.config import BadInput
from alexnet_jax.data import pictures, sources
from alexnet_jax.data.records import FORMAT, TRAIN, UNFINISHED, Encoding, checksum, encode, sha256


@dataclass(frozen=True)
class Part:
    """The contents and statistics of one shard. The statistics are integers, so that sums do not depend on order."""

    file: str
    bytes: int
    sha256: str
    per_class: list[int]
    rejected: list[tuple[str, str]]
    """names of images that could not be read, and why"""
    sum_HWC: np.ndarray
    products_CC: np.ndarray
    """products of the channels, summed over pixels"""

    def save(self, path: Path) -> None:
        about = {name: getattr(self, name) for name in ("file", "bytes", "sha256", "per_class", "rejected")}
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez(file, about=json.dumps(about), sum_HWC=self.sum_HWC, products_CC=self.products_CC)

    @classmethod
    def load(cls, path: Path) -> "Part":
        with np.load(path, allow_pickle=False) as held:
            about = json.loads(str(held["about"]))
            about["rejected"] = [(name, reason) for name, reason in about["rejected"]]
            return cls(**about, sum_HWC=held["sum_HWC"], products_CC=held["products_CC"])


Products = Callable[[np.ndarray], np.ndarray]


def plain_products(image_HWC: np.ndarray) -> np.ndarray:
    """[C, C]: products of the channels, summed over the pixels; integers below 2^53."""
    # Not by BLAS, whose threads would compete with those of other workers.
    planes = [np.ascontiguousarray(image_HWC[..., c], np.float64).ravel() for c in range(image_HWC.shape[-1])]
    return np.array([[np.einsum("i,i->", a, b) for b in planes] for a in planes])


class Shard:
    """A file of records being written. Raises BadInput if images differ in shape."""

    def __init__(self, path: Path, classes: int, encoding: Encoding, products: Products | None = None) -> None:
        self._path, self._encoding, self._products = path, encoding, products or plain_products
        # One record per group, so that an image is read without its neighbours. Images do not compress further.
        self._writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        self._per_class = [0] * classes
        self._sum_HWC, self._products_CC = np.zeros(0, np.uint32), np.zeros(0)  # no image yet

    def add(self, image_HWC: np.ndarray, label: int, name: str | None = None) -> None:
        if not self._sum_HWC.size:
            self._sum_HWC = np.zeros(image_HWC.shape, np.uint32)  # enough for 16 million images
            self._products_CC = np.zeros((image_HWC.shape[-1],) * 2)
        if image_HWC.shape != self._sum_HWC.shape:
            raise BadInput(
                f"an image is {image_HWC.shape}, others are {self._sum_HWC.shape}; all images of a set have one shape"
            )
        named = {} if name is None else {"name": name}
        self._writer.write(msgpack.packb({"image": encode(image_HWC, self._encoding), "label": int(label)} | named))
        self._per_class[label] += 1
        self._sum_HWC += image_HWC
        self._products_CC += self._products(image_HWC)

    def close(self, rejected: Sequence[tuple[str, str]] = ()) -> Part:
        self._writer.close()
        return Part(
            self._path.name,
            self._path.stat().st_size,
            sha256(self._path),
            self._per_class,
            list(rejected),
            self._sum_HWC.astype(np.int64),
            self._products_CC.astype(np.int64),
        )


# ---------------------------------------------------------------------------------------- from a source, in workers


@dataclass(frozen=True)
class How:
    """How each image of a source is stored."""

    shape: tuple[int, int, int]
    """(H, W, C) as stored"""
    square: Literal["crop", "warp"]
    """crop: the shorter side is scaled and the middle cut out (section 2); warp: both sides are scaled (Caffe)"""
    encoding: Encoding
    pixels: tuple[int, int, int] | None
    """(H, W, C) of a source's bare pixels; None for encoded images"""
    classes: tuple[str, ...]

    def functions(self) -> tuple[Callable[[bytes], np.ndarray], Products]:
        """Two functions: an image's bytes to uint8 [H, W, C] (or Unreadable), and the sum of its channels' products."""
        shape, square, pixels = self.shape, self.square, self.pixels
        if pixels:
            return lambda data: pictures.fit(
                np.frombuffer(data, np.uint8).reshape(pixels), shape, square
            ), plain_products
        from alexnet_jax.data import jpeg  # needs OpenCV, which is in an extra

        def image(data: bytes) -> np.ndarray:
            image_HWC = jpeg.fast(data, shape, square)
            return pictures.picture(data, shape, square) if image_HWC is None else image_HWC

        return image, jpeg.products


def shard_name(split: str, number: int, count: int) -> str:
    return f"{split}-{number:05d}-of-{count:05d}.array_record"


def part_of(shard: Path) -> Path:
    """The file with the statistics of a finished shard."""
    return shard.parent / UNFINISHED / f"{shard.name}.npz"


def finished(shard: Path) -> Part | None:
    """The statistics of a finished shard; None if they are missing or belong to another shard."""
    try:
        part = Part.load(part_of(shard))
        return part if shard.stat().st_size == part.bytes else None
    except Exception:  # NumPy and JSON raise many kinds for what a power cut left
        return None


def write_shard(path: Path, wanted: Sequence[sources.Picture], how: How, seen: Callable[[], None]) -> None:
    """Writes one shard, and then its statistics. `seen` is called for each image, and its exceptions end the work.

    Each file replaces an older one by a rename, so that a crash leaves neither half-written, and the statistics exist
    only if the shard does. Raises BadInput if the disk fails.
    """
    rejected = []
    image, products = how.functions()
    try:
        with replacing(path) as partial:
            shard = Shard(partial, len(how.classes), how.encoding, products)
            for picture in wanted:
                seen()
                try:
                    image_HWC = image(sources.read(picture))
                except pictures.Unreadable as error:
                    rejected.append((picture.name, str(error)))
                else:
                    shard.add(image_HWC, picture.label, picture.name)
            made = shard.close(rejected)
        replace(made, file=path.name).save(part_of(path))
    except RuntimeError as error:  # raised by ArrayRecord when the disk is full
        raise _unwritten(path, str(error).split(";")[0]) from error
    except MemoryError as error:
        raise BadInput("there is not enough memory; give fewer --workers, and the same command continues") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file that becomes `path` once it is on the disk; in unfinished/ if that exists."""
    scratch = path.parent / UNFINISHED
    partial = (scratch if scratch.is_dir() else path.parent) / f"{path.name}.{os.getpid()}"
    try:
        yield partial
        _to_disk(partial)
        partial.replace(path)
        _to_disk(path.parent)
    except OSError as error:
        raise _unwritten(path, error.strerror or str(error)) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Flushes a file's bytes or a directory's names to the disk, so that a power cut cannot reorder them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritten(path: Path, reason: str) -> BadInput:
    reason = " ".join(reason.split())
    return BadInput(f"{path} cannot be written: {reason}; once this is fixed, the same command continues")


# -------------------------------------------------------------------------------------------------- the whole set


class Measured(NamedTuple):
    """Statistics of all training images."""

    mean_HWC: np.ndarray
    stdevs_C: np.ndarray
    """standard deviations of the pixels' colours along their principal components"""
    components_CC: np.ndarray
    """those components, one per column"""


def measured(parts: Sequence[Part]) -> Measured:
    """The statistics of all parts together. Raises BadInput if they hold no images, or images of several shapes."""
    parts = [part for part in parts if sum(part.per_class)]
    if not parts:
        raise BadInput("there are no training images")
    shapes = {part.sum_HWC.shape for part in parts}
    if len(shapes) > 1:
        raise BadInput(f"the images of a set have one shape, these have {' and '.join(map(str, sorted(shapes)))}")
    count = sum(sum(part.per_class) for part in parts)
    mean_HWC = reduce(np.add, (part.sum_HWC for part in parts)) / count
    mean_C = mean_HWC.mean(axis=(0, 1))
    squares_CC = reduce(np.add, (part.products_CC for part in parts)) / (count * mean_HWC[..., 0].size)
    variances_C, components_CC = np.linalg.eigh(squares_CC - np.outer(mean_C, mean_C))
    return Measured(mean_HWC.astype(np.float32), np.sqrt(np.maximum(variances_C, 0)), components_CC)


def complete(
    directory: Path, parts: Mapping[str, Sequence[Part]], found: Measured, beside: Sequence[str], about: dict[str, Any]
) -> None:
    """Completes a directory by writing its mean.npy and, last, its meta.json. `parts` describe its shards.

    `beside`: further files in it. `about`: source, encoding, classes and anything else for meta.json.
    """
    with replacing(directory / "mean.npy") as partial, partial.open("wb") as file:
        np.save(file, found.mean_HWC)
    files = {part.file: {"bytes": part.bytes, "sha256": part.sha256} for group in parts.values() for part in group}
    for name in ("mean.npy", *beside):
        path = directory / name
        files[name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    meta = {
        "format": FORMAT,
        **about,
        "image_shape": list(found.mean_HWC.shape),
        "splits": {
            split: {
                "examples": sum(sum(part.per_class) for part in group),
                "per_class": [sum(counts) for counts in zip(*(part.per_class for part in group), strict=True)],
                "shards": [part.file for part in group],
            }
            for split, group in parts.items()
        },
        "colour": {"stdevs": found.stdevs_C.tolist(), "components": found.components_CC.tolist()},
        "files": dict(sorted(files.items())),
    }
    with replacing(directory / "meta.json") as partial:
        partial.write_text(json.dumps(meta | {"checksum": checksum(meta)}, indent=2) + "\n")


def write(
    directory: Path,
    splits: Mapping[str, Iterable[tuple[np.ndarray, int]]],
    classes: Sequence[str],
    source: str,
    licence: str | None = None,
) -> None:
    """Writes `splits` of (image uint8 [H, W, C], label) as a new data directory, one shard per split.

    A rename at the end creates it in one step. An interrupted call leaves DIR.incomplete, which the next one clears.
    Raises BadInput if the directory exists or an image has another shape than the first.
    """
    if directory.exists():
        raise BadInput(f"{directory} already exists; give another directory or remove that one")
    incomplete = directory.with_name(directory.name + ".incomplete")
    shutil.rmtree(incomplete, ignore_errors=True)
    incomplete.mkdir(parents=True)
    parts = {}
    for split, examples in splits.items():
        shard = Shard(incomplete / shard_name(split, 0, 1), len(classes), "png")
        for image_HWC, label in examples:
            shard.add(image_HWC, label)
        parts[split] = [shard.close()]
    if licence is not None:
        (incomplete / "LICENSE").write_text(licence)
    beside = [] if licence is None else ["LICENSE"]
    about = {"source": source, "encoding": "png", "classes": list(classes)}
    complete(incomplete, parts, measured(parts[TRAIN]), beside, about)
    incomplete.rename(directory)
