"""Processes that write shards in parallel. The result does not depend on which process writes which shard."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_jax.config import BadInput
from alexnet_jax.data import sources
from alexnet_jax.data.records import cores
from alexnet_jax.data.writing import How, write_shard


class Task(NamedTuple):
    """A shard to write."""

    split: str
    path: Path
    pictures: list[sources.Picture]


class Stopped(Exception):
    """This worker's command is about to end."""


def write_shards(tasks: Sequence[Task], how: How, count: int | None, advance: Callable[[int], None]) -> None:
    """Writes the shards with `count` processes (by default one per core). `advance` is called with the images done.

    Raises what the first failing worker raises. KeyboardInterrupt ends all of them within one image.
    """
    count = min(count or cores(), len(tasks))
    if count <= 1:
        for task in tasks:
            write_shard(task.path, task.pictures, how, lambda: advance(1))
        return
    # Spawned, as a process with JAX's and Grain's threads must not be forked.
    context = multiprocessing.get_context("spawn")
    seen, stop = context.Value("Q", 0), context.Event()
    told = 0
    with ProcessPoolExecutor(count, context, _begin, (seen, stop)) as pool:
        # Ctrl-C reaches the workers too, but this process decides, so they are started with SIGINT ignored.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        futures = [pool.submit(_write, task, how) for task in tasks]
        signal.signal(signal.SIGINT, before)
        try:
            waiting = set(futures)
            while waiting:
                ended, waiting = wait(waiting, timeout=0.2, return_when=FIRST_EXCEPTION)
                now = seen.value
                advance(now - told)
                told = now
                for future in ended:
                    future.result()
        except BrokenProcessPool:
            raise BadInput(
                "a worker was killed, perhaps for lack of memory; give fewer --workers, and the same command continues"
            ) from None
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


_seen: Any = None
_stop: Any = None


def _begin(seen: Any, stop: Any) -> None:
    """Runs in a worker before its first shard."""
    global _seen, _stop
    _seen, _stop = seen, stop
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """Ends the worker when its parent is killed. It would wait for tasks forever, as it holds both ends of the pipe."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _write(task: Task, how: How) -> None:
    def tick() -> None:
        if _stop.is_set():
            raise Stopped
        with _seen.get_lock():
            _seen.value += 1

    write_shard(task.path, task.pictures, how, tick)
