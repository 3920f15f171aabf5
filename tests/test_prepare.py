"""The prepare command: what it stores, and that interruptions do not change it."""

import fcntl
import hashlib
import json
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from array_record.python.array_record_data_source import ArrayRecordDataSource
from conftest import run_command
from PIL import Image

from alexnet_jax.data import pictures, sources, writing
from alexnet_jax.data.records import TRAIN, VALIDATION, Records, checksum

CLASSES = ["ant", "bee", "cat"]
TRAINING, HELD_OUT = 36, 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/CLASS/ and val/CLASS/ with JPEGs of many sizes: soft spots of colour."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("pictures") / "folder"
    for split, count in (("train", TRAINING), ("val", HELD_OUT)):
        for number in range(count):
            path = root / split / CLASSES[number % 3] / f"{split}_{number:03d}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            spots = Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8))
            size = tuple(rng.integers(16, 60, 2).tolist())
            spots.resize(size, Image.Resampling.BICUBIC).save(path, quality=95)
    return root


def prepare(*arguments: object) -> Any:
    return run_command("prepare", *arguments, "--workers", 1)


SMALL = ("--size", 16, "--shards", 4)


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder, prepared without an interruption."""
    directory = tmp_path_factory.mktemp("made") / "set"
    done = prepare(folder, directory, *SMALL)
    assert done.code == 0, done
    return directory


def contents(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }


def names_in(directory: Path, split: str) -> list[str]:
    shards = [str(directory / shard) for shard in Records(directory).meta["splits"][split]["shards"]]
    source = ArrayRecordDataSource(shards)
    return [msgpack.unpackb(record)["name"] for record in source.__getitems__(list(range(len(source))))]


# --- what is stored


def test_every_picture_is_stored_once_in_an_order_drawn_by_the_seed(folder: Path, made: Path, tmp_path: Path) -> None:
    records = Records(made)
    assert records.image_shape == (16, 16, 3)
    assert records.classes == CLASSES
    assert len(records.meta["splits"][TRAIN]["shards"]) == 4
    files = sorted(str(path.relative_to(folder / "train")) for path in (folder / "train").rglob("*.JPEG"))
    names = names_in(made, TRAIN)
    assert sorted(names) == files
    assert names != files
    held_out = names_in(made, VALIDATION)
    assert [Path(name).name for name in held_out] == [f"val_{number:03d}.JPEG" for number in range(HELD_OUT)]
    batch = records.gather(TRAIN, np.arange(TRAINING))
    assert [CLASSES[label] for label in batch["label"]] == [name.split("/")[0] for name in names]
    for image, name in zip(batch["image"], names, strict=True):
        expected = pictures.picture((folder / "train" / name).read_bytes(), (16, 16, 3), "crop")
        assert np.abs(image.astype(int) - expected).mean() < 8, name  # 4:2:0 loses much in so few pixels

    assert prepare(folder, tmp_path / "other", *SMALL, "--seed", 1).code == 0
    assert sorted(names_in(tmp_path / "other", TRAIN)) == files
    assert names_in(tmp_path / "other", TRAIN) != names


def test_mean_and_colours_are_those_of_the_stored_training_pictures(folder: Path, tmp_path: Path) -> None:
    assert prepare(folder, tmp_path / "set", *SMALL, "--encoding", "raw").code == 0
    records = Records(tmp_path / "set")
    stored = records.gather(TRAIN, np.arange(TRAINING))["image"].astype(np.float64)
    mean, stdevs, components = records.statistics
    np.testing.assert_allclose(mean, stored.mean(axis=0), rtol=1e-6)
    colours = stored.reshape(-1, 3)
    covariance = np.cov(colours.T, bias=True)
    np.testing.assert_allclose(components @ np.diag(np.square(stdevs)) @ components.T, covariance, rtol=1e-4)
    np.testing.assert_allclose(components.T @ components, np.eye(3), atol=1e-5)


def test_raw_and_png_are_lossless_and_jpeg_is_not(folder: Path, made: Path, tmp_path: Path) -> None:
    stored = {}
    for encoding in ("raw", "png"):
        assert prepare(folder, tmp_path / encoding, *SMALL, "--encoding", encoding).code == 0
        stored[encoding] = Records(tmp_path / encoding).gather(TRAIN, np.arange(TRAINING))
    np.testing.assert_array_equal(stored["raw"]["image"], stored["png"]["image"])
    lost = np.abs(Records(made).gather(TRAIN, np.arange(TRAINING))["image"].astype(int) - stored["raw"]["image"])
    assert 0 < lost.mean() < 8  # colours are stored at half of 16x16


def test_size_square_and_classes_are_as_asked_for(folder: Path, tmp_path: Path) -> None:
    assert prepare(folder, tmp_path / "set", "--size", 24, "--square", "warp", "--classes", "a", "[/b]", "c").code == 0
    records = Records(tmp_path / "set")
    assert records.image_shape == (24, 24, 3)
    assert records.classes == ["a", "[/b]", "c"]
    name = names_in(tmp_path / "set", TRAIN)[0]
    expected = pictures.picture((folder / "train" / name).read_bytes(), (24, 24, 3), "warp")
    image = records.gather(TRAIN, np.arange(1))["image"][0]
    assert np.abs(image.astype(int) - expected).mean() < 4


def test_a_folder_without_splits_is_split_by_the_fraction(folder: Path, tmp_path: Path) -> None:
    done = prepare(folder / "train", tmp_path / "set", *SMALL, "--validation-fraction", 0.25)
    assert "27 training and 9 validation images" in done.out
    everything = names_in(tmp_path / "set", TRAIN) + names_in(tmp_path / "set", VALIDATION)
    assert len(set(everything)) == TRAINING
    assert Records(tmp_path / "set").meta["splits"][VALIDATION]["per_class"] == [3, 3, 3]


def test_the_summary_and_the_sheet_show_what_was_made(folder: Path, tmp_path: Path) -> None:
    done = prepare(folder, tmp_path / "set", *SMALL)
    assert "36 training and 6 validation images of 16x16x3, 3 classes" in done.out
    assert (tmp_path / "set" / "classes.tsv").read_text().splitlines() == [
        "label\tclass\ttrain\tvalidation", "0\tant\t12\t2", "1\tbee\t12\t2", "2\tcat\t12\t2",
    ]  # fmt: skip
    sheet = np.asarray(Image.open(tmp_path / "set" / "sheet.png"))
    tile = sheet[24 : 24 + 96, 150 : 150 + 96]
    first = Records(tmp_path / "set").gather(TRAIN, np.arange(1))["image"][0]
    np.testing.assert_array_equal(tile, first.repeat(6, axis=0).repeat(6, axis=1))


# --- interruptions


def test_any_number_of_workers_makes_the_same_bytes(folder: Path, made: Path, tmp_path: Path) -> None:
    done = run_command("prepare", folder, tmp_path / "set", *SMALL, "--workers", 2)
    assert done.code == 0, done
    assert contents(tmp_path / "set") == contents(made)


class Died(BaseException):
    """Nothing in the package catches this, so it ends a command as a kill does."""


def dying(function: Callable[..., Any], at: int) -> Callable[..., Any]:
    """The function, but call number `at` raises Died."""
    calls = iter(range(at, -1, -1))

    def call(*arguments: Any, **named: Any) -> Any:
        if next(calls, 1) == 0:
            raise Died
        return function(*arguments, **named)

    return call


@pytest.mark.parametrize(
    ("where", "name", "moments"),
    [
        (sources, "read", [0, 5, 20, 41]),
        (writing.os, "fsync", [0, 2, 3, 4, 5, 11, 13, 14, 15, 16, 17]),
        (writing.Path, "replace", [0, 2, 3, 4, 5, 12, 13, 15, 16, 17]),
        (shutil, "rmtree", [0]),
    ],
    ids=["reading", "writing", "renaming", "clearing"],
)
def test_prepare_continues_to_the_same_bytes_wherever_it_died(
    folder: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, moments: list[int]
) -> None:
    """In one directory prepare dies at each of these moments in turn, unless it is complete by then."""
    directory = tmp_path / "set"
    deaths = 0
    for moment in moments:
        with monkeypatch.context() as patch:
            patch.setattr(where, name, dying(getattr(where, name), moment))
            try:
                prepare(folder, directory, *SMALL)
            except Died:
                deaths += 1
    assert deaths >= min(3, len(moments))
    assert prepare(folder, directory, *SMALL).code == 0
    assert contents(directory) == contents(made)
    again = prepare(folder, directory, *SMALL)
    assert again.code == 0
    assert "is already complete" in again.out


def test_train_refuses_an_incomplete_directory_and_says_how_to_continue(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sources, "read", dying(sources.read, 20))
        with pytest.raises(Died):
            prepare(folder, tmp_path / "set", *SMALL)
    refused = run_command("train", "--data", tmp_path / "set", "--workdir", tmp_path / "run").refused
    assert f"{tmp_path}/set is incomplete, with 2 of its 5 shards; continue with" in refused
    assert f"python -m alexnet_jax.prepare {folder} {tmp_path}/set --size 16 --shards 4 --workers 1" in refused
    assert not (tmp_path / "run").exists()


def test_a_keyboard_interrupt_says_how_to_continue(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(sources, "read", interrupted)
    done = prepare(folder, tmp_path / "set", *SMALL)
    assert done.code == 130
    assert "the same command continues" in done.err


def test_a_directory_begun_with_other_options_or_images_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, directory = tmp_path / "source", tmp_path / "set"
    shutil.copytree(folder, source)
    with monkeypatch.context() as patch:
        patch.setattr(sources, "read", dying(sources.read, 20))
        with pytest.raises(Died):
            prepare(source, directory, *SMALL)
    assert (
        "was begun with --size 16, now it is with --size 17; give the same"
        in prepare(source, directory, "--size", 17, "--shards", 4).refused
    )
    with (directory / "unfinished" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another prepare is writing" in prepare(source, directory, *SMALL).refused
    (source / "train" / "ant" / "train_000.JPEG").rename(source / "train" / "ant" / "new.JPEG")
    assert "holds other images than when" in prepare(source, directory, *SMALL).refused
    (source / "train" / "ant" / "new.JPEG").rename(source / "train" / "ant" / "train_000.JPEG")
    assert prepare(source, directory, *SMALL).code == 0
    assert (
        "was prepared with --size 16, now it is with --size 17"
        in prepare(source, directory, "--size", 17, "--shards", 4).refused
    )


def interrupted(source: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All shards of the directory are written, but it is not marked as complete."""
    with monkeypatch.context() as patch:
        patch.setattr(writing, "complete", dying(print, 0))
        with pytest.raises(Died):
            prepare(source, directory, *SMALL)
    assert not (directory / "meta.json").exists()


def test_what_a_power_cut_destroyed_is_written_again(
    folder: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "set"
    interrupted(folder, directory, monkeypatch)
    shards = sorted(directory.glob("*.array_record"))
    parts = sorted((directory / "unfinished").glob("*.npz"))
    shards[0].unlink()
    shards[1].write_bytes(shards[1].read_bytes()[:-1])
    parts[2].write_bytes(b"")
    (directory / "unfinished" / f"{shards[3].name}.12345").write_bytes(b"what a killed run was writing")
    assert prepare(folder, directory, *SMALL).code == 0
    assert contents(directory) == contents(made)


def test_a_directory_with_other_files_is_not_touched(folder: Path, tmp_path: Path) -> None:
    for place in ("unfinished/thesis.txt", "meta.json", "notes.txt"):
        precious = tmp_path / place.replace("/", "_") / place
        precious.parent.mkdir(parents=True)
        precious.write_text("{}")
        refused = prepare(folder, tmp_path / place.replace("/", "_"), *SMALL).refused
        assert "already exists" in refused or "meta.json was not written" in refused
        assert precious.read_text() == "{}"


def test_a_directory_begun_from_another_source_is_refused(
    folder: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    interrupted(folder, tmp_path / "set", monkeypatch)
    refused = prepare(tmp_path / "copy", tmp_path / "set", *SMALL).refused
    assert f"was begun with SRC {folder}, now it is with SRC {tmp_path}/copy" in refused
    assert f"was prepared with SRC {folder}, now" in prepare(tmp_path / "copy", made, *SMALL).refused


PARENT = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from alexnet_jax.data import workers

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    shared = context.Value("Q", 0), context.Event()
    pool = ProcessPoolExecutor(2, context, workers._begin, shared)
    futures = [pool.submit(os.getpid) for _ in range(2)] + [pool.submit(time.sleep, 60)]
    futures[0].result()
    print(*pool._processes, flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks for processes in /proc")
def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    """Both those that wait for a task and those that work."""
    (tmp_path / "parent.py").write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(tmp_path / "parent.py")], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    children = [Path("/proc") / number for number in parent.stdout.readline().split()]
    assert len(children) == 2
    assert all(child.exists() for child in children)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while any(child.exists() and "zombie" not in (child / "status").read_text() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_full_disk_is_named_and_nothing_is_lost(
    folder: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(writing.ArrayRecordWriter):  # type: ignore[misc]
        def write(self, record: bytes) -> None:
            raise RuntimeError("write() failed: No space left on device; writing somewhere")

    with monkeypatch.context() as patch:
        patch.setattr(writing, "ArrayRecordWriter", Full)
        refused = prepare(folder, tmp_path / "set", *SMALL).refused
    assert "train-00000-of-00004.array_record cannot be written: write() failed: No space left on device;" in refused
    assert "the same command continues" in refused
    assert prepare(folder, tmp_path / "set", *SMALL).code == 0
    assert contents(tmp_path / "set") == contents(made)


# --- pictures that cannot be read


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    """The folder with four more files that cannot be read as pictures."""
    source = tmp_path / "broken"
    shutil.copytree(folder, source)
    train = source / "train" / "ant"
    (train / "empty.jpg").write_bytes(b"")
    (train / "cut.jpg").write_bytes((train / "train_000.JPEG").read_bytes()[:-200])
    (train / "page.jpg").write_text("<html>no such picture</html>")
    bomb = Image.new("1", (20_000, 20_000))
    bomb.save(source / "val" / "bee" / "bomb.png")
    return source


def test_pictures_that_cannot_be_read_are_listed_with_their_reason(broken: Path, tmp_path: Path) -> None:
    directory = tmp_path / "set"
    refused = prepare(broken, directory, *SMALL).refused
    assert "4 of 46 images cannot be read, more than --max-rejected 0.01 allows" in refused
    assert f"{directory}/rejected.tsv lists them" in refused
    assert "is incomplete" in run_command("train", "--data", directory, "--workdir", tmp_path / "run").refused
    done = prepare(broken, directory, *SMALL, "--max-rejected", 0.1)  # reads no picture again
    assert done.code == 0, done
    assert "4 of 46 images could not be read and were left out" in done.out
    rows = [line.split("\t") for line in (directory / "rejected.tsv").read_text().splitlines()]
    assert [row[:2] for row in rows] == [
        ["split", "name"], ["train", "ant/cut.jpg"], ["train", "ant/empty.jpg"], ["train", "ant/page.jpg"],
        ["validation", "bee/bomb.png"],
    ]  # fmt: skip
    reasons = [row[2] for row in rows[1:]]
    for reason, word in zip(reasons, ("truncated", "empty", "not an image", "pixels"), strict=True):
        assert word in reason
    assert Records(directory).examples(TRAIN) == TRAINING
    assert run_command("prepare", "--verify", directory).code == 0


def test_pictures_that_have_been_repaired_are_read(broken: Path, folder: Path, made: Path, tmp_path: Path) -> None:
    directory = tmp_path / "set"
    assert "4 of 46 images cannot be read" in prepare(broken, directory, *SMALL).refused
    good = (folder / "train" / "bee" / "train_001.JPEG").read_bytes()
    for name in ("train/ant/empty.jpg", "train/ant/cut.jpg", "train/ant/page.jpg"):
        (broken / name).write_bytes(good)
    done = prepare(broken, directory, *SMALL, "--max-rejected", 0.03)
    assert "1 of 46 images could not be read" in done.out
    assert Records(directory).examples(TRAIN) == TRAINING + 3


def test_a_shard_may_lack_readable_pictures_but_a_split_may_not(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(folder, source)
    for path in sorted((source / "train").rglob("*.JPEG"))[4:]:
        path.write_bytes(b"")
    one_a_shard = ("--size", 16, "--shards", 36, "--max-rejected", 1)
    assert prepare(source, tmp_path / "set", *one_a_shard).code == 0
    records = Records(tmp_path / "set")
    assert records.examples(TRAIN) == len(set(names_in(tmp_path / "set", TRAIN))) == 4
    assert len(records.meta["splits"][TRAIN]["shards"]) == 36
    assert run_command("prepare", "--verify", tmp_path / "set").code == 0
    for path in (source / "val").rglob("*.JPEG"):
        path.write_bytes(b"")
    assert "no validation image can be read" in prepare(source, tmp_path / "other", *one_a_shard).refused


def test_pictures_in_every_format_are_stored_alike(tmp_path: Path) -> None:
    """One picture in ten formats."""
    rng = np.random.default_rng(0)
    grey = Image.fromarray(rng.integers(0, 256, (3, 3), np.uint8)).resize((40, 32), Image.Resampling.BICUBIC)
    plain = grey.convert("RGB")
    place = tmp_path / "src" / "train" / "all"
    place.mkdir(parents=True)
    turned = Image.Exif()
    turned[274] = 6
    plain.save(place / "plain.jpg", quality=95)
    plain.save(place / "progressive.jpg", quality=95, progressive=True)
    grey.save(place / "grey.jpg", quality=95)
    plain.convert("CMYK").save(place / "cmyk.jpg", quality=95)
    plain.save(place / "png_inside.JPEG", format="PNG")
    plain.quantize(256).save(place / "palette.png")
    plain.convert("RGBA").save(place / "alpha.png")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(place / "sixteen.png")
    plain.rotate(90, expand=True).save(place / "turned.jpg", quality=95, exif=turned)
    plain.crop((4, 0, 36, 32)).save(place / "square.bmp")
    shutil.copytree(place, tmp_path / "src" / "val" / "all")
    assert prepare(tmp_path / "src", tmp_path / "set", "--size", 32, "--encoding", "raw").code == 0
    names, stored = names_in(tmp_path / "set", TRAIN), Records(tmp_path / "set").gather(TRAIN, np.arange(10))["image"]
    for name, image in zip(names, stored, strict=True):
        assert np.abs(image.astype(int) - np.asarray(plain)[:, 4:36]).mean() < 4, name


# --- verify


def test_verify_finds_and_names_one_flipped_byte(made: Path, tmp_path: Path) -> None:
    assert "is complete and undamaged: 42 records in 9 files" in run_command("prepare", "--verify", made).out
    rng = np.random.default_rng(0)
    for file in sorted(path.name for path in made.iterdir()):
        for _ in range(3):
            copy = tmp_path / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(made, copy)
            data = bytearray((copy / file).read_bytes())
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
            (copy / file).write_bytes(data)
            assert file in run_command("prepare", "--verify", copy).refused


def test_verify_names_the_record(made: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    shard = copy / Records(made).meta["splits"][TRAIN]["shards"][2]
    data = shard.read_bytes()
    fifth = msgpack.unpackb(ArrayRecordDataSource([str(shard)]).__getitems__([5])[0])["image"]
    at = data.index(fifth) + len(fifth) // 2
    shard.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    assert f"{shard.name} is damaged in record 5" in run_command("prepare", "--verify", copy).refused


def test_verify_counts_the_records(made: Path, tmp_path: Path) -> None:
    """The checksum of this meta.json is right, but its counts are not those of the records."""
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    meta = json.loads((copy / "meta.json").read_text())
    meta["splits"][TRAIN]["per_class"][:2] = [11, 13]
    meta["checksum"] = writing.checksum(meta)
    (copy / "meta.json").write_text(json.dumps(meta))
    assert "holds 12 train records of 'ant', meta.json says 11" in run_command("prepare", "--verify", copy).refused


def test_pictures_without_opencv_are_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    refused = prepare(folder, tmp_path / "set", *SMALL).refused
    assert "pip install 'alexnet-jax[pictures]'" in refused
    assert not (tmp_path / "set").exists()


# --- arrays of pixels


def write_idx(directory: Path, count: int = 12) -> np.ndarray:
    """Writes a small set of 4x4 pictures and returns those for training."""
    directory.mkdir()
    rng = np.random.default_rng(0)
    kept = {}
    for split in ("train", "t10k"):
        images, labels = rng.integers(0, 256, (count, 4, 4), np.uint8), np.arange(count, dtype=np.uint8) % 3
        kept[split] = images
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            data = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
            (directory / f"{split}-{kind}-ubyte").write_bytes(data)
    return kept["train"]


def test_pixels_are_stored_as_they_are(tmp_path: Path) -> None:
    images = write_idx(tmp_path / "src")
    done = prepare(tmp_path / "src", tmp_path / "dst", "--classes", "a", "b", "c")
    assert "12 training and 12 validation images of 4x4x1, 3 classes" in done.out
    records = Records(tmp_path / "dst")
    assert (records.classes, records.meta["encoding"]) == (["a", "b", "c"], "png")
    stored = records.gather(TRAIN, np.arange(12))
    order = [int(np.flatnonzero((images == image[..., 0]).all(axis=(1, 2)))[0]) for image in stored["image"]]
    assert sorted(order) == list(range(12))
    assert stored["label"].tolist() == [place % 3 for place in order]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dst", "src"]


def test_pixels_are_enlarged_and_converted_to_colour(tmp_path: Path) -> None:
    write_idx(tmp_path / "src")
    assert prepare(tmp_path / "src", tmp_path / "dst", "--size", 9, "--rgb").code == 0
    records = Records(tmp_path / "dst")
    assert records.image_shape == (9, 9, 3)
    image = records.gather(TRAIN, np.arange(1))["image"][0]
    np.testing.assert_array_equal(image[..., 0], image[..., 2])


def test_training_pictures_are_held_out_and_the_own_validation_pictures_left_out(tmp_path: Path) -> None:
    images = write_idx(tmp_path / "src")
    done = prepare(tmp_path / "src", tmp_path / "dst", "--validation-fraction", 0.25)
    told = f"Validation: 3 of the training images; the 12 validation images of {tmp_path}/src are left out.\n"
    assert told in done.out
    records = Records(tmp_path / "dst")
    assert [records.meta["splits"][split]["per_class"] for split in (TRAIN, VALIDATION)] == [[3, 3, 3], [1, 1, 1]]
    stored = [records.gather(split, np.arange(count)) for split, count in ((TRAIN, 9), (VALIDATION, 3))]
    pixels = np.concatenate([split["image"] for split in stored])[..., 0]
    order = [int(np.flatnonzero((images == image).all(axis=(1, 2)))[0]) for image in pixels]
    assert sorted(order) == list(range(12))
    assert [place % 3 for place in order] == [label for split in stored for label in split["label"]]
    assert "Validation:" not in prepare(tmp_path / "src", tmp_path / "whole").out


def test_only_the_first_classes_are_kept(folder: Path, tmp_path: Path) -> None:
    done = prepare(folder, tmp_path / "set", *SMALL, "--first-classes", 2, "--classes", "a", "b")
    assert "24 training and 4 validation images of 16x16x3, 2 classes" in done.out
    records = Records(tmp_path / "set")
    assert records.classes == ["a", "b"]
    for split in (TRAIN, VALIDATION):
        found = names_in(tmp_path / "set", split)
        assert {name.split("/")[0] for name in found} == {"ant", "bee"}
        labels = records.gather(split, np.arange(len(found)))["label"]
        assert [CLASSES[label] for label in labels] == [name.split("/")[0] for name in found]
    assert (
        "was prepared with --first-classes 2, now it is without --first-classes; give the same"
        in prepare(folder, tmp_path / "set", *SMALL, "--classes", "a", "b").refused
    )
    write_idx(tmp_path / "src")
    both = prepare(tmp_path / "src", tmp_path / "both", "--first-classes", 2, "--validation-fraction", 0.5)
    assert "Validation: 4 of the training images; the 12 validation images of" in both.out
    assert "4 training and 4 validation images of 4x4x1, 2 classes" in both.out


def test_a_directory_from_before_an_option_existed_is_complete(folder: Path, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "set")
    meta = json.loads((made / "meta.json").read_text())
    del meta["prepared"]["--first-classes"]
    (tmp_path / "set" / "meta.json").write_text(json.dumps(meta | {"checksum": checksum(meta)}))
    before = contents(tmp_path / "set")
    assert "is already complete" in prepare(folder, tmp_path / "set", *SMALL).out
    refused = prepare(folder, tmp_path / "set", *SMALL, "--first-classes", 2).refused
    assert "was prepared without --first-classes, now it is with --first-classes 2" in refused
    assert contents(tmp_path / "set") == before


# --- bad input


def test_bad_input_is_answered_with_one_sentence(folder: Path, tmp_path: Path) -> None:
    dst = tmp_path / "set"

    def refused(*arguments: object) -> str:
        sentence = run_command("prepare", *arguments).refused
        assert not dst.exists()
        return sentence

    assert "give SRC and DST" in refused()
    assert "give SRC and DST" in refused(folder)
    assert "there is no" in refused(tmp_path / "nothing", dst)
    assert "--shards is 2000; give at least 1 and at most 900" in refused(folder, dst, "--shards", 2000)
    assert "--size is 0; give at least 1" in refused(folder, dst, "--size", 0)
    assert "--max-rejected is 2.0" in refused(folder, dst, "--max-rejected", 2)
    assert "--classes gives 2 names" in refused(folder, dst, "--classes", "a", "b")
    for fraction in (0.0, 1.0, "nan"):
        assert "give more than 0 and less than 1" in refused(folder, dst, "--validation-fraction", fraction)
    assert "--first-classes is 1; give at least 2" in refused(folder, dst, "--first-classes", 1)
    most = refused(folder, dst, "--first-classes", 4)
    assert f"--first-classes is 4, and {folder} has 3 classes; give at most 3" in most
    few = refused(folder, dst, "--first-classes", 2, "--classes", "a", "b", "c")
    assert "--classes gives 3 names, and --first-classes keeps 2: ant, bee" in few
    shutil.copytree(folder / "train", tmp_path / "late" / "train")
    shutil.copytree(folder / "val" / "cat", tmp_path / "late" / "val" / "cat")
    assert "late has no validation images of its first 2 classes" in refused(
        tmp_path / "late", dst, "--first-classes", 2
    )
    assert "lies in" in refused(folder, folder / "train" / "set")
    assert "--verify takes a data directory and nothing else" in refused(folder, dst, "--verify", dst)
    assert "there is no data directory" in refused("--verify", dst)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    assert "already exists" in refused(folder, tmp_path / "full")
    assert (tmp_path / "full" / "thesis.txt").read_text() == "precious"
