"""The directory of a run: who may write in it, what it holds already, and where the run continues."""

import fcntl
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alexnet_jax.config import BadInput, Config, diff, from_json, to_json
from alexnet_jax.data.records import EMBEDDED
from alexnet_jax.training import checkpoint
from alexnet_jax.training.step import State

UNFINISHED, LOCK = "config.incomplete", "lock"


def check_run(run: Path, config: Config) -> None:
    """Raises BadInput if the directory holds something else than a run with this config."""
    path = run / "config.json"
    if path.exists():
        other = diff(from_json(path.read_text()), config)
        if other:
            fields = ", ".join(f"{name} (was {there}, now {here})" for name, (there, here) in other.items())
            raise BadInput(f"{run} is a run with another config: {fields}; give another --workdir")
    elif run.exists() and any(child.name not in (UNFINISHED, LOCK) for child in run.iterdir()):
        raise BadInput(f"{run} is not empty and not a run; give another --workdir")


@dataclass(frozen=True)
class Resumed:
    """Where a run continues."""

    checkpoint: checkpoint.Checkpoint
    state: State
    damaged: list[Path]
    """newer checkpoints that cannot be used"""


def resume(run: Path, fingerprint: str, shapes: State, places: State, say: Callable[[str], None]) -> Resumed | None:
    """The newest checkpoint that is whole, if there are any. Raises BadInput if none is, or if the data is other."""
    damaged: list[Path] = []
    for place in checkpoint.newest_first(run):
        try:
            found = checkpoint.read(place)
            if found.data["fingerprint"] != fingerprint:
                if found.data["fingerprint"] is None:
                    raise BadInput(f"{run} holds weights of another program; give another --workdir and --init {run}")
                raise BadInput(f"{run} was trained on other data; give --data {found.data['path'] or EMBEDDED}")
            return Resumed(found, found.state(shapes, places), damaged)
        except checkpoint.Damaged as error:
            say(f"{error}.")
            damaged.append(place)
    if damaged:
        raise BadInput(f"no checkpoint of {run} is whole; give another --workdir, or remove {run} to start again")
    return None


@contextmanager
def run_directory(run: Path, config: Config, resumed: Resumed | None) -> Iterator[None]:
    """Holds the run directory and makes it ready. Raises BadInput if another process uses it, or has just used it."""
    with alone_in(run):
        expected = [*resumed.damaged, resumed.checkpoint.path] if resumed else []
        if checkpoint.newest_first(run)[: len(expected) or None] != expected:
            raise BadInput(f"{run} has changed in the meantime; repeat the command")
        for place in resumed.damaged if resumed else ():
            checkpoint.set_aside(place)
        (run / UNFINISHED).write_text(to_json(config))
        (run / UNFINISHED).rename(run / "config.json")
        yield


@contextmanager
def alone_in(run: Path) -> Iterator[None]:
    """Holds the run directory, which it makes. Raises BadInput, with process and host, if another process holds it.

    The system lets go of the lock when the process ends, however it ends. A file system without locks is not held.
    """
    run.mkdir(parents=True, exist_ok=True)
    with open(run / LOCK, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise BadInput(
                f"{run} is in use by {file.read().strip() or 'another process'}; wait for it, or give another --workdir"
            ) from None
        except OSError:  # this file system has no locks
            pass
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield
