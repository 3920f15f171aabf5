"""Colour pictures out of installed packages, as a folder that `prepare` takes. None of them is in this repository.

apt-get install openclipart-png
python scripts/colour.py clipart /usr/share/openclipart/png data/clipart_pictures

npm install emoji-datasource-google emoji-datasource-twitter
python scripts/colour.py emoji node_modules data/emoji_pictures

clipart: the Open Clip Art Library, public domain; a class for each of its subject folders. Pictures that look alike are
never on both sides of the split. emoji: Google's pictures (Noto, Apache License 2.0) for training and Twitter's
(Twemoji, CC BY 4.0) for testing; a class for each emoji that both have.
"""

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SIDE = 72  # of the pictures that are written; `prepare --size` makes them smaller
LEFT_OUT = ("special", "unsorted")
MOST = 400
"""pictures of a class; some folders have many times as many as others"""
LEAST = 20
"""folders with fewer pictures are no class"""
HELD_OUT = 0.15
LARGE = 20
"""groups of pictures that look alike with more members than this are for training"""
ALIKE = 20
"""differing bits of 256 up to which pictures look alike"""


class Picture(NamedTuple):
    split: str
    label: str
    name: str
    path: Path


def on_white(path: Path) -> Image.Image:
    """A picture on a white square, SIDE pixels high and wide."""
    picture = Image.open(path).convert("RGBA")
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (SIDE, SIDE), "white")
    square.alpha_composite(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
    return square.convert("RGB")


def signs(path: Path) -> np.ndarray:
    """The perceptual hash dHash, as 256 numbers -1 or 1: is a place lighter than the one before?"""
    grey = np.asarray(on_white(path).convert("L").resize((17, 16), Image.Resampling.BOX), np.int32)
    return np.where(np.diff(grey) > 0, 1.0, -1.0).astype(np.float32).ravel()


def groups(paths: list[Path]) -> np.ndarray:
    """A number for each picture, the same for pictures that look alike, or look like others that do."""
    hashes = np.stack([signs(path) for path in paths])
    rows, columns = np.nonzero(hashes @ hashes.T >= 256 - 2 * ALIKE)
    alike = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(paths), len(paths)))
    return connected_components(alike, directed=False)[1]


def clipart(source: Path) -> Iterator[Picture]:
    """Whole groups are shuffled and taken: first for testing, then for training, up to MOST pictures of a class."""
    readable = [path for path in sorted(source.rglob("*.png")) if path.relative_to(source).parts[0] not in LEFT_OUT]
    paths = [path for path in readable if is_whole(path)]
    label_of = {path: path.relative_to(source).parts[0] for path in paths}
    members: dict[int, list[Path]] = defaultdict(list)
    for path, group in zip(paths, groups(paths).tolist(), strict=True):
        members[group].append(path)
    counts = Counter(label_of.values())
    wanted = {label: min(MOST, count) if count >= LEAST else 0 for label, count in counts.items()}
    taken: dict[str, Counter[str]] = {"val": Counter(), "train": Counter()}
    for number in np.random.default_rng(0).permutation(len(members)).tolist():
        first = label_of[members[number][0]]
        held_out = len(members[number]) <= LARGE and taken["val"][first] < HELD_OUT * wanted[first]
        split = "val" if held_out else "train"
        for path in members[number]:
            label = label_of[path]
            if taken["val"][label] + taken["train"][label] < wanted[label]:
                taken[split][label] += 1
                yield Picture(split, label, "-".join(path.relative_to(source).parts[1:]), path)


def is_whole(path: Path) -> bool:
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture.getbbox() is not None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # damaged, or of 200 million pixels
        return False


def emoji(source: Path) -> Iterator[Picture]:
    """Google's pictures of each emoji, skin tones included, for training; Twitter's, without them, for testing."""
    google, twitter = (source / f"emoji-datasource-{style}" / "img" / style / "64" for style in ("google", "twitter"))
    for one in json.loads((source / "emoji-datasource-google" / "emoji.json").read_text()):
        if one["has_img_google"] and one["has_img_twitter"]:
            images = [one["image"], *(tone["image"] for tone in one.get("skin_variations", {}).values())]
            for image in images:
                if (google / image).exists():
                    yield Picture("train", one["short_name"], image, google / image)
            yield Picture("val", one["short_name"], one["image"], twitter / one["image"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=("clipart", "emoji"))
    parser.add_argument("source", type=Path, help="the package's folder of pictures, or node_modules")
    parser.add_argument("folder", type=Path, help="to make, for python -m alexnet_jax.prepare")
    given = parser.parse_args()
    if not given.source.is_dir() or given.folder.exists():
        parser.error(f"{given.source} must be a folder, and {given.folder} must not exist")
    counts: Counter[str] = Counter()
    for picture in {"clipart": clipart, "emoji": emoji}[given.set](given.source):
        there = given.folder / picture.split / picture.label / picture.name
        there.parent.mkdir(parents=True, exist_ok=True)
        on_white(picture.path).save(there)
        counts[picture.split] += 1
    classes = len(list((given.folder / "train").iterdir()))
    print(f"{given.folder}: {counts['train']:,} for training, {counts['val']:,} for testing, {classes} classes")
