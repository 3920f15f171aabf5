"""A data set as distributed: where each of its images is, and how to read one."""

import errno
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from alexnet_jax.config import BadInput, printable
from alexnet_jax.data.pictures import Unreadable, suffixes

T = TypeVar("T")

GZIP = b"\x1f\x8b"
# Possible names of the validation set; `test` is used if none of the others exists.
VALIDATION = ("validation", "val", "valid", "test")
# Reasons for which a file that holds a single image may be left out of a set.
_UNREADABLE = {
    errno.ENOENT: "there is no such file",
    errno.ENOTDIR: "there is no such file",
    errno.ELOOP: "a link that leads back to itself",
    errno.EACCES: "may not be read: permission denied",
    errno.EPERM: "may not be read: permission denied",
}


class Picture(NamedTuple):
    """One image. ImageNet has 1.28 million, so only this is kept of each."""

    name: str
    """CLASS/FILE, as in n01440764/n01440764_10026.JPEG; no two of a split share it"""
    label: int
    file: str
    """the file that holds its bytes: the image file, a tar, or an unpacked file"""
    start: int
    """the first byte"""
    length: int
    """number of bytes; -1: up to the end of the file"""


@dataclass(frozen=True)
class Source:
    """A data set: the same lists in the same order at any time and on any machine."""

    kind: str
    """folder, ilsvrc, parquet, idx or cifar"""
    classes: list[str]
    """their names in the order of the labels, which is the order of their sorted ids"""
    splits: dict[str, list[Picture]]
    """train, by class and file name; validation, by file name and class (the official order of ILSVRC)"""
    pixels: tuple[int, int, int] | None
    """each image is uint8 [H, W, C] of this shape; None: JPEG, PNG or another encoding"""
    left_out: int = 0
    """how many validation images of its own were left out for training images held out"""


def read(picture: Picture) -> bytes:
    """The bytes of an image. Raises Unreadable if its own file is gone or may not be read.

    Raises BadInput if it cannot be read for another reason, or if a file of many images is gone or truncated.
    """
    if picture.length == 0:
        return b""
    try:
        if picture.length < 0:
            with open(picture.file, "rb", buffering=0) as file:
                return file.readall()
        opened = _opened(picture.file)
        data = os.pread(opened.descriptor, picture.length, picture.start)
    except OSError as error:
        if picture.length < 0 and error.errno in _UNREADABLE:
            raise Unreadable(_UNREADABLE[error.errno], "{path}: {reason}") from error
        raise BadInput(f"{picture.name} in {picture.file} cannot be read: {error.strerror}") from error
    if len(data) < picture.length:
        raise BadInput(f"{picture.file} ends in the middle of {picture.name}; was it changed in the meantime?")
    return data


class _Descriptor:
    """A file open for pread, closed when its last user drops it, so that one thread cannot close another's."""

    def __init__(self, file: str) -> None:
        self.descriptor = os.open(file, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


@lru_cache(32)
def _opened(file: str) -> _Descriptor:
    return _Descriptor(file)


# ------------------------------------------------------------------------------------- for the files beside this one


def hold_out(source: Source, fraction: float, seed: int) -> Source:
    """The Source with `fraction` of each class's training images as its validation images, and no others.

    At least one image of two is held out; which ones depends only on their names and the seed.
    """

    def draw(picture: Picture) -> bytes:
        name = picture.name
        if picture.length < 0:  # its own file's name, which `name` may show escaped
            name = from_disk("/".join(picture.file.split("/")[-1 - name.count("/") :]))
        # Not the draw that orders the training images in prepare, or these would be the first of that order. A shuffle
        # that does not depend on any random generator's version.
        return hashlib.sha256(f"held out/{seed}/{name}".encode(errors="surrogateescape")).digest()

    # Drawn by distinct names, as equal ones would stay together. They become distinct for good in each split.
    classes: dict[int, list[tuple[bytes, Picture]]] = {}
    pictures = source.splits["train"]
    for picture, named in zip(pictures, distinct(list(pictures)), strict=True):
        classes.setdefault(picture.label, []).append((draw(named), picture))
    train: list[Picture] = []
    validation: list[Picture] = []
    for draws in classes.values():
        drawn = [picture for _, picture in sorted(draws)]
        count = min(max(1, round(fraction * len(drawn))), len(drawn) - 1)
        validation += drawn[:count]
        train += drawn[count:]
    divided = arranged(source.kind, source.classes, train, validation, source.pixels)
    return replace(divided, left_out=len(source.splits["validation"]))


def arranged(
    kind: str,
    classes: list[str],
    train: Iterable[Picture],
    validation: Iterable[Picture],
    pixels: tuple[int, int, int] | None = None,
) -> Source:
    """A Source from images in any order."""

    def by_class(picture: Picture) -> tuple[int, str, str, int]:
        return picture.label, picture.name.partition("/")[2], picture.file, picture.start

    def by_file(picture: Picture) -> tuple[str, int, str, int]:
        return picture.name.partition("/")[2], picture.label, picture.file, picture.start

    splits = {"train": sorted(train, key=by_class), "validation": sorted(validation, key=by_file)}
    return Source(kind, classes, splits, pixels)


def distinct(pictures: list[Picture]) -> list[Picture]:
    """The same images. If a name occurs twice, the second becomes `NAME (2)`, and so on."""
    taken = {picture.name for picture in pictures}
    if len(taken) == len(pictures):
        return pictures
    seen: Counter[str] = Counter()
    for place, picture in enumerate(pictures):
        seen[picture.name] += 1
        if seen[picture.name] > 1:
            while (name := f"{picture.name} ({seen[picture.name]})") in taken:
                seen[picture.name] += 1
            taken.add(name)
            pictures[place] = picture._replace(name=name)
    return pictures


def class_names(ids: Sequence[str], words: Mapping[str, str]) -> list[str]:
    """The names of the classes, by default their ids. Equal names get the id added: crane (n02012849)."""
    names = [printable(words.get(id, id)) for id in ids]
    count = Counter(names)
    return [f"{name} ({id})" if count[name] > 1 else name for id, name in zip(ids, names, strict=True)]


def from_disk(name: str) -> str:
    """A file's name as UTF-8, whatever the locale. Invalid bytes stay as surrogates, for `printable`."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def on_disk(name: str) -> str:
    """The inverse of `from_disk`: the name that opens the file."""
    return os.fsdecode(name.encode("utf-8", "surrogateescape"))


def numbered(count: int) -> list[str]:
    """The numbers below `count` as file names that sort like numbers: 00, 01, ..., 99."""
    return [str(number).zfill(len(str(count - 1))) for number in range(count)]


def last_part(path: str) -> str:
    """The file name in a path of another machine. Nothing is ever written under it."""
    return path.replace("\\", "/").rpartition("/")[2]


def is_picture(file_name: str) -> bool:
    """Whether it is an image file, by suffix. Hidden files are not (macOS leaves ._NAME.JPEG beside NAME.JPEG)."""
    return not file_name.startswith(".") and os.path.splitext(file_name)[1].lower() in suffixes()


def counting(items: Sequence[T], what: str) -> Iterable[T]:
    """The items, with a progress bar on a terminal."""
    console = Console(stderr=True)
    return track(items, escape(printable(what)), console=console, transient=True, disable=not console.is_terminal)


def at_most(most: int, file: io.BufferedIOBase) -> bytes:
    """The contents of a file, at most `most` bytes. Reserves no memory for bytes that do not arrive."""
    data = bytearray()
    while len(data) < most and (more := file.read(min(most - len(data), 1 << 20))):
        data += more
    return bytes(data)


def unpack(unpacked: Path, files: Sequence[Path], write: Callable[[IO[bytes]], Any]) -> tuple[str, Any]:
    """A file in the directory `unpacked` that `write` fills, and the JSON value that `write` returns.

    A file that an earlier run made from the same `files` is reused, as it got its name only once it was complete and on
    the disk. Raises BadInput if it cannot be written.
    """
    versions = [(os.path.abspath(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    path = unpacked / f"{files[0].name}.{hashlib.sha256(repr(versions).encode()).hexdigest()[:16]}"
    index = _index(path)
    if index is None:
        unfinished = path.with_name(path.name + ".incomplete")
        try:
            unpacked.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                data = json.dumps(write(file)).encode()
                # The index follows the images in the same file, so that neither exists without the other.
                file.write(data + len(data).to_bytes(8, "little"))
                file.flush()
                os.fsync(file.fileno())
            unfinished.rename(path)
        except OSError as error:
            raise BadInput(
                f"{error.filename or unfinished}: {error.strerror or error}, while unpacking {files[0]}"
            ) from error
        finally:
            unfinished.unlink(missing_ok=True)
        index = json.loads(data)
    return str(path), index


def _index(path: Path) -> Any:
    """The index at the end of an unpacked file; None if there is none or a power cut damaged it."""
    try:
        with path.open("rb") as whole:
            whole.seek(-8, os.SEEK_END)
            length = int.from_bytes(whole.read(8), "little")
            whole.seek(-8 - length, os.SEEK_END)
            return json.loads(whole.read(length))
    except (OSError, ValueError, OverflowError):
        return None
