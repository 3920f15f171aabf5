"""The record format, the prepare command and the order of batches."""

import gzip
import json
import shutil
import struct
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from conftest import run_command

from alexnet_jax.config import BadInput, OptimConfig
from alexnet_jax.data import pipeline, records
from alexnet_jax.data.records import TRAIN, VALIDATION, Records


def test_records_come_back_as_they_went_in(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (7, 5, 6, 3), np.uint8)
    examples = [(picture, label % 2) for label, picture in enumerate(pictures)]
    records.write(tmp_path / "set", {TRAIN: examples[:5], VALIDATION: examples[5:]}, ["a", "b"], "test")
    read = Records(tmp_path / "set")
    assert (read.image_shape, read.classes, read.examples(TRAIN), read.examples(VALIDATION)) == (
        (5, 6, 3),
        ["a", "b"],
        5,
        2,
    )
    batch = read.gather(TRAIN, np.array([3, 0]))
    np.testing.assert_array_equal(batch["image"], pictures[[3, 0]])
    assert batch["label"].tolist() == [1, 0]
    np.testing.assert_array_equal(read.gather(VALIDATION, np.arange(2))["image"], pictures[5:])
    # Statistics are those of the training pictures alone.
    mean, stdevs, components = read.statistics
    np.testing.assert_allclose(mean, pictures[:5].mean(axis=0), rtol=1e-5)
    covariance = np.cov(pictures[:5].reshape(-1, 3).T, bias=True)
    np.testing.assert_allclose(components @ np.diag(np.square(stdevs)) @ components.T, covariance, rtol=1e-3)
    assert read.meta["splits"][TRAIN]["per_class"] == [3, 2]


def test_a_set_too_large_to_keep_is_read_record_by_record(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Records(tiny_data).gather(TRAIN, np.array([40, 2, 2]))
    monkeypatch.setattr(records, "_KEPT_BYTES", 0)
    read = Records(tiny_data)
    for name, array in read.gather(TRAIN, np.array([40, 2, 2])).items():
        np.testing.assert_array_equal(array, kept[name])
    assert "_kept" not in vars(read)


def test_the_embedded_set_is_balanced_and_real() -> None:
    embedded = Records(records.EMBEDDED)
    assert embedded.meta["splits"][TRAIN]["per_class"] == [1000] * 10
    assert embedded.meta["splits"][VALIDATION]["per_class"] == [200] * 10
    assert "Zalando" in (records.EMBEDDED / "LICENSE").read_text()
    batch = embedded.gather(TRAIN, np.arange(10_000))
    assert len(np.unique(batch["image"].reshape(10_000, -1), axis=0)) > 9_990
    np.testing.assert_allclose(batch["image"].mean(axis=0), embedded.statistics.mean_HWC, rtol=1e-4, atol=1e-4)


def damage(tiny_data: Path, tmp_path: Path, what: str) -> Path:
    directory = tmp_path / "data"
    if what == "missing":
        return directory
    shutil.copytree(tiny_data, directory)
    shard = directory / "train-00000-of-00001.array_record"
    meta = directory / "meta.json"
    if what == "foreign":
        meta.unlink()
    elif what == "not ours":
        meta.write_text('["something", "else"]')
    elif what == "nearly ours":
        meta.write_text('{"format": 1}')
    elif what == "newer":
        meta.write_text(json.dumps(json.loads(meta.read_text()) | {"format": 99}))
    elif what == "truncated":
        shard.write_bytes(shard.read_bytes()[:-100])
    elif what == "a shard missing":
        shard.unlink()
    elif what == "a flipped record":
        data = bytearray(shard.read_bytes())
        data[len(data) // 4 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 4)
        shard.write_bytes(bytes(data))
    return directory


BAD_DATA = {
    "missing": "there is no data directory .*data; make one with python -m alexnet_jax.prepare",
    "foreign": "has no meta.json, so it is not a prepared data directory",
    "not ours": "meta.json is not the one that alexnet_jax.prepare writes",
    "nearly ours": "meta.json is not the one that alexnet_jax.prepare writes",
    "newer": "is in format 99, this version reads format 1",
    "truncated": r"train-00000-of-00001.array_record has \d+ bytes instead of \d+",
    "a shard missing": "train-00000-of-00001.array_record has 0 bytes instead of",
    "a flipped record": "train-00000-of-00001.array_record is damaged, its checksum is another",
}


@pytest.mark.parametrize("what", BAD_DATA)
def test_a_directory_that_is_not_whole_is_refused(tiny_data: Path, tmp_path: Path, what: str) -> None:
    with pytest.raises(BadInput, match=BAD_DATA[what]):
        Records(damage(tiny_data, tmp_path, what)).gather(TRAIN, np.arange(44))


def batches(data: Path, *, first: int = 0, count: int, workers: int = 0, rows: slice = slice(0, 8), seed: int = 1,
            reshuffle: bool = True) -> list[list[int]]:  # fmt: skip
    """The labels and a pixel of each batch, enough to know its pictures."""
    stream = pipeline.training_batches(
        Records(data), OptimConfig(batch=8), seed=seed, reshuffle=reshuffle, rows=rows, first=first, workers=workers
    )
    return [next(stream)["image"].sum(axis=(1, 2, 3)).tolist() for _ in range(count)]


def test_every_epoch_shows_each_picture_once_in_a_new_order(tiny_data: Path) -> None:
    shown = list(chain.from_iterable(batches(tiny_data, count=11)))
    first, second = shown[:44], shown[44:]
    everything = Records(tiny_data).gather(TRAIN, np.arange(44))["image"].sum(axis=(1, 2, 3)).tolist()
    assert sorted(first) == sorted(second) == sorted(everything)
    assert first != second
    assert first != everything
    fixed = list(chain.from_iterable(batches(tiny_data, count=11, reshuffle=False)))
    assert fixed == everything * 2


def test_batches_go_on_from_any_step_with_any_number_of_workers(tiny_data: Path) -> None:
    whole = batches(tiny_data, count=9)
    assert batches(tiny_data, count=5, first=4) == whole[4:]
    assert batches(tiny_data, count=5, seed=2) != whole[:5]
    assert batches(tiny_data, count=5, first=4, rows=slice(2, 6)) == [batch[2:6] for batch in whole[4:]]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(tiny_data: Path, workers: int) -> None:
    assert batches(tiny_data, count=5, first=4, workers=workers) == batches(tiny_data, count=9)[4:]


def test_validation_counts_each_example_once(tiny_data: Path) -> None:
    parts = list(pipeline.validation_batches(Records(tiny_data), 8, slice(0, 8)))
    assert [len(part["label"]) for part in parts] == [8, 8, 8]
    weight = np.concatenate([part["weight"] for part in parts])
    assert weight.tolist() == [1.0] * 21 + [0.0] * 3


# -------------------------------------------------------------------------------------------------------- prepare


def write_idx(directory: Path, count: int = 12, compressed: bool = False) -> np.ndarray:
    directory.mkdir()
    rng = np.random.default_rng(0)
    kept = None
    for split in ("train", "t10k"):
        pictures, labels = rng.integers(0, 256, (count, 4, 4), np.uint8), np.arange(count, dtype=np.uint8) % 3
        kept = pictures if kept is None else kept
        for kind, array in (("images-idx3", pictures), ("labels-idx1", labels)):
            data = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
            path = directory / f"{split}-{kind}-ubyte{'.gz' if compressed else ''}"
            path.write_bytes(gzip.compress(data) if compressed else data)
    assert kept is not None
    return kept


@pytest.mark.parametrize("compressed", [False, True])
def test_prepare_reads_idx_files(tmp_path: Path, compressed: bool) -> None:
    pictures = write_idx(tmp_path / "src", compressed=compressed)
    done = run_command("prepare", tmp_path / "src", tmp_path / "dst", "--classes", "a", "b", "c")
    assert done.code == 0
    assert "12 training and 12 validation pictures of 4x4x1, 3 classes" in done.out
    made = Records(tmp_path / "dst")
    assert made.classes == ["a", "b", "c"]
    np.testing.assert_array_equal(made.gather(TRAIN, np.arange(12))["image"][..., 0], pictures)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dst", "src"]


def test_prepare_enlarges_and_colours(tmp_path: Path) -> None:
    write_idx(tmp_path / "src")
    assert run_command("prepare", tmp_path / "src", tmp_path / "dst", "--size", "9", "--rgb").code == 0
    made = Records(tmp_path / "dst")
    assert made.image_shape == (9, 9, 3)
    picture = made.gather(TRAIN, np.arange(1))["image"][0]
    np.testing.assert_array_equal(picture[..., 0], picture[..., 2])


def test_prepare_says_what_is_wrong_with_its_source(tmp_path: Path) -> None:
    src, dst = tmp_path / "src", tmp_path / "dst"
    assert "there is no directory" in run_command("prepare", src, dst).refused
    write_idx(src)
    labels = src / "train-labels-idx1-ubyte"
    whole = labels.read_bytes()
    labels.write_bytes(whole[:-3])
    assert "train-labels-idx1-ubyte holds 9 bytes, its header announces 12" in run_command("prepare", src, dst).refused
    labels.write_bytes(b"PK" + whole[2:])
    assert "is not an IDX file" in run_command("prepare", src, dst).refused
    labels.unlink()
    assert "has no train-labels-idx1-ubyte" in run_command("prepare", src, dst).refused
    Path(f"{labels}.gz").write_bytes(gzip.compress(whole)[:-9])
    assert "cannot be read" in run_command("prepare", src, dst).refused
    labels.write_bytes(whole)
    assert "--classes gives 2 names" in run_command("prepare", src, dst, "--classes", "a", "b").refused
    assert not dst.exists()
    dst.mkdir()
    assert "exists already" in run_command("prepare", src, dst).refused


def test_what_an_interrupted_write_leaves_is_not_taken_for_a_set(tmp_path: Path, tiny_data: Path) -> None:
    def breaks_off() -> object:
        yield np.zeros((4, 4, 1), np.uint8), 0
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        records.write(tmp_path / "dst", {TRAIN: breaks_off()}, ["a"], "test")
    with pytest.raises(BadInput, match="there is no data directory"):
        Records(tmp_path / "dst")
    examples = [(np.zeros((4, 4, 1), np.uint8), 0)]
    records.write(tmp_path / "dst", {TRAIN: examples, VALIDATION: examples}, ["a"], "test")
    assert [path.name for path in tmp_path.iterdir()] == ["dst"]


def test_pictures_of_two_shapes_are_refused(tmp_path: Path) -> None:
    examples = [(np.zeros((4, 4, 1), np.uint8), 0), (np.zeros((5, 4, 1), np.uint8), 0)]
    with pytest.raises(BadInput, match=r"a picture is \(5, 4, 1\), others are \(4, 4, 1\)"):
        records.write(tmp_path / "dst", {TRAIN: examples}, ["a"], "test")
