"""One run, one process: a second one would write over the first one's files."""

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_jax.config import BadInput

LOCK = "lock"


@contextmanager
def alone_in(run: Path) -> Iterator[None]:
    """Holds the run directory, which it makes. Raises BadInput, with process and host, if another process holds it.

    The system lets go of the lock when the process ends, however it ends.
    """
    run.mkdir(parents=True, exist_ok=True)
    with open(run / LOCK, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise BadInput(
                f"{run} is in use by {file.read().strip() or 'another process'}; wait for it, or give another --workdir"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield
