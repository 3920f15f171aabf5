"""Batches by Grain. The records in a step's batch depend only on the seed and the step."""

import sys
from collections.abc import Iterator

import grain
import numpy as np

from alexnet_jax.config import OptimConfig
from alexnet_jax.data.records import TRAIN, VALIDATION, Records

Batch = dict[str, np.ndarray]

# Grain's default is 500 elements. Here an element is a batch, so that would be gigabytes of ImageNet.
_READ_AHEAD = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)


def training_batches(
    records: Records, optim: OptimConfig, *, seed: int, reshuffle: bool, rows: slice, first: int, workers: int
) -> Iterator[Batch]:
    """Endless batches from step `first` on: {"image": uint8 [b, H, W, C], "label": int32 [b]}.

    The global batch of step s holds the examples from s * batch on of the endless sequence of epochs, so each epoch
    shows every image once. This process reads its `rows`. `workers`: processes that read ahead, 0 for threads.
    """
    order = grain.MapDataset.range(records.examples(TRAIN)).seed(seed)
    order = order.shuffle() if reshuffle else order
    batches = order.repeat(None).batch(optim.batch).map(lambda indices: records.gather(TRAIN, indices[rows]))
    dataset = batches.slice(slice(first, None)).to_iter_dataset(_READ_AHEAD)
    if not workers:
        records.gather(TRAIN, np.arange(0))  # decode a small set now, not in two threads at once
    else:
        _let_workers_start()
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(dataset)


def _let_workers_start() -> None:
    # Grain's workers read Abseil's flags, which raise an error until they are marked as parsed.
    from absl import flags

    flags.FLAGS.mark_as_parsed()


def evaluation_batches(
    records: Records, size: int, rows: slice, split: str = VALIDATION, first: int | None = None
) -> Iterator[Batch]:
    """Every example of a split once, in order, or only the `first` so many. "weight" is 1, and 0 for padding."""
    examples = min(records.examples(split), first or sys.maxsize)
    records.gather(split, np.arange(0))  # decode a small set now, not in two threads at once

    def batch(start: int) -> Batch:
        indices = np.arange(start, start + size)[rows]
        gathered = records.gather(split, np.minimum(indices, examples - 1))
        return gathered | {"weight": (indices < examples).astype(np.float32)}

    return iter(grain.MapDataset.range(0, examples, size).map(batch).to_iter_dataset(_READ_AHEAD))
