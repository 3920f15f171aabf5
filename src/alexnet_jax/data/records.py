"""The record format: one directory of ArrayRecord shards, and what was measured over its training pictures.

DIR/meta.json                           format, image shape, class names, counts, colours, checksums
DIR/mean.npy                            mean training picture, float32 [H, W, C], scale 0 to 255
DIR/train-00000-of-00001.array_record   records: msgpack {"image": an encoded picture, "label": its class}
DIR/validation-00000-of-00001.array_record
"""

import hashlib
import io
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from alexnet_jax.config import BadInput
from alexnet_jax.data.augment import Statistics

FORMAT = 1
EMBEDDED = Path(__file__).parent / "fashion"
TRAIN, VALIDATION = "train", "validation"

# A set that is no larger than this once decoded is decoded once and kept.
_KEPT_BYTES = 1 << 30


class Records:
    """A prepared set of pictures, opened for reading.

    Raises BadInput where the directory is missing, is not in this format, or is not whole.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        if not directory.is_dir():
            raise BadInput(f"there is no data directory {directory}; make one with python -m alexnet_jax.prepare")
        try:
            self.meta: dict[str, Any] = json.loads((directory / "meta.json").read_text())
            version = self.meta["format"]
            if version == FORMAT:
                _ = [self.meta[part] for part in ("files", "splits", "classes", "image_shape", "colour")]
        except FileNotFoundError:
            raise BadInput(
                f"{directory} has no meta.json, so it is not a prepared data directory; "
                f"make one with python -m alexnet_jax.prepare SRC DST"
            ) from None
        except (ValueError, TypeError, KeyError):
            raise BadInput(
                f"{directory}/meta.json is not the one that alexnet_jax.prepare writes; prepare the data again"
            ) from None
        if version != FORMAT:
            raise BadInput(f"{directory} is in format {version}, this version reads format {FORMAT}; prepare it again")
        for name, file in self.meta["files"].items():
            path = directory / name
            found = path.stat().st_size if path.exists() else 0
            if found != file["bytes"]:
                raise BadInput(f"{path} has {found} bytes instead of {file['bytes']}; prepare the data again")

    def __reduce__(self) -> tuple[Any, ...]:
        return Records, (self.directory,)  # a data worker opens the files itself

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
        """Changes with any byte of any file."""
        return hashlib.sha256(json.dumps(self.meta["files"], sort_keys=True).encode()).hexdigest()

    @cached_property
    def statistics(self) -> Statistics:
        """Of the training pictures."""
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
            kept = self._kept[split]
            return {name: array[indices] for name, array in kept.items()}
        return self._read(split, indices)

    @cached_property
    def _kept(self) -> dict[str, dict[str, np.ndarray]]:
        for name, file in self.meta["files"].items():  # so small a set is checked in no time
            if _sha256(self.directory / name) != file["sha256"]:
                raise BadInput(f"{self.directory / name} is damaged, its checksum is another; prepare the data again")
        return {split: self._read(split, np.arange(self.examples(split))) for split in self.meta["splits"]}

    @cached_property
    def _sources(self) -> dict[str, ArrayRecordDataSource]:
        return {
            split: ArrayRecordDataSource([str(self.directory / shard) for shard in about["shards"]])
            for split, about in self.meta["splits"].items()
        }

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(4, "decode")  # decoding lets go of Python's lock

    def _read(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        try:
            records = self._sources[split].__getitems__([int(index) for index in indices])
            examples = [msgpack.unpackb(record) for record in records]
            images = list(self._threads.map(decode, (example["image"] for example in examples)))
        except (OSError, RuntimeError, ValueError) as error:  # what ArrayRecord, msgpack and Pillow raise
            raise BadInput(f"a record of {self.directory}/{split}-* cannot be read: {error}") from error
        return {
            "image": np.stack(images),
            "label": np.array([example["label"] for example in examples], np.int32),
        }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def decode(encoded: bytes) -> np.ndarray:
    """uint8 [H, W, C]"""
    picture = np.asarray(Image.open(io.BytesIO(encoded)))
    return picture[:, :, None] if picture.ndim == 2 else picture


def encode(picture_HWC: np.ndarray) -> bytes:
    """A PNG, which loses nothing."""
    buffer = io.BytesIO()
    Image.fromarray(picture_HWC[:, :, 0] if picture_HWC.shape[-1] == 1 else picture_HWC).save(buffer, "PNG")
    return buffer.getvalue()


def write(
    directory: Path,
    splits: Mapping[str, Iterable[tuple[np.ndarray, int]]],
    classes: Sequence[str],
    source: str,
    licence: str | None = None,
) -> None:
    """Writes `splits` of (picture uint8 [H, W, C], label) as a new data directory.

    It comes into being whole, at the end, by one rename: what an interrupted call leaves is DIR.incomplete, which
    the next one clears. Raises BadInput where the directory exists or a picture has another shape than the first.
    """
    if directory.exists():
        raise BadInput(f"{directory} exists already; give another directory or remove that one")
    unfinished = directory.with_name(directory.name + ".incomplete")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    measured = _Measured()
    about: dict[str, Any] = {}
    for split, examples in splits.items():
        shard = f"{split}-00000-of-00001.array_record"
        # One record a group: any picture can be read without its neighbours. A PNG does not compress further.
        writer = ArrayRecordWriter(str(unfinished / shard), "group_size:1,uncompressed")
        counts = [0] * len(classes)
        for picture, label in examples:
            measured.see(picture, training=split == TRAIN)
            writer.write(msgpack.packb({"image": encode(picture), "label": int(label)}))
            counts[label] += 1
        writer.close()
        about[split] = {"examples": sum(counts), "per_class": counts, "shards": [shard]}
    mean, stdevs, components = measured.statistics()
    np.save(unfinished / "mean.npy", mean)
    if licence is not None:
        (unfinished / "LICENSE").write_text(licence)
    meta = {
        "format": FORMAT,
        "source": source,
        "encoding": "png",
        "image_shape": list(mean.shape),
        "classes": list(classes),
        "splits": about,
        "colour": {"stdevs": stdevs.tolist(), "components": components.tolist()},
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(unfinished.iterdir())
        },
    }
    (unfinished / "meta.json").write_text(json.dumps(meta, indent=2) + "\n")
    unfinished.rename(directory)


class _Measured:
    """Sums over the training pictures for their mean and the principal components of their colours."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] | None = None
        self.pictures = 0

    def see(self, picture_HWC: np.ndarray, training: bool) -> None:
        if self.shape is None:
            self.shape = picture_HWC.shape
            self.sum_HWC = np.zeros(self.shape, np.int64)
            self.products_CC = np.zeros((self.shape[-1],) * 2)
        if picture_HWC.shape != self.shape:
            raise BadInput(f"a picture is {picture_HWC.shape}, others are {self.shape}; a set has one shape")
        if training:
            self.pictures += 1
            self.sum_HWC += picture_HWC
            colours = picture_HWC.reshape(-1, self.shape[-1]).astype(np.float64)
            self.products_CC += colours.T @ colours

    def statistics(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean picture [H, W, C]; standard deviations [C] along the components [C, C], one a column."""
        if not self.pictures:
            raise BadInput("there are no training pictures")
        mean_HWC = self.sum_HWC / self.pictures
        pixels = self.pictures * mean_HWC[..., 0].size
        mean_C = mean_HWC.mean(axis=(0, 1))
        variances, components = np.linalg.eigh(self.products_CC / pixels - np.outer(mean_C, mean_C))
        return mean_HWC.astype(np.float32), np.sqrt(np.maximum(variances, 0)), components
