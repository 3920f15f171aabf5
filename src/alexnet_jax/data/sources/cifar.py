"""CIFAR-10 and CIFAR-100, the binary or the Python version, packed or unpacked."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from alexnet_jax.config import BadInput, printable
from alexnet_jax.data.sources import numpy_pickle, tar
from alexnet_jax.data.sources.source import Picture, Source, arranged, numbered, unpack

PIXELS = (32, 32, 3)
_BYTES = 3072  # of an image
_LARGEST = 1 << 28  # of a file: CIFAR-100's training images are 154 million bytes


class Version(NamedTuple):
    """One of the four ways in which the sets are distributed."""

    archive: str
    folder: str
    train: tuple[str, ...]
    validation: str
    classes: str
    """the file of the classes' names"""

    @property
    def set(self) -> str:
        return "cifar-100" if self.archive.startswith("cifar-100") else "cifar-10"

    @property
    def pickled(self) -> bool:
        return "python" in self.archive

    @property
    def files(self) -> tuple[str, ...]:
        return *self.train, self.validation, self.classes


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
VERSIONS = (
    Version("cifar-10-binary.tar.gz", "cifar-10-batches-bin", tuple(f"{name}.bin" for name in _BATCHES),
            "test_batch.bin", "batches.meta.txt"),
    Version("cifar-10-python.tar.gz", "cifar-10-batches-py", _BATCHES, "test_batch", "batches.meta"),
    Version("cifar-100-binary.tar.gz", "cifar-100-binary", ("train.bin",), "test.bin", "fine_label_names.txt"),
    Version("cifar-100-python.tar.gz", "cifar-100-python", ("train",), "test", "meta"),
)  # fmt: skip


def recognised(src: Path) -> bool:
    return bool(_found(src))


def find(src: Path, unpacked: Path) -> Source:
    """The images of an archive or of its unpacked folder; SRC is one of these or contains one.

    CIFAR-100's labels are the fine ones. Pixels are unpacked into one file, as all versions store the red, green and
    blue planes separately, and apart from its name the Source is the same for all. Raises BadInput if SRC has both
    sets, or if a file is missing, damaged, or a pickle that tries to call something.
    """
    found = _found(src)
    if not found:
        raise BadInput(f"{src} has none of {', '.join(version.archive for version in VERSIONS)}, packed or unpacked")
    if len({version.set for version, _ in found}) > 1:
        raise BadInput(f"{src} has CIFAR-10 and CIFAR-100; give one of {', '.join(str(path) for _, path in found)}")
    version, path = found[0]
    files = [path / name for name in version.files] if path.is_dir() else [path]
    for file in files:
        if not file.is_file():
            raise BadInput(f"{path} has no {file.name}; download {version.archive} again")
    pixels, index = unpack(unpacked, files, lambda blob: _write(version, path, blob))
    classes, train, validation = index["classes"], index["train"], index["validation"]
    return arranged(
        "cifar",
        classes,
        _pictures(classes, train, pixels, 0),
        _pictures(classes, validation, pixels, len(train) * _BYTES),
        PIXELS,
    )


def _found(src: Path) -> list[tuple[Version, Path]]:
    """The versions that SRC is or contains, unpacked ones first."""
    if src.is_file():
        return [(version, src) for version in VERSIONS if version.archive == src.name]
    itself = [(version, src) for version in VERSIONS if _unpacked(version, src)]
    folders = [(version, src / version.folder) for version in VERSIONS if (src / version.folder).is_dir()]
    archives = [(version, src / version.archive) for version in VERSIONS if (src / version.archive).is_file()]
    return itself or folders + archives


def _unpacked(version: Version, src: Path) -> bool:
    """Whether SRC is the version's folder or has the same contents."""
    return src.name == version.folder or all((src / name).is_file() for name in (version.validation, version.classes))


def _pictures(classes: list[str], labels: list[int], file: str, start: int) -> Iterator[Picture]:
    for place, (label, number) in enumerate(zip(labels, numbered(len(labels)), strict=True)):
        yield Picture(f"{classes[label]}/{number}", label, file, start + place * _BYTES, _BYTES)


def _write(version: Version, path: Path, blob: IO[bytes]) -> dict[str, Any]:
    """Writes the pixels of all images to a file. {"classes": names, "train": labels, "validation": labels}"""
    held = _folder(path, version.files) if path.is_dir() else _archive(path, version.files)
    read = _pickled if version.pickled else _binary
    classes = _classes(version, held[version.classes], f"{version.classes} in {path}")
    labels: dict[str, list[int]] = {"train": [], "validation": []}
    for name in (*version.train, version.validation):
        labels_N, planes_NC = read(version.set, held.pop(name), f"{name} in {path}")
        if not len(labels_N) or not 0 <= min(labels_N) <= max(labels_N) < len(classes):
            raise BadInput(
                f"{name} in {path} has no images, or labels outside 0 to {len(classes) - 1}; download it again"
            )
        blob.write(planes_NC.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).tobytes())
        labels["validation" if name == version.validation else "train"] += labels_N
    return {"classes": classes, **labels}


def _folder(path: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    return {name: (path / name).read_bytes() for name in names}


def _archive(path: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    held = tar.extract(path, names, _LARGEST)
    for name in names:
        if name not in held:
            raise BadInput(f"{path} does not contain {name}; download it again")
    return held


def _classes(version: Version, data: bytes, called: str) -> list[str]:
    if version.pickled:
        held = numpy_pickle.loads(data, called)
        names = _entry(held, "fine_label_names" if version.set == "cifar-100" else "label_names", called)
    else:
        names = data.split()
    if not isinstance(names, list) or not all(isinstance(name, bytes | str) for name in names) or not names:
        raise BadInput(f"{called} has no class names; download it again")
    return [printable(name.decode(errors="replace") if isinstance(name, bytes) else name) for name in names]


def _binary(set: str, data: bytes, called: str) -> tuple[list[int], np.ndarray]:
    """Labels and uint8 [N, 3072], the red, green and blue planes, of records that begin with one or two labels."""
    first = 2 if set == "cifar-100" else 1  # CIFAR-100 has a coarse and a fine label
    if len(data) % (first + _BYTES):
        raise BadInput(f"{called} is truncated: {len(data)} bytes for records of {first + _BYTES}; download it again")
    records = np.frombuffer(data, np.uint8).reshape(-1, first + _BYTES)
    return records[:, first - 1].tolist(), records[:, first:]


def _pickled(set: str, data: bytes, called: str) -> tuple[list[int], np.ndarray]:
    """The same for a pickled dict."""
    held = numpy_pickle.loads(data, called)
    labels = _entry(held, "fine_labels" if set == "cifar-100" else "labels", called)
    planes_NC = getattr(_entry(held, "data", called), "numbers", None)
    if (
        not isinstance(labels, list)
        or not all(isinstance(label, int) for label in labels)
        or not isinstance(planes_NC, np.ndarray)
        or planes_NC.shape != (len(labels), _BYTES)
    ):
        raise BadInput(f"{called} does not hold a list of labels and as many 32x32 images; download it again")
    return labels, planes_NC


def _entry(held: Any, name: str, called: str) -> Any:
    """An item of a dict pickled by Python 2, whose keys are bytes, or by Python 3."""
    if not isinstance(held, dict) or not (name in held or name.encode() in held):
        raise BadInput(f"{called} has no {name!r}; download it again")
    return held.get(name.encode(), held.get(name))
