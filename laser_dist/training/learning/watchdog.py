"""Ends a worker that no longer gets anywhere, so that it is replaced.

Workers wait for each other in every step. One that hangs, in a dead file system or a stuck GPU,
so holds all of them up, alive and silent, and nothing would ever fail. Each worker therefore ends
itself when none of its steps has ended for too long; Ray then starts all of them anew, from the
last checkpoint.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EXIT_STATUS = 75  # "temporary failure", of sysexits.h


class Watchdog:
    """Waits for signs of life.

    Attributes:
      doing: what the worker is at, for the line that is told in the end.
    """

    def __init__(
        self,
        timeout_s: float,
        told: Callable[[str], None],
        end: Callable[[int], None] = os._exit,
    ) -> None:
        """Waits for nothing yet.

        Args:
          timeout_s: how long no sign of life is borne; what is under way when the first step of
            anything is prepared (a graph is built, a file fetched) counts as well.
          told: given a line for people before the end.
          end: of the process, given its exit status.
        """
        self._timeout_s = timeout_s
        self._told = told
        self._end = end
        self._last = time.monotonic()
        self._pauses = 0
        self.doing = "starting"

    def beat(self, doing: str) -> None:
        """A sign of life: something has ended, and `doing` begins."""
        self.doing = doing
        self._last = time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A block whose length says nothing: who is waited for is watched where it runs."""
        self._pauses += 1
        try:
            yield
        finally:
            self._pauses -= 1
            self.beat(self.doing)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches while the block runs."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(min(1.0, self._timeout_s / 4)):
                silent_s = time.monotonic() - self._last
                if silent_s > self._timeout_s and not self._pauses:
                    self._tell(
                        f"a worker has got nowhere for {silent_s:.0f} s ({self.doing}), "
                        "all are started anew"
                    )
                    self._end(EXIT_STATUS)
                    return

        self.beat(self.doing)
        thread = threading.Thread(target=watch, name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _tell(self, line: str) -> None:
        # Where it is told may be the very disk that hangs.
        thread = threading.Thread(target=self._told, args=(line,), daemon=True)
        thread.start()
        thread.join(5)
