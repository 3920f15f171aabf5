"""Processes that write shards side by side; which of them writes which changes nothing."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_jax.config import BadInput
from alexnet_jax.data import sources
from alexnet_jax.data.writing import How, write_shard


class Task(NamedTuple):
    """A shard to write."""

    split: str
    path: Path
    pictures: list[sources.Picture]


class Stopped(Exception):
    """The command that this worker belongs to has ended or is about to."""


def write_shards(tasks: Sequence[Task], how: How, count: int | None, advance: Callable[[int], None]) -> None:
    """Writes the shards with `count` processes (by default one a core); `advance` is told how many pictures are done.

    Raises what the first failing worker raises; KeyboardInterrupt ends all of them within a picture.
    """
    count = min(count or len(os.sched_getaffinity(0)), len(tasks))
    if count <= 1:
        for task in tasks:
            write_shard(task.path, task.pictures, how, lambda: advance(1))
        return
    # Spawned: the processes that JAX's and Grain's threads live in must not be forked.
    context = multiprocessing.get_context("spawn")
    seen, stop = context.Value("Q", 0), context.Event()
    told = 0
    with ProcessPoolExecutor(count, context, _begin, (seen, stop)) as pool:
        futures = [pool.submit(_write, task, how) for task in tasks]
        try:
            waiting = set(futures)
            while waiting:
                ended, waiting = wait(waiting, timeout=0.2, return_when=FIRST_EXCEPTION)
                advance(seen.value - told)
                told = seen.value
                for future in ended:
                    future.result()
        except BrokenProcessPool:
            raise BadInput(
                "a worker was killed, perhaps for want of memory; give fewer --workers, the same command goes on"
            ) from None
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


_seen: Any = None
_stop: Any = None


def _begin(seen: Any, stop: Any) -> None:
    """In a worker, before its first shard. An interrupt from the keyboard reaches it too, but the parent decides."""
    global _seen, _stop
    _seen, _stop = seen, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _write(task: Task, how: How) -> None:
    parent = multiprocessing.parent_process()

    def tick() -> None:
        if _stop.is_set() or (parent is not None and not parent.is_alive()):
            raise Stopped
        with _seen.get_lock():
            _seen.value += 1

    write_shard(task.path, task.pictures, how, tick)
