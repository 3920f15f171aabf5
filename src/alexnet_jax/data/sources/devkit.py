"""The development kit of ILSVRC: which synset each validation picture shows, and what the synsets are called."""

import io
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from scipy.io import loadmat

from alexnet_jax.config import BadInput


class Devkit(NamedTuple):
    words: dict[str, str]
    """of the synsets that are classes: {"n01440764": "tench, Tinca tinca", ...}"""
    validation: list[str]
    """the synset ids of the validation pictures, in the order of their file names"""


def read(path: Path, year: int) -> Devkit:
    """The kit of a year, as the archive or as the folder that it unpacks to.

    Its data/meta.mat numbers the synsets; data/ILSVRC..._validation_ground_truth.txt has such a number for each
    validation picture. Raises BadInput where one of them is missing or damaged.
    """
    names = ("meta.mat", f"ILSVRC{year}_validation_ground_truth.txt")
    files = _in_folder(path, names) if path.is_dir() else _in_archive(path, names)
    for name in names:
        if name not in files:
            raise BadInput(f"{path} has no data/{name}, so it is not the development kit of {year}; get it again")
    try:
        synsets = np.atleast_1d(loadmat(io.BytesIO(files[names[0]]), squeeze_me=True)["synsets"])
        # The others are inner nodes of WordNet, which have no pictures of their own.
        leaves = synsets[synsets["num_children"].astype(int) == 0]
        ids = dict(zip(leaves[f"ILSVRC{year}_ID"].astype(int).tolist(), map(str, leaves["WNID"]), strict=True))
        words = dict(zip(ids.values(), map(str, leaves["words"]), strict=True))
    except Exception as error:  # whatever SciPy makes of damaged bytes, or NumPy of other fields
        raise BadInput(f"{names[0]} in {path} is damaged or not that of {year}; get it again") from error
    truth = files[names[1]].split()
    try:
        return Devkit(words, [ids[int(number)] for number in truth])
    except (ValueError, KeyError):
        raise BadInput(f"{names[1]} in {path} has lines that are no numbers of classes in {names[0]}") from None


def _in_folder(path: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    return {name: (path / "data" / name).read_bytes() for name in names if (path / "data" / name).is_file()}


def _in_archive(path: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    found = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                *_, folder, name = ("", "", *PurePosixPath(member.name).parts)
                if folder == "data" and name in names and (file := archive.extractfile(member)):
                    found[name] = file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise BadInput(f"{path} cannot be read: {error}; get it again") from None
    return found
