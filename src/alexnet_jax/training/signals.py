"""Ending a run in good order when it is interrupted."""

import signal
import sys
import threading
from typing import Any


class Signals:
    """Lets a step end before an interrupt or a request to terminate ends the run; a second one does not wait.

    Only the main thread of a process can take signals; elsewhere nothing changes.
    """

    stop = 0
    """the signal that asked for the end, 0 for none"""

    def __enter__(self) -> "Signals":
        taken = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        self._before = {number: signal.signal(number, self._take) for number in taken}
        return self

    def _take(self, number: int, frame: Any) -> None:
        self.stop = number
        signal.signal(number, self._before[signal.Signals(number)])

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def end(self) -> None:
        """Ends the process, or the notebook's cell, as the signal would have done at once."""
        if self.stop == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + self.stop)
