"""Folders of images: SRC/train/CLASS and SRC/val/CLASS, or SRC/CLASS."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from alexnet_jax.config import BadInput, printable
from alexnet_jax.data.sources.source import (
    VALIDATION,
    Picture,
    Source,
    arranged,
    class_names,
    counting,
    from_disk,
    is_picture,
    on_disk,
)

# Caffe's list of synsets and Kaggle's, with lines like "n01440764 tench, Tinca tinca".
WORDS = ("synset_words.txt", "LOC_synset_mapping.txt")

Files = dict[str, list[str]]  # the images of each class, as paths below the class folder; see from_disk


def recognised(src: Path) -> bool:
    """Whether there are folders with images below them. Stops at the first one found."""
    return src.is_dir() and any(True for folder in _folders(src) for _ in _below(folder, (os.path.realpath(src),)))


def find(src: Path, fraction: float | None, seed: int) -> Source:
    """The images below SRC/train/CLASS and SRC/val/CLASS (or validation or valid; test if there is none of these).

    Without SRC/train, those below SRC/CLASS. Then `fraction` (by default 0.1) of each class is held out for validation,
    at least one image of two; which ones depends only on their names and the seed. An image is a file with an image
    suffix that is not hidden. A broken link counts as an unreadable image. Other links are followed, except to a folder
    that contains them. Anything beside the class folders is ignored. Raises BadInput if a class folder has no images, a
    validation class is missing in training, or a fraction is given for a set that already has a validation split.
    """
    train_folder, validation_folder = _split(src) or (src, src)
    if train_folder == src:
        train, validation = _set_aside(_files(src), 0.1 if fraction is None else fraction, seed)
        if not any(validation.values()):
            raise BadInput(f"each class in {src} has a single image, and none can be held out for validation")
    elif fraction is not None:
        raise BadInput(f"{validation_folder} has the validation images; leave out --validation-fraction")
    else:
        train, validation = _files(train_folder), _files(validation_folder)
        for name in validation:
            if name not in train:
                raise BadInput(
                    f"{validation_folder} has a class {name!r} that {train_folder} does not have; remove it or add it"
                )
    ids = sorted(train)
    return arranged(
        "folder",
        class_names(ids, _words(src)),
        _pictures(train_folder, train, ids),
        _pictures(validation_folder, validation, ids),
    )


def _split(src: Path) -> tuple[Path, Path] | None:
    """The training and validation folders, if both exist; `train` alone could be a class like any other."""
    train, (*usual, test) = src / "train", (src / name for name in VALIDATION)
    if not train.is_dir():
        for folder in (*usual, test):
            if folder.is_dir() and any(_folders(folder)):
                raise BadInput(f"{src} has a folder {folder.name} and no folder train; give one that has both")
        return None
    there = [folder for folder in usual if folder.is_dir()] or [test] * test.is_dir()
    if len(there) > 1:
        raise BadInput(f"{src} has the folders {' and '.join(folder.name for folder in there)}; keep one of them")
    if there:
        return train, there[0]
    if any(_folders(train)):
        raise BadInput(
            f"{src} has a folder train and none of {', '.join(VALIDATION)}; give {train} instead to have a fraction "
            f"of its images held out for validation"
        )
    return None


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(folder: Path) -> Files:
    folders = _folders(folder) if folder.is_dir() else []
    if not folders:
        raise BadInput(f"{folder} has no folders of images; sort its images into one folder per class")
    above = (os.path.realpath(folder), *map(str, Path(os.path.realpath(folder)).parents))
    found = {}
    for path in counting(folders, f"pictures in {folder}"):
        skipped = len(str(path)) + 1
        name = from_disk(path.name)
        found[name] = [from_disk(file[skipped:]) for file in _below(path, above)]
        if not found[name]:
            raise BadInput(f"the class folder {path} has no images; remove it or fill it")
    return found


def _below(folder: Path | str, above: tuple[str, ...]) -> Iterator[str]:
    """The images at any depth, in no particular order. `above`: the real paths of the folders around it."""
    real = os.path.realpath(folder)
    if real in above:  # a link back up
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            leads_nowhere = entry.is_symlink() and not os.path.exists(entry.path)
            if is_picture(entry.name) and (leads_nowhere or entry.is_file()):
                yield entry.path
            elif not leads_nowhere and not entry.name.startswith(".") and entry.is_dir():
                yield from _below(entry.path, (*above, real))


def _set_aside(files: Files, fraction: float, seed: int) -> tuple[Files, Files]:
    if not 0 < fraction < 1:
        raise BadInput(f"--validation-fraction is {fraction:g}; give more than 0 and less than 1")

    def draw(name: str) -> bytes:
        # Not the draw that orders the training images in prepare, or these would be the first of that order.
        return hashlib.sha256(f"held out/{seed}/{name}".encode(errors="surrogateescape")).digest()

    train, validation = {}, {}
    for name, paths in files.items():
        # A shuffle that does not depend on any random generator's version.
        drawn = sorted(paths, key=lambda path: draw(f"{name}/{path}"))
        count = min(max(1, round(fraction * len(drawn))), len(drawn) - 1)
        validation[name], train[name] = drawn[:count], drawn[count:]
    return train, validation


def _pictures(folder: Path, files: Files, ids: list[str]) -> Iterator[Picture]:
    for label, name in enumerate(ids):
        for path in files.get(name, ()):
            yield Picture(printable(f"{name}/{path}"), label, f"{folder}/{on_disk(f'{name}/{path}')}", 0, -1)


def _words(src: Path) -> dict[str, str]:
    """The names of the classes, by folder."""
    for name in WORDS:
        if (src / name).is_file():
            lines = (src / name).read_text(encoding="utf-8", errors="replace").splitlines()
            pairs = (line.split(maxsplit=1) for line in lines)
            return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}
    return {}
