"""The claim of one process on an unfinished data directory: DIR/unfinished, its lock and its plan.json.

plan.json: the command, its options, and the images and shards once they are known.
"""

import fcntl
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alexnet_jax.config import BadInput, check_local
from alexnet_jax.data.records import PLAN, UNFINISHED, Records, read_plan
from alexnet_jax.data.writing import replacing


def check_same(dst: Path, before: dict[str, Any], now: dict[str, Any], done: str) -> None:
    """Raises BadInput if DST was begun or prepared with other options."""
    for name, value in now.items():
        there = before.get(name)
        if there != value:
            told = f"without {name}" if there in (None, [], False) else f"with {name} {there}"
            here = f"without {name}" if value in (None, [], False) else f"with {name} {value}"
            raise BadInput(f"{dst} was {done} {told}, now it is {here}; give the same, or another directory")


@contextmanager
def claimed(dst: Path, asked: dict[str, Any], command: str) -> Iterator[Path]:
    """DST/unfinished, for this process only. If the input is rejected, a new directory is removed again.

    `asked`: the options that decide the bytes of DST. `command`: the command to repeat in order to continue. Raises
    BadInput if DST is something else, if another process works there, or if it was begun with other options.
    """
    unfinished = dst / UNFINISHED
    made, begun = not dst.exists(), is_begun(dst)
    unfinished.mkdir(parents=True, exist_ok=True)
    with (unfinished / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"another prepare is writing {dst}; wait until it ends") from None
        check_same(dst, read_plan(dst).get("asked", asked), asked, "begun")
        for path in unfinished.iterdir():  # files that a killed run was writing
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
            print(f"\nInterrupted; the same command continues from here. {dst} keeps what is done.", file=sys.stderr)
            sys.exit(130)


def is_begun(dst: Path) -> bool:
    """Whether DST is complete or begun. Raises BadInput if it is something else, which must not be touched."""
    check_local(dst)
    if not dst.exists():
        return False
    if dst.is_dir():
        unfinished = dst / UNFINISHED
        if ((dst / "meta.json").exists() and "prepared" in Records(dst).meta) or read_plan(dst):
            return True
        # If prepare was killed right at its start, there is nothing else yet.
        others = {path.name for path in dst.iterdir()} - {UNFINISHED}
        inside = unfinished.iterdir() if unfinished.is_dir() else ()
        if not others and all(path.name == "lock" or path.name.startswith(PLAN) for path in inside):
            return False
    raise BadInput(f"{dst} already exists; give another directory or remove that one")


def write_plan(dst: Path, more: dict[str, Any]) -> None:
    """Adds entries to plan.json or replaces them."""
    with replacing(dst / UNFINISHED / PLAN) as partial:
        partial.write_text(json.dumps(read_plan(dst) | more), encoding="utf-8")
