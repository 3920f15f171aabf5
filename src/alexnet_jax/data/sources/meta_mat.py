"""Reads a development kit's meta.mat from standard input and prints its synsets as JSON.

This is a separate program, as SciPy's reader may crash its process on a damaged file.
"""

import io
import json
import sys

import numpy as np
from scipy.io import loadmat


def main(year: str) -> None:
    """[[number, id, words], ...] of the synsets that are classes."""
    synsets = np.atleast_1d(loadmat(io.BytesIO(sys.stdin.buffer.read()), squeeze_me=True)["synsets"])
    # The others are inner nodes of WordNet, which have no images of their own.
    leaves = synsets[synsets["num_children"].astype(int) == 0]
    numbers = leaves[f"ILSVRC{year}_ID"].astype(int).tolist()
    print(json.dumps(list(zip(numbers, map(str, leaves["WNID"]), map(str, leaves["words"]), strict=True))))


if __name__ == "__main__":
    main(sys.argv[1])
