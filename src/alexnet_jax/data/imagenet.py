"""The names of the ILSVRC-2012 classes of ImageNet."""

from pathlib import Path


def imagenet_classes() -> list[str]:
    """The 1000 classes in the order of their sorted synset ids, as Caffe and torchvision number them.

    The names are torchvision's (torchvision/models/_meta.py, BSD 3-Clause). They are WordNet's, shortened, with names
    that would be equal kept apart: crane and crane bird, maillot and maillot tank suit.
    """
    return (Path(__file__).parent / "imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
