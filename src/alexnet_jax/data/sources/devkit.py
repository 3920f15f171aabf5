"""The development kit of ILSVRC: the synset of each validation image, and the names of the synsets."""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.config import BadInput
from alexnet_jax.data.sources import tar

_LARGEST = 1 << 26  # of a file: ILSVRC's are far smaller
_META_MAT = Path(__file__).with_name("meta_mat.py")


class Devkit(NamedTuple):
    words: dict[str, str]
    """of the synsets that are classes: {"n01440764": "tench, Tinca tinca", ...}"""
    validation: list[str]
    """the synset ids of the validation images, in the order of their file names"""


def read(path: Path, year: int) -> Devkit:
    """The kit of a year, as the archive or its unpacked folder.

    Its data/meta.mat numbers the synsets, and data/ILSVRC..._validation_ground_truth.txt has such a number for each
    validation image. Raises BadInput if one of them is missing or damaged.
    """
    names = ("meta.mat", f"ILSVRC{year}_validation_ground_truth.txt")
    files = _in_folder(path, names) if path.is_dir() else tar.extract(path, names, _LARGEST, folder="data")
    for name in names:
        if name not in files:
            raise BadInput(f"{path} has no data/{name}, so it is not the development kit of {year}; download it again")
    try:
        command = [sys.executable, "-P", str(_META_MAT), str(year)]
        child = subprocess.run(command, input=files[names[0]], capture_output=True, check=True, timeout=60)
        synsets = json.loads(child.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        raise BadInput(f"{names[0]} in {path} is damaged or not from {year}; download it again") from error
    ids = {number: id for number, id, _ in synsets}
    words = {id: words for _, id, words in synsets}
    if not len(ids) == len(words) == len(synsets):
        raise BadInput(f"{names[0]} in {path} has a class number or id twice; download it again")
    truth = files[names[1]].split()
    try:
        return Devkit(words, [ids[int(number)] for number in truth])
    except (ValueError, KeyError):
        raise BadInput(f"{names[1]} in {path} has lines that are not class numbers from {names[0]}") from None


def _in_folder(path: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    files = {name: path / "data" / name for name in names if (path / "data" / name).is_file()}
    for name, file in files.items():
        tar.check_size(name, path, file.stat().st_size, _LARGEST)
    return {name: file.read_bytes() for name, file in files.items()}
