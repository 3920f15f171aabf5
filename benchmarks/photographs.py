"""Makes an image set with the file sizes and layouts of ImageNet from the two photographs in scikit-learn.

python benchmarks/photographs.py DST [--pictures 20000] [--classes 100] [--workers N]

DST/folder/train/n00000001/n00000001_17.JPEG, DST/folder/val/n00000001/ILSVRC2012_val_00000001.JPEG  by class
DST/tars/ILSVRC2012_img_{train,val}.tar, ILSVRC2012_devkit_t12.tar.gz   the same bytes, as ILSVRC-2012 is distributed

The set stands in for ImageNet when the work per image is measured. Three facts about the real training set are known:
it has 1,281,167 files; its tars take 147.9 GB, which is 115 KB per image with the overhead of the tars; and its mean
size is reported as 469x387 or 473x405. Everything else is an assumption: a spread of about 200 pixels in each
direction, mostly 500x375 and similar, qualities of 92 to 97, and mostly subsampled chroma. One count of the real files
found full chroma and quality 96 in most of them (M. Ehrlich, Compression in the ImageNet Dataset, 2021). For that use
--subsampled 0.1; the files have about the same number of bytes. 20,000 images have a mean of 110.5 KB and 475x408
pixels, with standard deviations of 206 and 179.

A class is a place in one of the photographs and a hue. An image of the class is a crop near that place, rotated,
scaled, flipped and lit at random. Noise replaces the detail that enlarging cannot provide. An image depends only on
the seed and its number, not on the number of workers.
"""

import argparse
import functools
import gzip
import io
import multiprocessing
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import scipy.io
from rich.console import Console
from rich.progress import Progress

# Relative frequency; range of the longer side in pixels; range of the shorter side over the longer one.
SIZES = (
    (45, (500, 500), (0.75, 0.75)),
    (21, (500, 500), (0.666, 0.666)),
    (13, (500, 500), (0.5, 1.0)),
    (5, (640, 640), (0.75, 0.75)),
    (15, (110, 450), (0.7, 1.0)),
    (3.9, (800, 1600), (0.667, 0.75)),
    (0.4, (1600, 3200), (0.667, 0.75)),
)
UPRIGHT = 0.25
QUALITIES = (92, 93, 94, 95, 95, 96, 96, 97)
DEVKIT = "ILSVRC2012_devkit_t12"
FIELDS = (
    *("ILSVRC2012_ID", "WNID", "words", "gloss"),
    *("num_children", "children", "wordnet_height", "num_train_images"),
)


@dataclass(frozen=True)
class Work:
    """One image to make."""

    path: Path
    label: int
    seed: tuple[int, int, int]
    """the seed of the set; 0 for training or 1 for validation; the number of the image"""
    subsampled: float


@functools.cache
def photographs() -> list[np.ndarray]:
    from sklearn.datasets import load_sample_images  # of the extra `photographs`; --help works without it

    return [np.ascontiguousarray(image[..., ::-1]) for image in load_sample_images().images]  # OpenCV uses BGR


@functools.cache
def noise() -> np.ndarray:
    """int8 [pixels, 3], standard deviation 16, mostly in brightness. Each image takes its noise from a part of it."""
    rng = np.random.default_rng(0)
    pixels = 3200 * 2400 + 1_000_000
    both = 15 * rng.standard_normal((pixels, 1), np.float32) + 5 * rng.standard_normal((pixels, 3), np.float32)
    return both.clip(-127, 127).astype(np.int8)


def size(rng: np.random.Generator) -> tuple[int, int]:
    """A random width and height."""
    often = np.array([row[0] for row in SIZES])
    _, sides, ratios = SIZES[rng.choice(len(SIZES), p=often / often.sum())]
    longer = round(rng.uniform(*sides))
    shorter = round(longer * rng.uniform(*ratios))
    return (shorter, longer) if rng.random() < UPRIGHT else (longer, shorter)


def picture(label: int, rng: np.random.Generator, subsampled: float) -> tuple[np.ndarray, int, int]:
    """The bytes of a JPEG file, its width and its height."""
    w, h = size(rng)
    photograph = photographs()[label % 2]
    H, W = photograph.shape[:2]
    # Multiples of two irrational numbers spread the classes evenly over places, those of a third over hues.
    place = np.array([W, H]) * (0.2 + 0.6 * np.modf(np.array([0.7549, 0.5698]) * (label + 1))[0])
    hue = 2 * np.pi * (0.618 * label % 1) + rng.normal(0, 0.15)
    scale = rng.uniform(200, 520) / max(w, h)  # pixels of the photograph per pixel of the image
    turn = np.deg2rad(rng.normal(0, 4))
    flip = rng.choice([-1, 1])
    linear = scale * np.array([[np.cos(turn) * flip, -np.sin(turn)], [np.sin(turn) * flip, np.cos(turn)]])
    start = place + rng.normal(0, 30, 2) - linear @ [w / 2, h / 2]
    image = cv2.warpAffine(
        photograph,
        np.column_stack([linear, start]),
        (w, h),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    # A rotation about the grey axis, then a change of light: BGR' = colours BGR + shift.
    axis = np.full((3, 3), 1 / 3)
    across = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    colours = axis + np.cos(hue) * (np.eye(3) - axis) + np.sin(hue) * across
    light = rng.normal(1, 0.12)
    shift = rng.normal(128 * (1 - light), 8) * np.ones(3)
    image = cv2.transform(image, np.column_stack([light * colours, shift]))
    first = rng.integers(len(noise()) - w * h)
    grain = noise()[first : first + w * h].reshape(h, w, 3)
    halved = rng.random() < subsampled
    # Full chroma takes more bytes for the same image, so it gets less noise to reach the same 110 KB.
    image = cv2.addWeighted(image, 1, grain, rng.gamma(4, 1.4 if halved else 0.65) / 16, 0, dtype=cv2.CV_8U)
    if rng.random() < 0.02:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    options = {
        cv2.IMWRITE_JPEG_QUALITY: int(rng.choice(QUALITIES)),
        cv2.IMWRITE_JPEG_PROGRESSIVE: int(rng.random() < 0.03),
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR: (
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if halved else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
        ),
    }
    return cv2.imencode(".jpg", image, [word for option in options.items() for word in option])[1], w, h


def make(work: Work) -> tuple[int, int, int]:
    """Makes the file and returns its bytes, width and height."""
    data, w, h = picture(work.label, np.random.default_rng(work.seed), work.subsampled)
    data.tofile(work.path)
    return len(data), w, h


def tar(members: Iterator[tuple[str, bytes]], path: Path | None = None) -> bytes:
    """Writes a tar to a file, or returns it."""
    buffer = io.BytesIO()
    with tarfile.open(path, "w", fileobj=None if path else buffer, format=tarfile.GNU_FORMAT) as made:
        for name, data in members:
            about = tarfile.TarInfo(name)
            about.size = len(data)
            made.addfile(about, io.BytesIO(data))
    return buffer.getvalue()


def devkit(labels: list[int], identities: np.ndarray, train_images: np.ndarray) -> bytes:
    """The part of the development kit that lists the classes and the class of each validation image.

    As in the real kit, IDs are not in the order of the synsets, and synsets with children come last.
    """
    classes = len(identities)
    leaf = np.zeros((1, 0))
    synsets = [
        (identities[c], wnid(c), f"place {c // 2}, {kind(c)}", f"a place in {kind(c)}.jpg", 0, leaf, 0, train_images[c])
        for c in np.argsort(identities)
    ]
    for c in (0, 1):
        children = np.sort(identities[c::2])[None]
        above = classes + c
        synsets.append((above + 1, wnid(above), kind(c), f"{kind(c)}.jpg", children.size, children, 1, 0))
    table = np.array(synsets, [(field, object) for field in FIELDS])[:, None]
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"synsets": table})
    mat = b"MATLAB 5.0 MAT-file".ljust(116) + buffer.getvalue()[116:]  # SciPy writes the current time there
    truth = "".join(f"{identities[label]}\n" for label in labels).encode()
    data = f"{DEVKIT}/data"
    return gzip.compress(
        tar(iter([(f"{data}/meta.mat", mat), (f"{data}/ILSVRC2012_validation_ground_truth.txt", truth)])), mtime=0
    )


def wnid(label: int) -> str:
    return f"n{label + 1:08d}"


def kind(label: int) -> str:
    return ("china", "flower")[label % 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dst", type=Path, metavar="DST")
    parser.add_argument(
        "--pictures", type=int, default=20_000, help="training images; validation gets a twentieth of that in addition"
    )
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--subsampled", type=float, default=0.8, help="fraction of images with subsampled chroma")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dst, pictures, classes = options.dst, options.pictures, options.classes
    if dst.exists():
        parser.error(f"{dst} already exists; choose another directory or remove it")
    if classes < 2 or pictures < 20 * classes:
        parser.error(
            f"--pictures {pictures} --classes {classes}: at least 2 classes and 20 images per class are needed"
        )
    if options.workers < 1 or not 0 <= options.subsampled <= 1:
        parser.error("--workers must be at least 1, and --subsampled a fraction from 0 to 1")

    began = time.perf_counter()
    incomplete = dst.with_name(dst.name + ".incomplete")
    shutil.rmtree(incomplete, ignore_errors=True)
    train, val, tars = incomplete / "folder" / "train", incomplete / "folder" / "val", incomplete / "tars"
    for directory in [tars, *(split / wnid(label) for split in (train, val) for label in range(classes))]:
        directory.mkdir(parents=True)
    rng = np.random.default_rng(options.seed)
    identities = 1 + rng.permutation(classes)
    labels = (rng.permutation(pictures // 20) % classes).tolist()

    def work(path: Path, label: int, split: int, number: int) -> Work:
        return Work(path, label, (options.seed, split, number), options.subsampled)

    todo = []
    for number in range(pictures):
        label = number % classes
        path = train / wnid(label) / f"{wnid(label)}_{number // classes + 1}.JPEG"
        todo.append(work(path, label, 0, number))
    for number, label in enumerate(labels):
        path = val / wnid(label) / f"ILSVRC2012_val_{number + 1:08d}.JPEG"
        todo.append(work(path, label, 1, number))

    with Progress(console=Console(stderr=True)) as progress:
        # Spawned workers do not inherit OpenCV's threads, and setNumThreads keeps each from starting its own.
        with multiprocessing.get_context("spawn").Pool(options.workers, cv2.setNumThreads, (1,)) as pool:
            made = list(progress.track(pool.imap_unordered(make, todo, 16), len(todo), description="images"))

        def synset(label: int) -> bytes:
            paths = [one.path for one in todo[label:pictures:classes]]
            return tar((path.name, path.read_bytes()) for path in paths)

        of_train = progress.track(range(classes), description="training tar")
        tar(((f"{wnid(label)}.tar", synset(label)) for label in of_train), tars / "ILSVRC2012_img_train.tar")
    tar(((one.path.name, one.path.read_bytes()) for one in todo[pictures:]), tars / "ILSVRC2012_img_val.tar")
    train_images = np.bincount(np.arange(pictures) % classes)
    (tars / f"{DEVKIT}.tar.gz").write_bytes(devkit(labels, identities, train_images))
    incomplete.rename(dst)
    (size, w, h), (_, std_w, std_h) = np.mean(made, axis=0), np.std(made, axis=0)
    print(
        f"{dst}: {pictures} training and {len(labels)} validation images of {classes} classes in "
        f"{time.perf_counter() - began:.0f} s; mean {size / 1000:.1f} KB, {w:.0f}x{h:.0f} pixels "
        f"(standard deviations {std_w:.0f} and {std_h:.0f})"
    )


if __name__ == "__main__":
    main()
