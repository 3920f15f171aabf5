"""What a directory of pictures is, and where its pictures are."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from alexnet_jax.config import BadInput
from alexnet_jax.data.sources import cifar, folder, idx, ilsvrc, parquet
from alexnet_jax.data.sources.source import Source

Kind = Literal["folder", "ilsvrc", "parquet", "idx", "cifar"]


class _Form(NamedTuple):
    words: str
    recognised: Callable[[Path], bool]


_FORMS: dict[Kind, _Form] = {
    "folder": _Form("folders of pictures (train/CLASS and val/CLASS, or CLASS alone)", folder.recognised),
    "ilsvrc": _Form("the tars of ILSVRC2012 or ILSVRC2010", ilsvrc.recognised),
    "parquet": _Form("Parquet files (train-*.parquet, validation-*.parquet)", parquet.recognised),
    "idx": _Form("IDX files (train-images-idx3-ubyte and so on, or EMNIST's)", idx.recognised),
    "cifar": _Form("CIFAR-10 or CIFAR-100, as the archive or unpacked", cifar.recognised),
}


def find(src: Path, kind: Kind | None, unpacked: Path, fraction: float | None, seed: int) -> Source:
    """The data set in a directory, or in one of CIFAR's archives. Nothing that can be read in place is unpacked.

    A directory is of a kind where it has that kind's files; `kind` says which is meant where it has several. What
    cannot be read in place goes into files in the directory `unpacked`, whole or not at all, and is there the next
    time. `fraction` and `seed` choose the validation pictures of folders that have none of their own. Raises BadInput
    where SRC is nothing of these, or not whole.
    """
    try:
        return _find(src, kind, unpacked, fraction, seed)
    except OSError as error:
        raise BadInput(f"{error.filename or src} cannot be read: {error.strerror or error}") from error


def _find(src: Path, kind: Kind | None, unpacked: Path, fraction: float | None, seed: int) -> Source:
    if src.is_dir():
        kind = kind or _kind(src)
    elif not src.exists():
        raise BadInput(f"there is no directory {src}")
    elif kind in (None, "cifar") and cifar.recognised(src):
        kind = "cifar"
    else:
        raise BadInput(f"{src} is a file and none of CIFAR's archives; give the directory that it is in")
    if kind == "folder":
        return folder.find(src, fraction, seed)
    if fraction is not None:
        raise BadInput(f"{src} has validation pictures of its own ({kind}); leave out --validation-fraction")
    match kind:
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
    # Folders beside the files of another kind may be anything, such as a data directory made of them.
    if len(kinds) > 1 and not (src / "train").is_dir():
        kinds = [kind for kind in kinds if kind != "folder"]
    if not kinds:
        *others, last = (form.words for form in _FORMS.values())
        raise BadInput(f"{src} has no data set in it that is recognised: {', '.join(others)}, or {last}")
    if len(kinds) > 1:
        raise BadInput(f"{src} has data sets of several kinds, {' and '.join(kinds)}; say with --from which is meant")
    return kinds[0]
