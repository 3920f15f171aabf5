"""The record format: a directory of ArrayRecord shards and statistics of its training images.

DIR/meta.json                           format, image shape, encoding, class names, counts, colours, checksums
DIR/mean.npy                            mean training image, float32 [H, W, C], scale 0 to 255 (mean and colours are
                                        those of the images before they become JPEGs)
DIR/train-00000-of-00016.array_record   records: msgpack {"image": its bytes, "label": its class, "name": its source}
DIR/validation-00000-of-00001.array_record
DIR/unfinished/                         only until the directory is complete (writing.py)
"""

import hashlib
import io
import json
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import msgpack
import numpy as np
import simplejpeg
from array_record.python.array_record_data_source import ArrayRecordDataSource
from PIL import Image

from alexnet_jax.config import BadInput, check_local
from alexnet_jax.data.augment import Statistics

FORMAT = 2
EMBEDDED = Path(__file__).parent / "fashion"
TRAIN, VALIDATION = "train", "validation"
UNFINISHED, PLAN = "unfinished", "plan.json"

Encoding = Literal["jpeg", "png", "raw"]

_AGAIN = "remove the directory and prepare it again"

# A split that is no larger than this when decoded is decoded once and kept.
_KEPT_BYTES = 1 << 30
# Images no larger than this decode faster in one thread.
_SMALL_BYTES = 1 << 14


class Records:
    """A prepared set of images, opened for reading.

    Raises BadInput if the directory is missing, incomplete or not in this format.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._kept: dict[str, dict[str, np.ndarray]] = {}
        check_local(directory)
        if not directory.is_dir():
            raise BadInput(f"there is no data directory {directory}; make one with python -m alexnet_jax.prepare")
        if not (directory / "meta.json").exists() and (directory / UNFINISHED).is_dir():
            raise BadInput(_unfinished(directory))
        try:
            self.meta: dict[str, Any] = json.loads((directory / "meta.json").read_text())
            version = self.meta["format"]
            if version == FORMAT:
                parts = ("files", "splits", "classes", "image_shape", "encoding", "colour", "checksum")
                _ = [self.meta[part] for part in parts]
        except FileNotFoundError:
            raise BadInput(
                f"{directory} has no meta.json, so it is not a prepared data directory; "
                f"make one with python -m alexnet_jax.prepare SRC DST"
            ) from None
        except (ValueError, TypeError, KeyError):
            raise BadInput(f"{directory}/meta.json was not written by alexnet_jax.prepare; {_AGAIN}") from None
        if version != FORMAT:
            raise BadInput(f"{directory} is in format {version}, and this version reads format {FORMAT}; {_AGAIN}")
        if self.meta["checksum"] != checksum(self.meta):
            raise BadInput(f"{directory}/meta.json is damaged, its checksum is wrong; {_AGAIN}")
        for name, file in self.meta["files"].items():
            path = directory / name
            found = path.stat().st_size if path.exists() else 0
            if found != file["bytes"]:
                raise BadInput(f"{path} has {found} bytes instead of {file['bytes']}; {_AGAIN}")

    def __reduce__(self) -> tuple[Any, ...]:
        return Records, (self.directory,)  # a worker process opens the files itself

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)"""
        H, W, C = self.meta["image_shape"]
        return H, W, C

    @property
    def classes(self) -> list[str]:
        return self.meta["classes"]

    @property
    def fingerprint(self) -> str:
        """Changes if any byte of any file changes."""
        return hashlib.sha256(json.dumps(self.meta["files"], sort_keys=True).encode()).hexdigest()

    @cached_property
    def statistics(self) -> Statistics:
        """Statistics of the training images."""
        colour = self.meta["colour"]
        return Statistics(
            np.load(self.directory / "mean.npy"),
            np.array(colour["stdevs"], np.float32),
            np.array(colour["components"], np.float32),
        )

    def examples(self, split: str) -> int:
        return self.meta["splits"][split]["examples"]

    def gather(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        """{"image": uint8 [B, H, W, C], "label": int32 [B]} of the records with these indices."""
        if self.examples(split) * np.prod(self.image_shape) <= _KEPT_BYTES:
            if split not in self._kept:
                self._kept[split] = self._read_whole(split)
            return {name: array[indices] for name, array in self._kept[split].items()}
        return self._read(split, indices)

    def _read_whole(self, split: str) -> dict[str, np.ndarray]:
        for name, file in self.meta["files"].items():  # checking a set this small takes no time
            if sha256(self.directory / name) != file["sha256"]:
                raise BadInput(f"{self.directory / name} is damaged, its checksum is wrong; {_AGAIN}")
        return self._read(split, np.arange(self.examples(split)))

    @cached_property
    def _sources(self) -> dict[str, ArrayRecordDataSource]:
        return {
            split: ArrayRecordDataSource([str(self.directory / shard) for shard in about["shards"]])
            for split, about in self.meta["splits"].items()
        }

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(cores(), "decode")  # decoding releases Python's lock

    def _read(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        images = np.empty((len(indices), *self.image_shape), np.uint8)
        source, encoding = self._sources[split], self.meta["encoding"]

        def place(index: int, image_HWC: np.ndarray) -> int:
            try:
                example = msgpack.unpackb(source[index])
                decode_into(image_HWC, example["image"], encoding)
            except (OSError, RuntimeError, ValueError) as error:  # raised by ArrayRecord, msgpack and the decoders
                raise BadInput(
                    f"record {index} of {self.directory}/{split}-* cannot be read: {error}; "
                    f"python -m alexnet_jax.prepare --verify {self.directory} says what else is damaged"
                ) from error
            return example["label"]

        # With small images the threads mostly wait for Python's lock.
        each = self._threads.map if math.prod(self.image_shape) > _SMALL_BYTES else map
        labels = list(each(place, indices.tolist(), images))
        return {"image": images, "label": np.array(labels, np.int32)}


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _unfinished(directory: Path) -> str:
    """The message about a directory that prepare has not finished."""
    plan = read_plan(directory)
    if "shards" not in plan:
        return f"{directory} is incomplete; repeat the python -m alexnet_jax.prepare command that began it"
    done = sum(1 for _ in (directory / UNFINISHED).glob("*.npz"))
    return (
        f"{directory} is incomplete, with {done} of its {plan['shards']} shards; continue with "
        f"python -m alexnet_jax.prepare {plan['command']}"
    )


def read_plan(directory: Path) -> dict[str, Any]:
    """The contents of unfinished/plan.json (data/claim.py); empty if it is missing or damaged."""
    try:
        plan: dict[str, Any] = json.loads((directory / UNFINISHED / PLAN).read_text(encoding="utf-8"))
        return plan if "asked" in plan else {}
    except (OSError, ValueError, TypeError):
        return {}


def read_first(
    shards: Sequence[Path], count: int, shape: tuple[int, int, int], encoding: Encoding
) -> tuple[np.ndarray, list[int]]:
    """uint8 [count, H, W, C] and labels of the first records of these files, or of all if there are fewer."""
    source = ArrayRecordDataSource([str(shard) for shard in shards])
    examples = [msgpack.unpackb(source[index]) for index in range(min(count, len(source)))]
    images = np.empty((len(examples), *shape), np.uint8)
    for image_HWC, example in zip(images, examples, strict=True):
        decode_into(image_HWC, example["image"], encoding)
    return images, [example["label"] for example in examples]


def checksum(meta: dict[str, Any]) -> str:
    """SHA-256 of everything in meta.json except this checksum."""
    rest = {name: value for name, value in meta.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def decode_into(image_HWC: np.ndarray, data: bytes, encoding: Encoding) -> None:
    """Decodes a record's image. Raises ValueError or OSError if it is damaged or has another shape."""
    if encoding == "raw":
        image_HWC[:] = np.frombuffer(data, np.uint8).reshape(image_HWC.shape)
    elif encoding == "jpeg":
        H, W, C = image_HWC.shape
        if simplejpeg.decode_jpeg_header(data)[:2] != (H, W):
            raise ValueError("an image has another shape")
        simplejpeg.decode_jpeg(data, "RGB" if C == 3 else "GRAY", buffer=image_HWC)
    else:
        picture = np.asarray(Image.open(io.BytesIO(data)))
        image_HWC[:] = picture.reshape(image_HWC.shape)


def encode(image_HWC: np.ndarray, encoding: Encoding) -> bytes | memoryview:
    """The bytes of a record's image: bare pixels, a PNG (lossless), or a JPEG.

    JPEGs have quality 95, as in make-data.py of 2013 (cuda-convnet2, pyext.h), and chroma at half the resolution.
    """
    C = image_HWC.shape[-1]
    if encoding == "raw":
        return np.ascontiguousarray(image_HWC).data.cast("B")
    if encoding == "jpeg":
        colour = ("RGB", "420") if C == 3 else ("GRAY", "Gray")
        return simplejpeg.encode_jpeg(np.ascontiguousarray(image_HWC), 95, *colour)
    buffer = io.BytesIO()
    Image.fromarray(image_HWC[:, :, 0] if C == 1 else image_HWC).save(buffer, "PNG")
    return buffer.getvalue()
