"""Who may make a data directory, and what of it: DIR/unfinished, its lock and its plan.json.

plan.json: the command, the options that it was given, and the pictures and shards once they are known.
"""

import fcntl
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alexnet_jax.config import BadInput
from alexnet_jax.data.records import PLAN, UNFINISHED, Records, read_plan
from alexnet_jax.data.writing import replacing


def check_same(dst: Path, before: dict[str, Any], now: dict[str, Any], done: str) -> None:
    """Raises BadInput where DST was begun or prepared with other options."""
    for name, value in now.items():
        there = before.get(name)
        if there != value:
            told = f"without {name}" if there in (None, [], False) else f"with {name} {there}"
            here = f"without {name}" if value in (None, [], False) else f"with {name} {value}"
            raise BadInput(f"{dst} was {done} {told}, now it is {here}; give the same, or another directory")


@contextmanager
def claimed(dst: Path, asked: dict[str, Any], command: str) -> Iterator[Path]:
    """DST/unfinished, for this process alone; what refused input leaves of a new one is removed.

    `asked`: the options that decide what the bytes of DST are; `command`: what to repeat to go on from here.
    Raises BadInput where DST is something else, where another process is at work there, or where it was begun with
    other options.
    """
    unfinished = dst / UNFINISHED
    made, begun = not dst.exists(), is_begun(dst)
    unfinished.mkdir(parents=True, exist_ok=True)
    with (unfinished / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"another prepare is at work in {dst}; wait for its end") from None
        check_same(dst, read_plan(dst).get("asked", asked), asked, "begun")
        for path in unfinished.iterdir():  # what a killed run was writing
            if path.suffix != ".npz" and path.name not in ("lock", PLAN, "unpacked"):
                path.unlink(missing_ok=True)
        write_plan(dst, {"command": command, "asked": asked})
        try:
            yield unfinished
        except BadInput:
            if (dst / "meta.json").exists() or (not begun and "pictures" not in read_plan(dst)):
                shutil.rmtree(dst if made else unfinished)
            raise
        except KeyboardInterrupt:
            print(f"\nInterrupted; the same command goes on from here: {dst} keeps what is done.", file=sys.stderr)
            sys.exit(130)


def is_begun(dst: Path) -> bool:
    """Whether DST is whole or on its way. Raises BadInput where it is something else, which is not to be touched."""
    if not dst.exists():
        return False
    if dst.is_dir():
        unfinished = dst / UNFINISHED
        if ((dst / "meta.json").exists() and "prepared" in Records(dst).meta) or read_plan(dst):
            return True
        # Where it was killed at its very beginning there is nothing yet but this.
        others = {path.name for path in dst.iterdir()} - {UNFINISHED}
        inside = unfinished.iterdir() if unfinished.is_dir() else ()
        if not others and all(path.name == "lock" or path.name.startswith(PLAN) for path in inside):
            return False
    raise BadInput(f"{dst} exists already; give another directory or remove that one")


def write_plan(dst: Path, more: dict[str, Any]) -> None:
    """Adds to plan.json, or replaces what it says."""
    with replacing(dst / UNFINISHED / PLAN) as partial:
        partial.write_text(json.dumps(read_plan(dst) | more), encoding="utf-8")
