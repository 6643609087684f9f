"""Stops a worker that hangs, so that it is replaced.

Workers wait for each other in every step. One that hangs, in a dead file system or a stuck GPU,
would block all of them without an error. So each worker exits if it completes no step within a
timeout; Ray then restarts all workers from the last checkpoint.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

EXIT_STATUS = 75  # "temporary failure" in sysexits.h


class Watchdog:
    """Exits the process when heartbeats stop.

    Attributes:
      activity: what the worker is doing, for the log.
    """

    def __init__(
        self,
        timeout_s: float,
        stop: Callable[[int], None] = os._exit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create a watchdog that does not watch yet.

        Args:
          timeout_s: longest time in seconds without a heartbeat. Work between two heartbeats, such
            as building a graph or fetching a file, must be shorter.
          stop: exits the process with a status.
          clock: returns the time in seconds.
        """
        self._timeout_s = timeout_s
        self._stop = stop
        self._clock = clock
        self._last = clock()
        self._suspensions = 0
        self.activity = "starting"

    def heartbeat(self, activity: str) -> None:
        """Record that a unit of work is complete and that `activity` starts."""
        self.activity = activity
        self._last = self._clock()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Ignore the time in the block, such as while waiting for other, watched workers."""
        self._suspensions += 1
        try:
            yield
        finally:
            self._suspensions -= 1
            self.heartbeat(self.activity)

    def check(self) -> bool:
        """Stop the process if the last heartbeat is too old; return whether it did."""
        silent_s = self._clock() - self._last
        if silent_s <= self._timeout_s or self._suspensions:
            return False
        text = f"A worker made no progress for {silent_s:.0f} s ({self.activity}); all restart."
        # In a thread: the log may be on the very disk that hangs.
        thread = threading.Thread(target=logger.error, args=(text,), daemon=True)
        thread.start()
        thread.join(5)
        self._stop(EXIT_STATUS)
        return True

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while the block runs."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(min(1.0, self._timeout_s / 4)) and not self.check():
                pass

        self.heartbeat(self.activity)
        thread = threading.Thread(target=watch, name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
