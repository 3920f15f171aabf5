"""Ending a run cleanly when it is interrupted."""

import signal
import sys
import threading
from typing import Any


class Signals:
    """Lets the current step finish before the run ends. A second signal of the same kind ends it at once.

    The signals are SIGINT, SIGTERM, and SIGUSR1, with which SLURM warns of the end of a job.

    Only the main thread can handle signals; in other threads this does nothing.
    """

    stop = 0
    """the signal received, 0 for none"""

    def __enter__(self) -> "Signals":
        wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        taken = wanted if threading.current_thread() is threading.main_thread() else ()
        # None stands for a handler in another language: JAX has one if there are several processes.
        self._before = {number: signal.signal(number, self._take) or signal.SIG_DFL for number in taken}
        return self

    def _take(self, number: int, frame: Any) -> None:
        self.stop = number
        signal.signal(number, self._before[signal.Signals(number)])

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)


def end_by(number: int) -> None:
    """Ends the process or the notebook's cell, as the signal would have done."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
