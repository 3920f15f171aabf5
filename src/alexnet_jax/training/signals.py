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

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    def take(self) -> None:
        """From now on there is something to save. Before, in minutes of compiling, a signal acts as it always does."""
        if not self._before and threading.current_thread() is threading.main_thread():
            wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
            # None stands for a handler in another language: JAX has one if there are several processes.
            self._before = {number: signal.signal(number, self._took) or signal.SIG_DFL for number in wanted}

    def _took(self, number: int, frame: Any) -> None:
        self.stop = number
        signal.signal(number, self._before[number])

    def __enter__(self) -> "Signals":
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)


def end_by(number: int) -> None:
    """Ends the process or the notebook's cell, as the signal would have done."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
