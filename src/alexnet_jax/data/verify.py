"""Checks that a data directory still holds what was written into it."""

from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource

from alexnet_jax.data.records import Records, decode_into, sha256


def check_file(records: Records, name: str) -> tuple[list[str], list[int]]:
    """What is wrong with a file of the set, as text, and how many records of each class it holds.

    Every record of a shard is read, compared with ArrayRecord's checksum, and decoded.
    """
    path = records.directory / name
    whole = sha256(path) == records.meta["files"][name]["sha256"]
    wrong, per_class = _check_records(records, path) if path.suffix == ".array_record" else ([], [])
    if not whole and not wrong:
        wrong = [f"{path} is damaged: its checksum is wrong"]
    return wrong, per_class


def _check_records(records: Records, path: Path) -> tuple[list[str], list[int]]:
    wrong, per_class = [], [0] * len(records.classes)
    image_HWC = np.empty(records.image_shape, np.uint8)
    try:
        shard = ArrayRecordDataSource([str(path)])
        count = len(shard)
    except Exception as error:  # a damaged index raises many kinds
        return [f"{path} is damaged in its index: {_line(error)}"], per_class
    for number in range(count):
        try:
            example: dict[str, Any] = msgpack.unpackb(shard[number])
            decode_into(image_HWC, example["image"], records.meta["encoding"])
            per_class[example["label"]] += 1
        except Exception as error:  # ArrayRecord, msgpack and the decoders raise many kinds for damaged bytes
            wrong.append(f"{path} is damaged in record {number}: {_line(error)}")
    return wrong, per_class


def check_counts(records: Records, counted: dict[str, list[int]]) -> list[str]:
    """Where the counts of meta.json differ from those of the shards, as text. `counted` is by file and class."""
    wrong = []
    for split, about in records.meta["splits"].items():
        found = np.sum([counted[shard] for shard in about["shards"]], axis=0).tolist()
        for name, there, said in zip(records.classes, found, about["per_class"], strict=True):
            if there != said:
                wrong.append(f"{records.directory} holds {there} {split} records of {name!r}, meta.json says {said}")
        if sum(found) != about["examples"]:
            wrong.append(f"{records.directory} holds {sum(found)} {split} records, meta.json says {about['examples']}")
    return wrong


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
