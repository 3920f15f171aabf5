"""Recognises the kind of an image data set and finds its images."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from alexnet_jax.config import BadInput
from alexnet_jax.data.sources import cifar, folder, idx, ilsvrc, parquet
from alexnet_jax.data.sources.source import Source, distinct, hold_out

Kind = Literal["folder", "ilsvrc", "parquet", "idx", "cifar"]


class _Form(NamedTuple):
    words: str
    recognised: Callable[[Path], bool]


_FORMS: dict[Kind, _Form] = {
    "folder": _Form("folders of images (train/CLASS and val/CLASS, or only CLASS)", folder.recognised),
    "ilsvrc": _Form("the tars of ILSVRC2012 or ILSVRC2010", ilsvrc.recognised),
    "parquet": _Form("Parquet files (train-*.parquet, validation-*.parquet)", parquet.recognised),
    "idx": _Form("IDX files (train-images-idx3-ubyte and so on, or EMNIST's)", idx.recognised),
    "cifar": _Form("CIFAR-10 or CIFAR-100, as the archive or unpacked", cifar.recognised),
}


def find(src: Path, kind: Kind | None, unpacked: Path, fraction: float | None, seed: int) -> Source:
    """The data set in a directory, or in one of CIFAR's archives. Nothing that can be read in place is unpacked.

    A directory is of a kind if it has that kind's files; `kind` chooses if it has several. Anything that cannot be read
    in place is unpacked into files in the directory `unpacked`, complete or not at all, and found there the next time.
    With a `fraction`, that part of each class's training images takes the place of the validation images, chosen by
    `seed`; it is 0.1 for folders that have no validation images. Raises BadInput if SRC is none of these, or
    incomplete.
    """
    try:
        source = _find(src, kind, unpacked)
    except OSError as error:
        raise BadInput(f"{error.filename or src} cannot be read: {error.strerror or error}") from error
    if fraction is None and source.kind == "folder" and not source.splits["validation"]:
        fraction = 0.1
    if fraction is not None:
        source = hold_out(source, fraction, seed)
        if not source.splits["validation"]:
            raise BadInput(
                f"each class in {src} has a single image to train on, and none can be held out for validation"
            )
    # Only now: which names occur twice in a split depends on the images held out.
    return replace(source, splits={split: distinct(pictures) for split, pictures in source.splits.items()})


def _find(src: Path, kind: Kind | None, unpacked: Path) -> Source:
    if src.is_dir():
        kind = kind or _kind(src)
    elif not src.exists():
        raise BadInput(f"there is no directory {src}")
    elif kind in (None, "cifar") and cifar.recognised(src):
        kind = "cifar"
    else:
        raise BadInput(f"{src} is a file but not one of CIFAR's archives; give its directory")
    match kind:
        case "folder":
            return folder.find(src)
        case "ilsvrc":
            return ilsvrc.find(src)
        case "parquet":
            return parquet.find(src, unpacked)
        case "idx":
            return idx.find(src, unpacked)
        case "cifar":
            return cifar.find(src, unpacked)


def _kind(src: Path) -> Kind:
    kinds = [kind for kind, form in _FORMS.items() if form.recognised(src)]
    # Folders beside files of another kind may be anything, such as a data directory made from them.
    if len(kinds) > 1 and not (src / "train").is_dir():
        kinds = [kind for kind in kinds if kind != "folder"]
    if not kinds:
        *others, last = (form.words for form in _FORMS.values())
        raise BadInput(f"{src} has no data set that is recognised: {', '.join(others)}, or {last}")
    if len(kinds) > 1:
        raise BadInput(f"{src} has data sets of several kinds, {' and '.join(kinds)}; choose one with --from")
    return kinds[0]
