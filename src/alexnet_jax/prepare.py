"""python -m alexnet_jax.prepare SRC DST: makes a data directory from images in any of the usual forms."""

import hashlib
import json
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import jax
import numpy as np
import tyro
from rich import progress
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alexnet_jax import command_line
from alexnet_jax.config import BadInput
from alexnet_jax.data import sources, verify, workers, writing
from alexnet_jax.data.augment import Statistics
from alexnet_jax.data.claim import check_same, claimed, write_plan
from alexnet_jax.data.pictures import Unreadable
from alexnet_jax.data.records import TRAIN, UNFINISHED, VALIDATION, Encoding, Records, read_first, read_plan
from alexnet_jax.data.sheet import PICTURES, sheet
from alexnet_jax.data.writing import How, Part, part_of, shard_name

SIZE = 256  # section 2
# A reader keeps every shard open, and many systems allow a process only 1024 open files.
MOST_SHARDS = 900
MOST_SIZE = 4096


@dataclass(frozen=True)
class Options:
    """Makes the data directory DST from the images in SRC.

    SRC is a folder of train/CLASS/ and val/CLASS/, or of CLASS/ alone; the ILSVRC-2010 or 2012 tars with their
    development kit; Parquet files as on Hugging Face; IDX files (MNIST, Fashion-MNIST, EMNIST); CIFAR-10 or CIFAR-100.
    Images become RGB, their shorter side is scaled to 256, and the central 256x256 is stored (section 2). IDX and CIFAR
    keep their size. An interrupted command continues when repeated, and ends with the same bytes.
    """

    src: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="SRC")] = None
    """directory or archive of images"""
    dst: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="DST")] = None
    """data directory to make"""
    kind: Annotated[sources.Kind | None, tyro.conf.arg(name="from")] = None
    """what SRC is, if it is not recognised"""
    size: int | None = None
    """height and width in pixels to store; by default 256, and for IDX and CIFAR the source's own"""
    square: Literal["crop", "warp"] = "crop"
    """crop: cut out the middle (section 2); warp: scale both sides (Caffe)"""
    rgb: bool = False
    """store grey images of IDX files in three channels"""
    encoding: Encoding | None = None
    """jpeg (quality 95), png (lossless) or raw (fast and large); by default jpeg, and png for IDX and CIFAR"""
    classes: tuple[str, ...] = ()
    """names of the classes in the order of their labels; by default the source's own"""
    first_classes: int | None = None
    """keep only this many classes, the first in the order of their labels; by default all"""
    validation_fraction: float | None = None
    """fraction of each class's training images to hold out for validation; any validation images of SRC are then left
    out. By default 0.1 if SRC has none"""
    seed: int = 0
    """seed for the order of the training images and the choice of those held out"""
    shards: int | None = None
    """number of training files; by default about 4096 images each"""
    workers: int | None = None
    """number of processes; by default one per core"""
    max_rejected: float = 0.01
    """largest fraction of the images that may be unreadable"""
    verify: Path | None = None
    """check this data directory instead of making one"""


def parse_options() -> Options:
    options = command_line.parse(Options)
    if options.verify is not None:
        if options.src is not None:
            raise BadInput("--verify takes a data directory and nothing else: --verify DST")
        return options
    if options.src is None or options.dst is None:
        raise BadInput("give SRC and DST: python -m alexnet_jax.prepare SRC DST; see --help")
    for name, most in (("size", MOST_SIZE), ("shards", MOST_SHARDS), ("workers", None)):
        value = getattr(options, name)
        if value is not None and (value < 1 or (most and value > most)):
            raise BadInput(f"--{name} is {value}; give at least 1{f' and at most {most}' if most else ''}")
    if options.first_classes is not None and options.first_classes < 2:
        raise BadInput(f"--first-classes is {options.first_classes}; give at least 2")
    if options.validation_fraction is not None and not 0 < options.validation_fraction < 1:
        raise BadInput(f"--validation-fraction is {options.validation_fraction:g}; give more than 0 and less than 1")
    if not 0 <= options.max_rejected <= 1:
        raise BadInput(f"--max-rejected is {options.max_rejected}; give a fraction from 0 to 1")
    if not 0 <= options.seed < 2**32:
        raise BadInput(f"--seed is {options.seed}; give at least 0 and less than 2^32")
    if len(set(options.classes)) < len(options.classes) or "" in options.classes:
        raise BadInput("--classes has an empty name or a name twice; give each class a name of its own")
    src, dst = options.src.resolve(), options.dst.resolve()
    if dst.is_relative_to(src):
        raise BadInput(f"{options.dst} lies inside SRC {options.src}; give a DST outside it")
    if not str(dst).isprintable():
        raise BadInput(f"the name of {options.dst} has unprintable characters; give another DST")
    if options.dst.is_symlink() and not options.dst.exists():
        raise BadInput(f"{options.dst} is a link to a directory that does not exist; make it, or give another DST")
    return options


def prepare() -> None:
    options = parse_options()
    if options.verify is not None:
        verify_directory(options.verify)
        return
    jax.config.update("jax_platforms", "cpu")  # the contact sheet needs no accelerator
    src, dst = cast(Path, options.src), cast(Path, options.dst)
    with claimed(dst, asked(options), shlex.join(sys.argv[1:])) as unfinished:
        complete = (dst / "meta.json").exists()
        if complete:
            check_same(dst, Records(dst).meta["prepared"], asked(options), "prepared")
        else:
            make(src, dst, options)
        shutil.rmtree(unfinished, ignore_errors=True)  # before anything is printed, for the reader may have gone
        if complete:
            print(f"{dst} is already complete; nothing is left to do.")
        else:
            summarise(Records(dst))


def make(src: Path, dst: Path, options: Options) -> None:
    """Completes DST from wherever it was left."""
    # The source.
    unpacked = dst / UNFINISHED / "unpacked"
    source = sources.find(src, options.kind, unpacked, options.validation_fraction, options.seed)
    source = first_classes(source, options)
    how = how_to_store(source, options)

    # The shards.
    tasks = plan(source, dst, options)
    missing = [task for task in tasks if is_missing(task, how)]
    pictures = sum(len(task.pictures) for task in tasks)
    print(f"{src}: {pictures:,} images of {len(source.classes)} classes ({source.kind})", flush=True)
    if source.left_out:
        print(
            f"Validation: {len(source.splits[VALIDATION]):,} of the training images; "
            f"the {source.left_out:,} validation images of {src} are left out.", flush=True
        )  # fmt: skip
    with bar(pictures, pictures - sum(len(task.pictures) for task in missing)) as advance:
        workers.write_shards(missing, how, options.workers, advance)

    # The complete directory.
    parts = {split: [Part.load(part_of(task.path)) for task in tasks if task.split == split] for split in source.splits}
    check_rejected(dst, parts, pictures, options.max_rejected)
    write_classes(dst, parts, how.classes)
    found = writing.measured(parts[TRAIN])
    draw_sheet(dst, parts, how, Statistics(*(array.astype(np.float32) for array in found)), options.seed)
    about = {
        "source": str(src.absolute()), "prepared": asked(options), "encoding": how.encoding, "classes": how.classes
    }  # fmt: skip
    writing.complete(dst, parts, found, ("classes.tsv", "rejected.tsv", "sheet.png"), about)


def asked(options: Options) -> dict[str, Any]:
    """The options that decide the bytes of DST, by their names on the command line, as JSON values."""
    return {
        "SRC": str(cast(Path, options.src).absolute()),
        "--from": options.kind,
        "--size": options.size,
        "--square": options.square,
        "--rgb": options.rgb,
        "--encoding": options.encoding,
        "--classes": list(options.classes),
        "--first-classes": options.first_classes,
        "--validation-fraction": options.validation_fraction,
        "--seed": options.seed,
        "--shards": options.shards,
    }


# ------------------------------------------------------------------------------------------------------ what to do


def first_classes(source: sources.Source, options: Options) -> sources.Source:
    """The source without the classes after --first-classes. Raises BadInput if it has fewer."""
    kept, count = options.first_classes, len(source.classes)
    if kept is None:
        return source
    if kept > count:
        raise BadInput(f"--first-classes is {kept}, and {options.src} has {count} classes; give at most {count}")
    splits = {
        split: [picture for picture in pictures if picture.label < kept] for split, pictures in source.splits.items()
    }
    return replace(source, classes=source.classes[:kept], splits=splits)


def how_to_store(source: sources.Source, options: Options) -> How:
    """Raises BadInput if the options do not fit the source, or a package is missing."""
    count = len(source.classes)
    if options.classes and len(options.classes) != count:
        there = f"--first-classes keeps {count}" if options.first_classes else f"{options.src} has {count} classes"
        raise BadInput(
            f"--classes gives {len(options.classes)} names, and {there}: "
            f"{', '.join(source.classes[:3])}{', ..' if count > 3 else ''}"
        )
    classes = options.classes or tuple(source.classes)
    if source.pixels is None:
        if options.rgb:
            raise BadInput(f"--rgb is for IDX files; the images of {options.src} are stored in colour anyway")
        try:
            import_module("cv2")
        except ImportError as error:
            raise BadInput(f"image files need OpenCV ({error}): pip install 'alexnet-jax[pictures]'") from error
        size = options.size or SIZE
        return How((size, size, 3), options.square, options.encoding or "jpeg", None, classes)
    H, W, C = source.pixels
    H, W = (options.size or H), (options.size or W)
    return How((H, W, 3 if options.rgb else C), options.square, options.encoding or "png", source.pixels, classes)


def plan(source: sources.Source, dst: Path, options: Options) -> list[workers.Task]:
    """The shards to write. Training images are shuffled once (as in make-data.py), others keep their order.

    Raises BadInput if DST was begun with other images.
    """
    tasks, digest = [], hashlib.sha256(json.dumps(source.classes).encode())
    for split, pictures in source.splits.items():
        if not pictures:
            kept = f" of its first {options.first_classes} classes" if options.first_classes else ""
            raise BadInput(f"{options.src} has no {split} images{kept}")
        for picture in pictures:
            digest.update(f"{picture.name}\0{picture.label}\0{picture.length}\n".encode())
        count = len(pictures)
        if split == TRAIN:  # a shuffle that does not depend on any random generator's version
            pictures = sorted(pictures, key=lambda picture: _draw(options.seed, picture.name))
        asked = options.shards if split == TRAIN else None
        # Few files, but enough for many workers.
        shards = min(count, asked or max(-(-count // 4096), min(16, -(-count // 256))), MOST_SHARDS)
        ends = [number * count // shards for number in range(shards + 1)]
        for number, (first, end) in enumerate(pairwise(ends)):
            tasks.append(workers.Task(split, dst / shard_name(split, number, shards), pictures[first:end]))
    if read_plan(dst).get("pictures", digest.hexdigest()) != digest.hexdigest():
        raise BadInput(f"{options.src} holds other images than when {dst} was begun; remove {dst} to start again")
    write_plan(dst, {"pictures": digest.hexdigest(), "shards": len(tasks)})
    return tasks


def _draw(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()


def is_missing(task: workers.Task, how: How) -> bool:
    """Whether a shard has to be written, for the first time or because an unreadable image has been repaired."""
    part = writing.finished(task.path)
    if part is None:
        return True
    image, refused = how.functions()[0], {name for name, _ in part.rejected}
    for picture in task.pictures:
        if picture.name in refused:
            with suppress(Unreadable):
                image(sources.read(picture))
                return True
    return False


@contextmanager
def bar(total: int, done: int) -> Iterator[Any]:
    """A progress bar: yields advance(n), to be called when n more images are done."""
    console = Console(stderr=True)
    shown = progress.Progress(
        progress.TextColumn("{task.fields[speed]}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("left"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = shown.add_task("prepare", total=total, completed=done, speed="starting")
    began, seen = time.perf_counter(), 0

    def advance(more: int) -> None:
        nonlocal seen
        seen += more
        shown.update(task, advance=more, speed=f"{seen / (time.perf_counter() - began):.0f} images/s")

    with shown:
        yield advance


# ------------------------------------------------------------------------------------------------- what came of it


def check_rejected(dst: Path, parts: dict[str, list[Part]], pictures: int, most: float) -> None:
    """Writes rejected.tsv. Raises BadInput if too many images were lost."""
    rows = [
        (split, name, reason)
        for split, group in parts.items()
        for name, reason in sorted(line for part in group for line in part.rejected)
    ]
    with writing.replacing(dst / "rejected.tsv") as partial:
        lines = ["\t".join(row) + "\n" for row in [("split", "name", "reason"), *rows]]
        partial.write_text("".join(lines), encoding="utf-8")
    if len(rows) > most * pictures:
        raise BadInput(
            f"{len(rows):,} of {pictures:,} images cannot be read, more than --max-rejected {most:g} allows; "
            f"{dst}/rejected.tsv lists them; repair them and repeat the command, or give a larger --max-rejected"
        )
    for split, group in parts.items():
        if not any(sum(part.per_class) for part in group):
            raise BadInput(f"no {split} image can be read; {dst}/rejected.tsv says why")
    if rows:
        print(f"{len(rows):,} of {pictures:,} images could not be read and were left out: {dst}/rejected.tsv")


def write_classes(dst: Path, parts: dict[str, list[Part]], classes: Sequence[str]) -> None:
    """Writes classes.tsv: the number of images of each class."""
    counts = {split: np.sum([part.per_class for part in group], axis=0) for split, group in parts.items()}
    with writing.replacing(dst / "classes.tsv") as partial:
        lines = ["\t".join(("label", "class", *counts))]
        for label, name in enumerate(classes):
            lines.append("\t".join((str(label), " ".join(name.split()), *(str(of[label]) for of in counts.values()))))
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def draw_sheet(dst: Path, parts: dict[str, list[Part]], how: How, statistics: Statistics, seed: int) -> None:
    """Draws sheet.png: what the network will see of the first training images."""
    shards = [dst / part.file for part in parts[TRAIN]]
    images, labels = read_first(shards, PICTURES, how.shape, how.encoding)
    page = sheet(images, [how.classes[label] for label in labels], statistics, seed)
    with writing.replacing(dst / "sheet.png") as partial:
        page.save(partial, "PNG")


def summarise(records: Records) -> None:
    """Prints what was made, and the number of images of each class."""
    size = sum(file["bytes"] for file in records.meta["files"].values())
    print(
        f"{records.directory}: {records.examples(TRAIN):,} training and {records.examples(VALIDATION):,} validation "
        f"images of {'x'.join(map(str, records.image_shape))}, {len(records.classes)} classes, "
        f"{size / 1e6:,.0f} MB ({records.meta['encoding']})"
    )
    train, validation = (records.meta["splits"][split]["per_class"] for split in (TRAIN, VALIDATION))
    order = sorted(range(len(train)), key=lambda label: (train[label], label))
    shown = order if len(order) <= 12 else [*order[:5], *order[-5:]]
    title = "Pictures of each class" if shown == order else "The smallest and the largest classes"
    table = Table("label", "class", "training", "validation", title=title)
    for place, label in enumerate(sorted(shown) if shown == order else shown):
        if len(shown) < len(order) and place == 5:
            table.add_section()
        table.add_row(str(label), escape(records.classes[label]), f"{train[label]:,}", f"{validation[label]:,}")
    console = Console(highlight=False)
    console.print(table)
    empty = [name for name, count in zip(records.classes, train, strict=True) if not count]
    if empty:
        console.print(f"{len(empty)} classes have no training image; the first is {escape(empty[0])}.", style="yellow")
    mean_C = np.asarray(records.statistics.mean_HWC).mean(axis=(0, 1))
    stdevs = ", ".join(f"{stdev:.1f}" for stdev in records.statistics.stdev_C)
    console.print(f"Mean colour {', '.join(f'{level:.1f}' for level in mean_C)}; standard deviations along the "
                  f"components {stdevs}. {records.directory} has all counts in classes.tsv and images in sheet.png.",
                  soft_wrap=True)  # fmt: skip


def verify_directory(directory: Path) -> None:
    """Checks every file and every record. Raises BadInput that names the first damaged one."""
    records = Records(directory)
    names, wrong, counted, console = list(records.meta["files"]), [], {}, Console(stderr=True)
    with ThreadPoolExecutor() as pool:
        checks = pool.map(lambda name: verify.check_file(records, name), names)
        shown = progress.track(checks, "verify", len(names), console=console, disable=not console.is_terminal)
        for name, (damage, per_class) in zip(names, shown, strict=True):
            wrong += damage
            counted[name] = per_class
    wrong += verify.check_counts(records, counted) if not wrong else []
    if wrong:
        for sentence in wrong[1:]:
            print(sentence)
        more = f" ({len(wrong) - 1} more faults, listed above)" if len(wrong) > 1 else ""
        raise BadInput(f"{wrong[0]}{more}; remove {directory} and prepare it again")
    count = sum(records.examples(split) for split in records.meta["splits"])
    print(f"{directory} is complete and undamaged: {count:,} records in {len(names)} files.")


if __name__ == "__main__":
    command_line.main(prepare)
