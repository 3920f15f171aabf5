"""Folders of images: SRC/train/CLASS and SRC/val/CLASS, or SRC/CLASS."""

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


def find(src: Path) -> Source:
    """The images below SRC/train/CLASS and SRC/val/CLASS (or validation or valid; test if there is none of these).

    Without SRC/train, those below SRC/CLASS, all of them for training. An image is a file with an image suffix that is
    not hidden. A broken link counts as an unreadable image. Other links are followed, except to a folder that contains
    them. Anything beside the class folders is ignored. Raises BadInput if a class folder has no images, or a validation
    class is missing in training.
    """
    train_folder, validation_folder = _split(src) or (src, None)
    train = _files(train_folder)
    validation = _files(validation_folder) if validation_folder else {}
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
        _pictures(validation_folder or src, validation, ids),
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
