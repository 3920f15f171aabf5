"""Parquet files, in the form in which Hugging Face stores image data sets."""

import importlib
import json
import re
from collections.abc import Iterator
from functools import partial
from itertools import accumulate, chain
from pathlib import Path
from typing import IO, Any

from alexnet_jax.config import BadInput, printable
from alexnet_jax.data.sources import source
from alexnet_jax.data.sources.source import Picture, Source

IMAGES = ("image", "img")
LABELS = ("label", "fine_label")
_ROWS = 64  # held at a time


def recognised(src: Path) -> bool:
    return bool(_named(src, "train") or _named(src / "data", "train"))


def find(src: Path, unpacked: Path) -> Source:
    """The images of train-*.parquet and validation-*.parquet (or val or valid; test if there is none of these).

    The files are in SRC or in SRC/data. An image is a row's `image` (or `img`), which is bytes or a struct {bytes,
    path}; its class is the number in `label` (or `fine_label`). The class names come from the files' metadata; without
    it the classes are named by number. A row without bytes is an empty image. The images of each file are unpacked into
    one file. Raises BadInput if pyarrow or one of the files is missing, or if a file is damaged or has other columns.
    """
    folder = src if _named(src, "train") else src / "data"
    train = _named(folder, "train")
    if not train:
        raise BadInput(f"{src} has no train-*.parquet, and {folder} has none either")
    validation = next(filter(None, (_named(folder, name) for name in source.VALIDATION)), [])
    if not validation:
        raise BadInput(f"{folder} has train-*.parquet and no validation-*.parquet; both are needed")
    for files in (train, validation):
        _check_all_there(files)
    names = _class_names(train[0])
    rows = [
        source.unpack(unpacked, [path], partial(_write, path, len(names)))
        for path in source.counting([*train, *validation], f"unpacking {folder}")
    ]
    pictures = sum(len(index["labels"]) for _, index in rows)
    count = len(names) or 1 + max(chain.from_iterable(index["labels"] for _, index in rows), default=0)
    if count > pictures:
        raise BadInput(f"{folder} has {pictures} images and {count} classes; are its labels class numbers?")
    ids = source.numbered(count)
    words = dict(zip(ids, names or map(str, range(count)), strict=True))
    return source.arranged(
        "parquet",
        source.class_names(ids, words),
        chain.from_iterable(_pictures(*row, ids) for row in rows[: len(train)]),
        chain.from_iterable(_pictures(*row, ids) for row in rows[len(train) :]),
    )


def _named(folder: Path, split: str) -> list[Path]:
    return sorted(folder.glob(f"{split}-*.parquet"))


def _check_all_there(files: list[Path]) -> None:
    """The number of files, as in train-00000-of-00294.parquet."""
    parts = [re.search(r"-(\d+)-of-(\d+)", path.name) for path in files]
    for of in {int(part[2]) for part in parts if part}:
        there = {int(part[1]) for part in parts if part and int(part[2]) == of}
        if missing := set(range(of)) - there:
            raise BadInput(
                f"{files[0].parent} has {len(there)} of {of} files {files[0].name.partition('-')[0]}-*.parquet, "
                f"number {min(missing)} is missing; download it, too"
            )


def _pictures(file: str, index: dict[str, Any], ids: list[str]) -> Iterator[Picture]:
    starts = accumulate(index["lengths"], initial=0)
    for name, label, start, length in zip(index["names"], index["labels"], starts, index["lengths"], strict=False):
        yield Picture(f"{ids[label]}/{name}", label, file, start, length)


# ------------------------------------------------------------------------------------------------- one file


def _class_names(path: Path) -> list[str]:
    """The class names in Hugging Face's metadata; empty without such metadata."""
    with _open(path) as file:
        _, label = _columns(path, file)
        try:
            features = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
            return [str(name) for name in features[label]["names"]]
        except (TypeError, KeyError, ValueError):
            return []


def _write(path: Path, classes: int, blob: IO[bytes]) -> dict[str, list[Any]]:
    """Writes a file's images one after the other. {"names": ..., "labels": ..., "lengths": ...}"""
    index: dict[str, list[Any]] = {"names": [], "labels": [], "lengths": []}
    stem = printable(source.from_disk(path.stem))
    for row, (data, name, label) in enumerate(_rows(path)):
        if label is None or label < 0 or (classes and label >= classes):
            allowed = f"0 to {classes - 1}" if classes else "0 or more"
            raise BadInput(f"row {row} of {path} has the label {label}, and labels are {allowed}")
        index["names"].append(printable(source.last_part(name)) or f"{stem}-{row:06}")
        index["labels"].append(label)
        index["lengths"].append(blob.write(data))
    return index


def _rows(path: Path) -> Iterator[tuple[bytes, str, int | None]]:
    """Bytes, name and label of each row; bytes and name are empty if missing."""
    with _open(path) as file:
        image, label = _columns(path, file)
        try:
            for batch in file.iter_batches(_ROWS, columns=[image, label]):
                for picture, number in zip(batch[image].to_pylist(), batch[label].to_pylist(), strict=True):
                    if not isinstance(picture, dict):
                        picture = {"bytes": picture}
                    yield picture["bytes"] or b"", picture.get("path") or "", number
        except (OSError, ValueError, RuntimeError) as error:  # raised by pyarrow
            raise _damaged(path, error) from error


def _open(path: Path) -> Any:
    """A pyarrow.parquet.ParquetFile."""
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise BadInput("reading Parquet files needs pyarrow: pip install 'alexnet-jax[parquet]'") from error
    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError, RuntimeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> BadInput:
    return BadInput(f"{path} cannot be read: {' '.join(str(error).split())}; download it again")


def _columns(path: Path, file: Any) -> tuple[str, str]:
    """The names of the image column and the label column."""
    types = {field.name: str(field.type) for field in file.schema_arrow}
    image, label = (
        next((name for name in names if re.match(kind, types.get(name, ""))), None)
        for names, kind in ((IMAGES, r"(large_)?binary$|struct<(.*, )?bytes: (large_)?binary"), (LABELS, r"u?int\d+$"))
    )
    if not image or not label:
        raise BadInput(
            f"{path} has the columns {', '.join(f'{name} ({kind})' for name, kind in types.items())}; it needs image "
            f"(binary, or a struct of bytes and path) and label (an integer)"
        )
    return image, label
