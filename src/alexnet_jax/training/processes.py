"""A run of several processes, on JAX's own runtime: what the first does for all, and what all agree on."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from alexnet_jax.config import BadInput
from alexnet_jax.networks import columns

HEARTBEAT, SHUTDOWN = 30, 30
"""seconds after which a process that is silent counts as dead, and for which one that ends waits for the others"""


def start(coordinator: str | None, count: int | None, number: int | None, wait: float) -> None:
    """Joins the processes of a run, at most `wait` seconds long. Must run before a device is first used.

    coordinator: HOST:PORT of process 0. count: how many there are. number: this one's, from 0. With None for all three,
    JAX asks SLURM, Open MPI, Kubernetes or Cloud TPU. Raises BadInput if they do not come together; if time is up, the
    sentence is printed and the process ends with exit code 2.
    """
    if count is not None and not 0 <= (number or 0) < count:
        raise BadInput(f"--process {number} is not one of --processes {count}, which have the numbers 0 to {count - 1}")

    def give_up() -> None:
        hint = "; a loopback address is for processes on one machine" if coordinator and _loopback(coordinator) else ""
        others = "the others" if not number else f"process 0 at {coordinator}"
        _end(f"process {number or 0} has waited {wait:g} s for {others}; start all with the same options{hint}", 2)

    # JAX would abort with a stack trace. So its patience is longer than ours.
    timer = threading.Timer(wait, give_up)
    timer.daemon = True
    timer.start()
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from us
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            number,
            initialization_timeout=round(wait) + 60,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=SHUTDOWN,
        )
    except (RuntimeError, ValueError) as error:
        where = "" if coordinator else " (no job of SLURM, Open MPI, Kubernetes or Cloud TPU is found here)"
        raise BadInput(f"the processes cannot be joined: {str(error).splitlines()[0].rstrip('.')}{where}") from error
    finally:
        timer.cancel()


def lost(error: jax.errors.JaxRuntimeError) -> NoReturn:
    """Ends this process, with a sentence, after what all processes do together has failed."""
    reason = str(error).strip().splitlines()[0][:200]
    _end(
        f"what all processes do together has failed, most likely because another one has ended ({reason}); "
        f"repeat the command in every process to continue",
        1,
    )


def _end(sentence: str, code: int) -> NoReturn:
    """Ends the process without waiting for the others."""
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)


def _loopback(address: str) -> bool:
    return address.startswith(("127.", "localhost", "[::1]"))


def first() -> bool:
    """Whether this process speaks and writes for all."""
    return jax.process_index() == 0


@contextmanager
def first_in(context: AbstractContextManager[None]) -> Iterator[None]:
    """Enters the context in the first process alone. A BadInput that it raises there is raised in all."""
    with ExitStack() as stack:
        refusal = ""
        if first():
            try:
                stack.enter_context(context)
            except BadInput as error:
                refusal = str(error)
        refusal = from_first(refusal)
        if refusal:
            raise BadInput(refusal)
        yield


def from_first(text: str) -> str:
    """The first process's text, in all of them."""
    if jax.process_count() == 1:
        return text
    size = 4096
    own = np.frombuffer(text.encode()[:size].ljust(size, b"\0"), np.uint8)
    shared = multihost_utils.broadcast_one_to_all(own)
    return bytes(np.asarray(shared)).rstrip(b"\0").decode(errors="ignore")


class Agreed:
    """The largest of every process's numbers, so that all end and save at the same step.

    It comes one step late if there are several processes: then nobody waits for it.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._pending: jax.Array | None = None

    def __call__(self, number: int) -> int:
        if jax.process_count() == 1:
            return number
        before, self._pending = self._pending, columns.largest(number, self._mesh)
        return 0 if before is None else int(before)
