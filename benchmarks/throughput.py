"""How fast images are prepared and read, next to Pillow and torchvision, and how much memory reading takes.

python benchmarks/photographs.py PHOTOS
python benchmarks/throughput.py PHOTOS [--torch-python PYTHON] [--json throughput.json]

preparing  on one core, with the same random files for all contestants. Ours does everything that `prepare` does for an
           image, from reading the file to writing the record (prepare_some). Pillow's plain loop opens the image,
           converts it to RGB, scales the shorter side to 256 and crops the centre. It computes no statistics and
           writes nothing. A second loop also saves the result as a JPEG in memory.
reading    on two cores, in training batches of 128. Ours reads the prepared sets as uint8 256x256, which is what the
           device gets. A second contestant of ours also takes a random 224x224 crop, flips it and divides by 255 on
           the host (NumPy, one thread per core). That is what torchvision's DataLoader with two workers does with the
           original files.
memory     of the whole process over 2,000 batches from the prepared sets

Each contestant is a process. They take turns, round by round, and each round starts with the next contestant. While one
runs, the others are suspended with all their workers. That keeps them from reading ahead and spreads changes in machine
speed evenly. Figures are medians over the rounds, with minimum and maximum; ratios are taken within each round. The
files are in the page cache, as far as they fit.

PYTHON has torch and torchvision and needs nothing from this package.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import fmean, linear_regression, median
from typing import Any, NoReturn

from contestants.turns import Match, markdown, processor, ratios, spread, versions_in

BATCH, SIZE, CROP = 128, 256, 224
PILLOW, SAVING = "Pillow's loop", "Pillow's loop, and saving a JPEG"
RESIZED, USUAL = "torchvision, RandomResizedCrop(224)", "torchvision, Resize(256), RandomCrop(224)"

# ----------------------- in a contestant's process; functions import what they need, as not every Python has it all


def prepare_some(files: list[str], encoding: str) -> None:
    """Everything that `python -m alexnet_jax.prepare` does for these files, with its own functions, on one core."""
    import tempfile

    from alexnet_jax.data import sources
    from alexnet_jax.data.writing import How, part_of, write_shard

    how = How((SIZE, SIZE, 3), "crop", encoding, None, ("one",))  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as directory:
        shard = Path(directory) / "train-00000-of-00001.array_record"
        part_of(shard).parent.mkdir()
        write_shard(shard, [sources.Picture(file, 0, file, 0, -1) for file in files], how, lambda: None)


def pillow_loop(files: list[str], saving: bool) -> None:
    import io

    from PIL import Image

    for file in files:
        image = Image.open(file).convert("RGB")
        w, h = image.size
        scale = SIZE / min(w, h)
        image = image.resize((round(w * scale), round(h * scale)))
        left, top = (image.width - SIZE) // 2, (image.height - SIZE) // 2
        image = image.crop((left, top, left + SIZE, top + SIZE))
        if saving:
            image.save(io.BytesIO(), "JPEG", quality=95)


def our_batches(directory: str, workers: str, cropped: str) -> Iterator[int]:
    """Yields the number of images in each training batch."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    from alexnet_jax.config import OptimConfig
    from alexnet_jax.data import pipeline
    from alexnet_jax.data.records import Records

    threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    rng = np.random.default_rng(0)

    def cut(image_HWC: np.ndarray, corner: np.ndarray, flip: bool, view_hwC: np.ndarray) -> None:
        top, left = corner
        crop = image_HWC[top : top + CROP, left : left + CROP]
        np.multiply(crop[:, ::-1] if flip else crop, np.float32(1 / 255), out=view_hwC)

    batches = pipeline.training_batches(
        Records(Path(directory)),
        OptimConfig(batch=BATCH),
        seed=0,
        reshuffle=True,
        rows=slice(0, BATCH),
        first=0,
        workers=int(workers),
    )
    for batch in batches:
        images = batch["image"]
        if cropped == "cropped":
            views = np.empty((len(images), CROP, CROP, 3), np.float32)
            corners = rng.integers(SIZE - CROP + 1, size=(len(images), 2))
            list(threads.map(cut, images, corners, rng.random(len(images)) < 0.5, views))
        yield len(images)


def torch_batches(directory: str, kind: str) -> Iterator[int]:
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    crop = {
        RESIZED: [transforms.RandomResizedCrop(CROP)],
        USUAL: [transforms.Resize(SIZE), transforms.RandomCrop(CROP)],
    }[kind]
    transform = transforms.Compose([*crop, transforms.RandomHorizontalFlip(), transforms.ToTensor()])
    loader = DataLoader(
        datasets.ImageFolder(directory, transform),
        batch_size=BATCH,
        shuffle=True,
        num_workers=len(os.sched_getaffinity(0)),
        drop_last=True,
        persistent_workers=True,
    )
    while True:
        for images, _ in loader:
            yield len(images)


ROLES: dict[str, Callable[..., Any]] = {
    "prepare": lambda encoding: lambda files: prepare_some(files, encoding),
    "pillow": lambda saving: lambda files: pillow_loop(files, saving == "saving"),
    "ours": our_batches,
    "torch": torch_batches,
}


def role(cores: str, name: str, *arguments: str) -> Callable[..., dict[str, float]]:
    """Returns the function that takes this contestant's turns."""
    os.sched_setaffinity(0, map(int, cores.split(",")))
    return partial(turn, ROLES[name](*arguments))


def turn(
    work: Any, files: list[str] | None = None, skip: int = 0, batches: int = 0, seconds: float = 0
) -> dict[str, float]:
    """Prepares the files, or reads at least `batches` batches and for at least `seconds`."""
    if files is not None:
        began = time.perf_counter()
        work(files)
        return {"pictures": len(files), "seconds": time.perf_counter() - began}
    for _ in range(skip):
        next(work)
    began = time.perf_counter()
    pictures = done = 0
    while done < batches or time.perf_counter() - began < seconds:
        pictures += sum(next(work) for _ in range(4))  # the same number from each worker
        done += 4
    took = time.perf_counter() - began
    return {"pictures": pictures, "seconds": took, "resident": memory("VmRSS"), "anonymous": memory("RssAnon")}


def memory(what: str) -> int:
    """Bytes used by this process and its workers. VmRSS includes pages of mapped files."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if os.getpgid(int(status.parent.name)) == os.getpgrp():
                total += sum(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(what))
        except OSError:
            continue  # the process has exited
    return 1024 * total


# ------------------------------------------------------------------------------------------- in the parent process


def enter(match: Match, name: str, cores: list[int], *arguments: str, python: str = sys.executable) -> None:
    match.enter(name, Path(__file__), ",".join(map(str, cores)), *arguments, python=python)


def play(match: Match, questions: list[dict[str, Any]], announce: str) -> None:
    """Plays one round for each question. The first is a warm-up and does not count."""
    from rich.console import Console
    from rich.progress import track

    for number, question in enumerate(track(questions, announce, console=Console(stderr=True))):
        answers = match.play(**question)
        if number:
            match.count(answers)


def speeds_of(match: Match) -> dict[str, list[float]]:
    """Images per second in each round."""
    return {
        name: [answer["pictures"] / answer["seconds"] for answer in answers] for name, answers in match.answers.items()
    }


def over(speeds: dict[str, list[float]], name: str, base: str) -> str:
    found = ratios(speeds, name, base)
    return spread(found, 2) if found else ""


def table(header: list[str], rows: list[list[str]]) -> None:
    print(markdown(header, rows))


def fail(sentence: str) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)


def preparing(options: argparse.Namespace, cores: list[int]) -> Match:
    files = sorted(map(str, (options.photos / "folder" / "train").glob("*/*.JPEG")))
    draw = random.Random(0)
    rounds = [draw.sample(files, min(options.files, len(files))) for _ in range(options.rounds + 1)]
    for file in {file for files in rounds for file in files}:
        Path(file).read_bytes()  # into the page cache
    with Match() as match:
        for encoding in ("raw", "jpeg"):
            enter(match, f"alexnet_jax, {encoding} records", cores[:1], "prepare", encoding)
        enter(match, PILLOW, cores[:1], "pillow", "")
        enter(match, SAVING, cores[:1], "pillow", "saving")
        play(match, [{"files": files} for files in rounds], "preparing")
    speeds = speeds_of(match)
    rows = [
        [name, spread(speed), over(speeds, name, PILLOW), over(speeds, name, SAVING)] for name, speed in speeds.items()
    ]
    table(["preparing, one core", "images/s", f"over {PILLOW}", f"over {SAVING}"], rows)
    return match


def reading(options: argparse.Namespace, cores: list[int]) -> Match:
    with Match() as match:
        for encoding in ("raw", "jpeg"):
            for view, what in ("", "uint8 256x256"), ("cropped", "cropped, float32 224x224"):
                arguments = str(prepared(options, encoding)), str(options.workers), view
                enter(match, f"alexnet_jax, {encoding}, {what}", cores, "ours", *arguments)
        for kind in (RESIZED, USUAL):
            if options.torch_python:
                train = str(options.photos / "folder" / "train")
                enter(match, kind, cores, "torch", train, kind, python=options.torch_python)
            else:
                match.skipped[kind] = "--torch-python is not given"
        play(match, [{"skip": 2, "seconds": options.seconds}] * (options.rounds + 1), "reading")
    speeds = speeds_of(match)
    rows = []
    for name, speed in speeds.items():
        of_core = [each / len(cores) for each in speed]
        cores_needed = f"{10_000 / median(of_core):.1f}"
        ratios_ = [over(speeds, name, base) for base in (RESIZED, USUAL)]
        rows.append([name, spread(speed), f"{median(of_core):,.0f}", cores_needed, *ratios_])
    header = [f"reading, {len(cores)} cores", "images/s", "per core", "cores for 10,000/s"]
    table([*header, *(f"over {base}" for base in (RESIZED, USUAL))], rows)
    return match


def remembering(options: argparse.Namespace, cores: list[int]) -> Match:
    """The memory of a reader of each prepared set, one after the other, measured every 100 batches."""
    both = Match()
    rows = []
    for encoding in ("raw", "jpeg"):
        with Match() as match:
            enter(match, encoding, cores, "ours", str(prepared(options, encoding)), str(options.workers), "")
            # The warm-up reads nothing, so the first figure is the memory after 100 batches.
            play(match, [{}, *[{"batches": 100}] * (options.batches // 100)], f"memory, {encoding}")
        both.skipped |= match.skipped
        both.answers |= match.answers
        for answers in match.answers.values():
            row = [encoding]
            for kind in ("resident", "anonymous"):
                figures = [answer[kind] for answer in answers]
                row += [f"{figures[0] / 1e6:,.0f} to {figures[-1] / 1e6:,.0f} MB", slope(figures)]
            rows.append(row)
    growth = "growth per batch after the first quarter"
    table([f"{options.batches:,} batches from", "resident memory", growth, "of which anonymous", growth], rows)
    return both


def slope(bytes_: list[float]) -> str:
    """Growth per batch by least squares, with its standard error. `bytes_` are 100 batches apart; skips a quarter."""
    kept = bytes_[len(bytes_) // 4 :]
    at = [100 * number for number in range(len(kept))]
    line = linear_regression(at, kept)
    squares = sum((y - line.intercept - line.slope * x) ** 2 for x, y in zip(at, kept, strict=True))
    error = (squares / (len(at) - 2) / sum((x - fmean(at)) ** 2 for x in at)) ** 0.5
    return f"{line.slope / 1000:+.1f} ± {error / 1000:.1f} KB"


def prepared(options: argparse.Namespace, encoding: str) -> Path:
    """The data directory, which is created if it does not exist."""
    directory = Path(f"{options.prepared or options.photos}-{encoding}")
    if not (directory / "meta.json").exists():
        command = [sys.executable, "-m", "alexnet_jax.prepare", str(options.photos / "folder"), str(directory)]
        if subprocess.run([*command, "--encoding", encoding], stdout=subprocess.DEVNULL).returncode:
            fail(f"{directory} could not be created")
    meta = json.loads((directory / "meta.json").read_text())
    if meta["splits"]["train"]["examples"] * SIZE * SIZE * 3 <= 1 << 30:
        fail(f"{directory} is so small that it would be decoded once and kept in memory; make at least 6,000 images")
    return directory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, metavar="PHOTOS", help="the directory that benchmarks/photographs.py made")
    parser.add_argument("--torch-python", metavar="PYTHON", help="a Python with torch and torchvision")
    parser.add_argument(
        "--prepared",
        metavar="DIR",
        help="use the prepared sets DIR-raw and DIR-jpeg; by default PHOTOS-raw and PHOTOS-jpeg",
    )
    parser.add_argument("--json", type=Path, default=Path("throughput.json"), help="file for all figures")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count, after one warm-up round")
    parser.add_argument("--files", type=int, default=300, help="files to prepare in each turn")
    parser.add_argument("--seconds", type=float, default=6, help="minimum length of a turn of reading")
    parser.add_argument("--batches", type=int, default=2000, help="batches over which memory is measured")
    parser.add_argument("--workers", type=int, default=0, help="worker processes of our pipeline; 0 for threads")
    options = parser.parse_args()
    if not (options.photos / "folder" / "train").is_dir():
        fail(f"{options.photos} has no folder/train; make it with python benchmarks/photographs.py {options.photos}")
    if options.rounds < 1 or options.files < 1 or options.batches < 400:
        fail("--rounds and --files must be at least 1, and --batches at least 400")

    cores = sorted(os.sched_getaffinity(0))[:2]
    about: dict[str, Any] = {"processor": processor()}
    for part, play in PARTS.items():
        if part in options.parts:
            match = play(options, cores)
            for name, reason in match.skipped.items():
                print(f"{name}: skipped, {reason}")
            about[part] = {"turns": match.answers, "skipped": match.skipped}
    versions = [versions_in(python) for python in dict.fromkeys((sys.executable, options.torch_python)) if python]
    about |= {"cores": len(cores), "versions": versions}
    options.json.write_text(json.dumps(about, indent=1) + "\n")
    said = [", ".join(f"{name} {version}" for name, version in of.items()) for of in versions]
    print(f"\n{about['processor']}, {len(cores)} cores; rounds: {options.rounds}; {'; the other Python: '.join(said)}.")


PARTS = {"preparing": preparing, "reading": reading, "memory": remembering}

if __name__ == "__main__":
    main()
