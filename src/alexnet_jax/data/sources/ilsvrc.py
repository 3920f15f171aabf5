"""The tars of ILSVRC-2012 and ILSVRC-2010 (ImageNet), as image-net.org distributes them, read in place."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.config import BadInput, printable
from alexnet_jax.data.sources import devkit
from alexnet_jax.data.sources.source import Picture, Source, arranged, class_names, counting, is_picture
from alexnet_jax.data.sources.tar import Member, members


class Release(NamedTuple):
    """The file names of a year."""

    year: int
    train: str
    validation: str
    devkit: tuple[str, ...]


RELEASES = (
    Release(
        2012,
        "ILSVRC2012_img_train.tar",
        "ILSVRC2012_img_val.tar",
        ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12.tar", "ILSVRC2012_devkit_t12"),
    ),
    Release(
        2010,
        "ILSVRC2010_images_train.tar",
        "ILSVRC2010_images_val.tar",
        ("ILSVRC2010_devkit-1.0.tar.gz", "ILSVRC2010_devkit-1.0.tar", "ILSVRC2010_devkit-1.0", "devkit-1.0"),
    ),
)


def recognised(src: Path) -> bool:
    return bool(_releases(src))


def _releases(src: Path) -> list[Release]:
    return [release for release in RELEASES if any(_there(src, tar) for tar in (release.train, release.validation))]


def _there(src: Path, tar: str) -> bool:
    return (src / tar).is_file() or (src / f"{tar}.gz").is_file()


def find(src: Path) -> Source:
    """The images in a directory of three files: the training tar, the validation tar and the development kit.

    The classes are those with a tar in the training tar, so a part of it is enough. Nothing is unpacked. Raises
    BadInput if a file is missing, compressed, damaged or truncated, or if the files do not belong together.
    """
    releases = _releases(src) or [RELEASES[0]]
    if len(releases) > 1:
        raise BadInput(f"{src} has the tars of ILSVRC2012 and of ILSVRC2010; move those of one year elsewhere")
    [release] = releases
    train, validation = _tar(src, release.train), _tar(src, release.validation)
    kits = [src / name for name in release.devkit if (src / name).exists()]
    if not kits:
        raise BadInput(f"{src} has no {release.devkit[0]}, which has the classes of the validation images")
    kit = devkit.read(kits[0], release.year)
    synsets = {
        name[:-4]: member for member in members(train) if (name := member.name).endswith(".tar") and name[0] != "."
    }
    if not synsets:
        raise BadInput(f"{train} contains no tar of a synset (n01440764.tar, ...), so it is not the training tar")
    for synset in synsets:
        if synset not in kit.words:
            raise BadInput(f"{train} has {synset}.tar, a class that {kits[0]} does not have")
    ids = sorted(synsets)
    shown = list(_validation(validation, kit, ids, train))  # first, as the training tar takes a minute
    return arranged("ilsvrc", class_names(ids, kit.words), _train(train, synsets, ids), shown)


def _tar(src: Path, name: str) -> Path:
    path = src / name
    if path.is_file():
        return path
    if (src / f"{name}.gz").is_file():
        raise BadInput(f"{path}.gz is gzipped, so its images cannot be read in place; gunzip it first")
    raise BadInput(f"{src} has no {name}; both training and validation images are needed")


def _train(path: Path, synsets: dict[str, Member], ids: list[str]) -> Iterator[Picture]:
    file = str(path)  # one string for a million images
    for label, synset in enumerate(counting(ids, f"headers of {path.name}")):
        found = [member for member in members(path, synsets[synset]) if is_picture(member.name)]
        if not found:
            raise BadInput(f"{synset}.tar in {path} has no images")
        for name, start, length in found:
            yield Picture(printable(f"{synset}/{name}"), label, file, start, length)


def _validation(path: Path, kit: devkit.Devkit, ids: list[str], train: Path) -> Iterator[Picture]:
    found = sorted(member for member in members(path) if is_picture(member.name))
    if len(found) != len(kit.validation):
        raise BadInput(
            f"{path} has {len(found)} images and the development kit has classes for {len(kit.validation)}; "
            f"they do not belong together"
        )
    labels, file = {synset: label for label, synset in enumerate(ids)}, str(path)
    for (name, start, length), synset in zip(found, kit.validation, strict=True):
        if synset not in labels:
            raise BadInput(f"{name} in {path} shows {synset}, a class without a tar in {train}")
        yield Picture(printable(f"{synset}/{name}"), labels[synset], file, start, length)
