"""The directory of a run: who may write in it, what it holds already, and where the run continues."""

import fcntl
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alexnet_jax.config import BadInput, Config, check_local, diff, read_config, to_json
from alexnet_jax.data.records import EMBEDDED
from alexnet_jax.training import checkpoint
from alexnet_jax.training.step import State

UNFINISHED, LOCK = "config.incomplete", "lock"


def check_run(run: Path, config: Config) -> None:
    """Raises BadInput if the directory holds something else than a run with this config."""
    check_local(run)
    path = run / "config.json"
    if path.exists():
        check_same(f"{run} is a run", read_config(path), config, "give another --workdir")
    elif run.exists() and any(child.name not in (UNFINISHED, LOCK) for child in run.iterdir()):
        raise BadInput(f"{run} is not empty and not a run; give another --workdir")


def check_same(what: str, there: Config, here: Config, do: str) -> None:
    """Raises BadInput, with all that differs, if the config that is there is not the one of this run."""
    fields = ", ".join(f"{name} (was {before}, now {now})" for name, (before, now) in diff(there, here).items())
    if fields:
        raise BadInput(f"{what} with another config: {fields}; {do}")


@dataclass(frozen=True)
class Resumed:
    """Where a run continues."""

    checkpoint: checkpoint.Checkpoint
    state: State
    damaged: list[Path]
    """newer checkpoints that cannot be used"""


def resume(
    run: Path, config: Config, fingerprint: str, shapes: State, places: State, say: Callable[[str], None]
) -> Resumed | None:
    """The newest checkpoint that is whole, if there are any.

    Raises BadInput if none is, or if it is of other data or another config.
    """
    damaged: list[Path] = []
    for place in checkpoint.newest_first(run):
        try:
            found = checkpoint.read(place)
            if found.data["fingerprint"] != fingerprint:
                if found.data["fingerprint"] is None:
                    raise BadInput(f"{run} holds weights of another program; give another --workdir and --init {run}")
                raise BadInput(f"{run} was trained on other data; give --data {found.data['path'] or EMBEDDED}")
            check_same(f"{place} is a checkpoint of a run", found.config, config, "move it elsewhere")
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
