"""What ImageNet's ILSVRC-2012 classes are called."""

from pathlib import Path


def imagenet_classes() -> list[str]:
    """The 1000 classes in the order of their sorted synset ids, as Caffe and torchvision number them.

    The names are torchvision's (torchvision/models/_meta.py, BSD 3-Clause), which shortened WordNet's and tells apart
    those that would be the same: crane and crane bird, maillot and maillot tank suit.
    """
    return (Path(__file__).parent / "imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
