"""The record format and the order of batches."""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.config import BadInput, OptimConfig
from alexnet_jax.data import pipeline, records, writing
from alexnet_jax.data.records import TRAIN, VALIDATION, Records


@pytest.mark.parametrize("shape", [(5, 6, 3), (80, 90, 3)], ids=["small", "large"])
def test_images_are_read_as_they_were_written(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    """Small images are decoded in one thread, large ones in several."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (7, *shape), np.uint8)
    examples = [(picture, label % 2) for label, picture in enumerate(pictures)]
    writing.write(tmp_path / "set", {TRAIN: examples[:5], VALIDATION: examples[5:]}, ["a", "b"], "test")
    read = Records(tmp_path / "set")
    assert (read.image_shape, read.classes, read.examples(TRAIN), read.examples(VALIDATION)) == (
        shape,
        ["a", "b"],
        5,
        2,
    )
    batch = read.gather(TRAIN, np.array([3, 0]))
    np.testing.assert_array_equal(batch["image"], pictures[[3, 0]])
    assert batch["label"].tolist() == [1, 0]
    np.testing.assert_array_equal(read.gather(VALIDATION, np.arange(2))["image"], pictures[5:])
    # Statistics are of the training images alone.
    mean, stdevs, components = read.statistics
    np.testing.assert_allclose(mean, pictures[:5].mean(axis=0), rtol=1e-5)
    covariance = np.cov(pictures[:5].reshape(-1, 3).T, bias=True)
    np.testing.assert_allclose(components @ np.diag(np.square(stdevs)) @ components.T, covariance, rtol=1e-3)
    assert read.meta["splits"][TRAIN]["per_class"] == [3, 2]


def test_a_set_too_large_for_memory_is_read_record_by_record(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Records(tiny_data).gather(TRAIN, np.array([40, 2, 2]))
    monkeypatch.setattr(records, "_KEPT_BYTES", 0)
    read = Records(tiny_data)
    for name, array in read.gather(TRAIN, np.array([40, 2, 2])).items():
        np.testing.assert_array_equal(array, kept[name])
    assert not read._kept


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
        meta.write_text('{"format": 2}')
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
    "not ours": "meta.json was not written by alexnet_jax.prepare",
    "nearly ours": "meta.json was not written by alexnet_jax.prepare",
    "newer": "is in format 99, and this version reads format 2",
    "truncated": r"train-00000-of-00001.array_record has \d+ bytes instead of \d+",
    "a shard missing": "train-00000-of-00001.array_record has 0 bytes instead of",
    "a flipped record": "train-00000-of-00001.array_record is damaged, its checksum is wrong",
}


@pytest.mark.parametrize("what", BAD_DATA)
def test_a_directory_that_is_not_whole_is_refused(tiny_data: Path, tmp_path: Path, what: str) -> None:
    with pytest.raises(BadInput, match=BAD_DATA[what]):
        Records(damage(tiny_data, tmp_path, what)).gather(TRAIN, np.arange(44))


def batches(data: Path, *, first: int = 0, count: int, workers: int = 0, rows: slice = slice(0, 8), seed: int = 1,
            reshuffle: bool = True) -> list[list[int]]:  # fmt: skip
    """The sums of the pixels of each image, batch by batch: enough to recognise an image."""
    stream = pipeline.training_batches(
        Records(data), OptimConfig(batch=8), seed=seed, reshuffle=reshuffle, rows=rows, first=first, workers=workers
    )
    return [next(stream)["image"].sum(axis=(1, 2, 3)).tolist() for _ in range(count)]


def test_every_epoch_shows_each_image_once_in_a_new_order(tiny_data: Path) -> None:
    shown = list(chain.from_iterable(batches(tiny_data, count=11)))
    first, second = shown[:44], shown[44:]
    everything = Records(tiny_data).gather(TRAIN, np.arange(44))["image"].sum(axis=(1, 2, 3)).tolist()
    assert sorted(first) == sorted(second) == sorted(everything)
    assert first != second
    assert first != everything
    fixed = list(chain.from_iterable(batches(tiny_data, count=11, reshuffle=False)))
    assert fixed == everything * 2


def test_batches_can_start_at_any_step(tiny_data: Path) -> None:
    whole = batches(tiny_data, count=9)
    assert batches(tiny_data, count=5, first=4) == whole[4:]
    assert batches(tiny_data, count=5, seed=2) != whole[:5]
    assert batches(tiny_data, count=5, first=4, rows=slice(2, 6)) == [batch[2:6] for batch in whole[4:]]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_does_not_change_the_batches(tiny_data: Path, workers: int) -> None:
    assert batches(tiny_data, count=5, first=4, workers=workers) == batches(tiny_data, count=9)[4:]


def test_validation_counts_each_example_once(tiny_data: Path) -> None:
    parts = list(pipeline.evaluation_batches(Records(tiny_data), 8, slice(0, 8)))
    assert [len(part["label"]) for part in parts] == [8, 8, 8]
    weight = np.concatenate([part["weight"] for part in parts])
    assert weight.tolist() == [1.0] * 21 + [0.0] * 3
    expected = Records(tiny_data).gather(VALIDATION, np.arange(21))
    for name, array in expected.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts])[:21], array)
    there = list(pipeline.evaluation_batches(Records(tiny_data), 8, slice(2, 6)))
    for part, own in zip(parts, there, strict=True):
        assert all(np.array_equal(part[name][2:6], own[name]) for name in part), "the rows of another host"


def test_jpegs_are_of_quality_95_with_chroma_at_half_the_resolution() -> None:
    """As in make-data.py of 2013. Pillow writes the same quantisation tables and sampling for these settings."""
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    expected = io.BytesIO()
    Image.fromarray(image).save(expected, "JPEG", quality=95, subsampling="4:2:0")
    ours, theirs = (Image.open(file) for file in (io.BytesIO(records.encode(image, "jpeg")), expected))
    assert ours.quantization == theirs.quantization  # type: ignore[attr-defined]
    assert [part[1:3] for part in ours.layer] == [(2, 2), (1, 1), (1, 1)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("encoding", ["raw", "png", "jpeg"])
def test_a_record_of_another_shape_is_refused(encoding: records.Encoding) -> None:
    """Also if it is smaller and would fit into the array."""
    data = bytes(records.encode(np.zeros((6, 8, 3), np.uint8), encoding))
    records.decode_into(np.empty((6, 8, 3), np.uint8), data, encoding)
    for shape in ((8, 8, 3), (6, 7, 3)):
        with pytest.raises(ValueError, match=r"shape"):
            records.decode_into(np.empty(shape, np.uint8), data, encoding)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not tell")
def test_cores_counts_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert records.cores() == 1


def test_an_interrupted_write_leaves_no_data_directory(tmp_path: Path, tiny_data: Path) -> None:
    def breaks_off() -> object:
        yield np.zeros((4, 4, 1), np.uint8), 0
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writing.write(tmp_path / "dst", {TRAIN: breaks_off()}, ["a"], "test")
    with pytest.raises(BadInput, match="there is no data directory"):
        Records(tmp_path / "dst")
    examples = [(np.zeros((4, 4, 1), np.uint8), 0)]
    writing.write(tmp_path / "dst", {TRAIN: examples, VALIDATION: examples}, ["a"], "test")
    assert [path.name for path in tmp_path.iterdir()] == ["dst"]


def test_images_of_two_shapes_are_refused(tmp_path: Path) -> None:
    examples = [(np.zeros((4, 4, 1), np.uint8), 0), (np.zeros((5, 4, 1), np.uint8), 0)]
    with pytest.raises(BadInput, match=r"an image is \(5, 4, 1\), others are \(4, 4, 1\)"):
        writing.write(tmp_path / "dst", {TRAIN: examples}, ["a"], "test")


HOST = """
import json, sys
import jax
from pathlib import Path
jax.config.update("jax_num_cpu_devices", 2)
port, rank, data = sys.argv[1:]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(rank), initialization_timeout=60)
from alexnet_jax import make_mesh
from alexnet_jax.config import OptimConfig
from alexnet_jax.data import pipeline
from alexnet_jax.data.records import Records
from alexnet_jax.networks import columns

class Watched(Records):
    read = []
    def gather(self, split, indices):
        self.read.append(len(indices))  # 0 while a small set is decoded whole
        return super().gather(split, indices)

mesh = make_mesh(2, 2)
rows = columns.rows(mesh, 8)
records = Watched(Path(data))
batches = pipeline.training_batches(
    records, OptimConfig(batch=8), seed=1, reshuffle=True, rows=rows, first=4, workers=0
)
total = jax.jit(lambda images: images.astype("int32").sum(axis=(1, 2, 3)), out_shardings=None)
sums = []
for _ in range(3):
    batch = columns.shard_batch(next(batches), mesh, 8)
    whole = jax.jit(lambda x: x, out_shardings=jax.NamedSharding(mesh, jax.P()))(total(batch["image"]))
    sums.append(whole.addressable_data(0).tolist())
print(json.dumps({"rows": [rows.start, rows.stop], "read": sorted(set(Watched.read) - {0}), "sums": sums}))
"""


def test_each_of_two_hosts_reads_its_part_of_the_same_batches(tiny_data: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", HOST, str(port)]
    hosts = [
        subprocess.Popen([*command, str(rank), str(tiny_data)], stdout=subprocess.PIPE, text=True) for rank in (0, 1)
    ]
    try:
        said = [json.loads(host.communicate(timeout=120)[0].splitlines()[-1]) for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    assert [part["rows"] for part in said] == [[0, 4], [4, 8]]
    assert [part["read"] for part in said] == [[4], [4]]
    assert said[0]["sums"] == said[1]["sums"] == batches(tiny_data, count=3, first=4)
