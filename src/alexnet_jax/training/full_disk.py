"""A run directory that can no longer be written, such as on a full disk: one sentence instead of many tracebacks."""

import errno
import gc
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from alexnet_jax.config import BadInput

# What the system says about a write, and not about a name or about permissions.
_REASONS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE}


@contextmanager
def writing_to(run: Path) -> Iterator[None]:
    """Raises BadInput if the system refuses a write to the run directory."""
    with ExitStack() as now, ExitStack() as later:
        _silence_threads(now, later)
        try:
            yield
        except BadInput:
            raise
        except (KeyboardInterrupt, SystemExit):  # its threads may still be at work while Python shuts down
            later.pop_all()
            raise
        except Exception as error:
            reason = refusal(error)
            if reason is None:
                raise
            gc.collect()
            later.pop_all()
            raise BadInput(
                f"{run} cannot be written: {reason}; its last checkpoint is whole, and the same command continues "
                f"from there as soon as it can write again"
            ) from None


def refusal(error: BaseException | None) -> str | None:
    """Why the system refused a write, "No space left on device"; None if the error has another cause."""
    while error:
        # TensorStore raises a ValueError with the number in its text.
        named = re.search(r"os_error_code='(\d+)'", str(error))
        number = int(named[1]) if named else getattr(error, "errno", None)
        if number in _REASONS:
            return os.strerror(number)
        error = error.__cause__ or error.__context__
    return None


def _silence_threads(now: ExitStack, later: ExitStack) -> None:
    """Orbax and TensorStore write in threads of their own. Where the run waits for a write, they raise its failure.

    That is enough, but they also log it, print it from those threads, and leave coroutines that complain when they are
    collected. Some of that comes late. What restores the hooks is pushed on `now`, or on `later` if it concerns those.
    """
    before = sys.excepthook

    def keeps(record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR

    def of_others(*error: Any) -> None:  # TensorStore calls it, in any thread, about a write that nobody waits for
        if str(error[1]) != "Event loop is closed":
            before(*error)

    def silent(*_: Any) -> None:
        pass

    now.callback(setattr, sys, "unraisablehook", sys.unraisablehook)
    now.callback(setattr, threading, "excepthook", threading.excepthook)
    later.callback(setattr, sys, "excepthook", before)
    sys.excepthook, sys.unraisablehook, threading.excepthook = of_others, silent, silent
    for logger in (logging.getLogger(name) for name in ("absl", "asyncio")):
        logger.addFilter(keeps)
        later.callback(logger.removeFilter, keeps)
