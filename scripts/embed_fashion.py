"""Makes src/alexnet_jax/data/fashion: 10,000 training and 2,000 test pictures of Fashion-MNIST, as many of each class.

apt-get install dataset-fashion-mnist
python scripts/embed_fashion.py
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from alexnet_jax.data import records, writing
from alexnet_jax.data.sources import idx

SOURCE = Path("/usr/share/datasets/fashion-mnist")
CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
LICENCE = """\
These pictures are a part of Fashion-MNIST, https://github.com/zalandoresearch/fashion-mnist

The MIT License (MIT)

Copyright (c) 2017 Zalando SE, https://tech.zalando.com

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def first_of_each_class(name: str, count: int) -> Iterator[tuple[np.ndarray, int]]:
    """In the order of the source, which is random."""
    pictures = idx.read(SOURCE / f"{name}-images-idx3-ubyte.gz", 3)
    labels = idx.read(SOURCE / f"{name}-labels-idx1-ubyte.gz", 1)
    taken = dict.fromkeys(range(len(CLASSES)), 0)
    for picture, label in zip(pictures, labels.tolist(), strict=True):
        if taken[label] < count:
            taken[label] += 1
            yield picture[:, :, None], label


if __name__ == "__main__":
    splits = {records.TRAIN: first_of_each_class("train", 1000), records.VALIDATION: first_of_each_class("t10k", 200)}
    writing.write(records.EMBEDDED, splits, CLASSES, "Fashion-MNIST (Zalando), a part", LICENCE)
